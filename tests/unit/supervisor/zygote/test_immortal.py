"""Whether this very interpreter counts as it is believed to; skip-free, whatever runs the suite."""

from __future__ import annotations

import sys
from sys import getrefcount

from dims.supervisor.zygote.immortal import AT_ONCE, IMMORTAL, Counts, doubt, this_interpreter
from dims.supervisor.zygote.interpreters import VERSIONS, refusal

IS_KNOWN = sys.version_info[:2] in VERSIONS


def test_this_interpreter_is_refused_or_beyond_doubt() -> None:
    assert bool(refusal(this_interpreter())) is not IS_KNOWN
    assert bool(doubt()) is not IS_KNOWN


def test_doubt_says_what_it_saw() -> None:
    assert IS_KNOWN or doubt() == f"None is counted: {getrefcount(None)}"


def test_as_many_counts_as_one_call_takes_are_written() -> None:
    lists: list[list[int]] = [[] for _ in range(AT_ONCE)]
    with Counts() as counts:
        counts.write(lists)
    # Where the count is a plain number it is one as well: as large, and counted on.
    assert {getrefcount(one) >= IMMORTAL for one in lists} == {True}
    held = [lists] * 3
    assert (getrefcount(held[0][0]) == IMMORTAL) is IS_KNOWN
