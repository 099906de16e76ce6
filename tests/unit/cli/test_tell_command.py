"""`dims bot tell`: how words become a body, and answers become lines."""

from __future__ import annotations

from typing import Any

import pytest

from dims.cli.commands.tell import lines, plain, read_values
from dims.errors import UsageError


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ([], {}),
        (["level=debug", "for_s=60"], {"level": "debug", "for_s": 60}),
        (["entities=123,@alice, -1001"], {"entities": [123, "@alice", -1001]}),
        (["entities=5"], {"entities": [5]}),
        (['entities=[1, "@a"]'], {"entities": [1, "@a"]}),
        (["entities="], {"entities": []}),
        (["logger="], {"logger": ""}),
        (["a=b=c"], {"a": "b=c"}),
        (["a=true", "b=null", 'c="1"'], {"a": True, "b": None, "c": "1"}),
        (["a=NaN", "b=1e999", "c=-Infinity"], {"a": "NaN", "b": "1e999", "c": "-Infinity"}),
    ],
)
def test_values_are_json_where_they_parse_and_text_where_not(
    words: list[str], body: dict[str, Any]
) -> None:
    assert read_values(words) == body


@pytest.mark.parametrize("words", [["debug"], ["=1"], ["a=1", "a=2"]])
def test_words_that_are_no_values_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        read_values(words)


def test_an_answer_that_no_command_gives_is_shown_as_it_is() -> None:
    for command in ("reload", "warm", "drop-caches", "log-level", "drain", "dump"):
        assert lines(command, {"made up": [1], "x": None}) == ["made up  [1]", "x        -"]
    assert lines("readings", {}) == []
    huge = {"dropped": 1, "kept": 1, "unshared_bytes_before": 10**400, "unshared_bytes_after": 1}
    assert lines("drop-caches", huge)[0].startswith("dropped")


def test_nothing_in_an_answer_steers_the_terminal() -> None:
    assert plain("a\tb\n\x1b[2J\u202e") == "a\tb\n\ufffd[2J\ufffd"
