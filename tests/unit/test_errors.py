"""What an error says in a log, where there is no room for a second line."""

from __future__ import annotations

from dims.errors import DimsError, with_hint


def test_a_hint_follows_the_message_and_without_one_there_are_no_brackets() -> None:
    assert with_hint(DimsError("it broke", hint="mend it")) == "it broke (mend it)"
    assert with_hint(DimsError("it broke")) == "it broke"
