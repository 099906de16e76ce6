"""Which bots an operator means."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dims.errors import UsageError
from dims.supervisor.brain.requests.operators import matching
from dims.supervisor.core.facts import UnitId

ADA, ADAM, BOB = UnitId("ada"), UnitId("adam"), UnitId("bob")
KNOWN = [ADA, ADAM, BOB]


class Looked(list[UnitId]):
    """Counts how often somebody went through it."""

    times = 0

    def __iter__(self) -> Iterator[UnitId]:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["*"], KNOWN),
        (["ada"], [ADA]),
        (["ada*"], [ADA, ADAM]),
        (["b?b", "ada", "a*"], [BOB, ADA, ADAM]),
        (["[ab]*m"], [ADAM]),
    ],
)
def test_ids_and_globs_name_each_bot_once_in_order(
    patterns: list[str], meant: list[UnitId]
) -> None:
    assert matching(patterns, KNOWN) == meant


@pytest.mark.parametrize("patterns", [[], ["carl"], ["ada", "c*"]])
def test_who_names_nobody_is_told(patterns: list[str]) -> None:
    with pytest.raises(UsageError):
        matching(patterns, KNOWN)


def test_a_fleet_that_is_named_bot_by_bot_is_looked_through_once() -> None:
    known = Looked(UnitId(f"bot-{number}") for number in range(1_000))
    assert matching(list(known), known) == list(known)
    assert known.times <= 5
