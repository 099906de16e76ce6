"""Errors on their way between processes: what one side raised, the other raises."""

from __future__ import annotations

from typing import Any

import pytest

from dims.errors import (
    ConfigError,
    DimsError,
    FullError,
    NotRunningError,
    ProtocolError,
    RefusedError,
    UsageError,
)
from dims.ipc.wire.answers import error_body, error_from


class SpecialError(UsageError):
    """A class that only one module knows."""


def seen(error: DimsError) -> tuple[type[DimsError], str, str]:
    return type(error), str(error), error.hint


@pytest.mark.parametrize(
    "error",
    [
        DimsError("what"),
        NotRunningError("nobody is here", hint="start it"),
        RefusedError("no", hint=""),
        ConfigError(["one", "two"], hint="mend both"),
        FullError("no room", hint="wait", retry_after_s=2.5),
    ],
)
def test_an_error_arrives_as_it_was_raised(error: DimsError) -> None:
    assert seen(error_from(error_body(error))) == seen(error)


def test_what_an_error_holds_beside_its_message_arrives_too() -> None:
    full = error_from(error_body(FullError("no room", retry_after_s=2.5)))
    assert isinstance(full, FullError)
    assert full.retry_after_s == 2.5
    wrong = error_from(error_body(ConfigError(["one", "two"])))
    assert isinstance(wrong, ConfigError)
    assert wrong.faults == ["one", "two"]


def test_only_what_can_be_tried_again_says_when() -> None:
    assert error_body(RefusedError("no", hint="ask")) == {
        "type": "RefusedError",
        "message": "no",
        "hint": "ask",
    }


def test_a_class_of_one_module_is_told_as_what_it_is_to_all() -> None:
    assert error_body(SpecialError("no"))["type"] == "UsageError"


def test_a_time_that_is_none_is_a_second() -> None:
    full = error_from({"type": "FullError", "message": "no room", "retry_after_s": "soon"})
    assert isinstance(full, FullError)
    assert full.retry_after_s == 1.0


@pytest.mark.parametrize("type_", ["ValueError", "annotations", "ClassVar", "error", None, 7])
def test_what_is_no_error_of_ours_broke_the_protocol(type_: Any) -> None:
    error = error_from({"type": type_, "message": "why", "hint": "what now"})
    assert seen(error) == (ProtocolError, "why", "what now")


def test_an_error_that_says_nothing_is_still_one() -> None:
    assert seen(error_from({})) == (ProtocolError, "unknown error", "")
