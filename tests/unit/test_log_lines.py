"""Logs without secrets: the redactor, the formatter, and what bot code prints."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import pytest

from dims.logs import CleanStream, JsonFormatter, Redactor, one_line

TOKEN = "7000001001:AbCdEfGhIjKlMnOpQrStUvWxYz_123-1001"
HASH = TOKEN.partition(":")[2]


def formatted(message: str, secrets: tuple[str, ...], **options: object) -> dict[str, Any]:
    record = logging.LogRecord("bot.x", logging.INFO, __file__, 1, message, (), None)
    record.__dict__.update(options)
    line = JsonFormatter({"bot": "x"}, Redactor(secrets)).format(record)
    assert "\n" not in line
    for secret in secrets:
        assert secret not in line
    said: dict[str, Any] = json.loads(line)
    return said


def test_every_secret_is_replaced_wherever_it_stands() -> None:
    clean = Redactor((TOKEN, HASH)).clean
    assert clean(f"a {TOKEN} b {HASH}{TOKEN} c") == "a *** b ****** c"
    assert clean("nothing here") == "nothing here"


def test_a_secret_within_another_leaves_no_rest_of_it() -> None:
    assert Redactor((HASH, TOKEN)).clean(TOKEN) == "***"


def test_a_line_is_one_json_object_with_its_extra_fields() -> None:
    line = formatted("two\nlines", (), number=3, nested={"a": [1]})
    assert line["message"] == "two\nlines"
    assert (line["bot"], line["level"], line["logger"]) == ("x", "INFO", "bot.x")
    assert (line["number"], line["nested"]) == (3, {"a": [1]})
    assert line["at"].endswith("Z")


def test_an_exception_is_in_the_line_and_its_secrets_are_not() -> None:
    error = RuntimeError(f"with {TOKEN}")
    line = formatted("failed", (TOKEN,), exc_info=(RuntimeError, error, None))
    assert "RuntimeError: with ***" in line["error"]


@pytest.mark.parametrize("secret", ['pass"word"of 1', "back\\slash-16-long", "tab\tin-the-middle"])
def test_a_secret_that_json_writes_differently_is_found_all_the_same(secret: str) -> None:
    line = formatted(f"says {secret}", (secret,), field=[secret])
    assert (line["message"], line["field"]) == ("says ***", ["***"])


def test_what_no_json_can_hold_is_written_as_text() -> None:
    assert formatted("x", (), thing=object())["thing"].startswith("<object")


def test_prints_are_written_line_by_line_without_secrets() -> None:
    reading, writing = os.pipe()
    stream = CleanStream(writing, Redactor((TOKEN,)))
    print("token", TOKEN[:10], sep=": ", end="", file=stream)
    print(TOKEN[10:], file=stream)
    print("unfinished", end="", file=stream)
    assert os.read(reading, 1_000) == b"token: ***\n"
    stream.flush()
    assert os.read(reading, 1_000) == b"unfinished"
    assert stream.fileno() == writing
    assert stream.writable()
    stream.close()
    os.close(reading)
    os.close(writing)


def test_what_is_shown_on_one_line_steers_no_terminal() -> None:
    assert one_line("a\n b\x1b[2J\x9b1m\x07 \u202ec é") == "a b�[2J�1m� �c é"
