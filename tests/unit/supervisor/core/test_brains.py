"""Whether a keeper starts its brain again: each case, and any row of ends against the table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dims.supervisor.core.brains import (
    DELAYS_S,
    STABLE_S,
    TRIES_TO_STOP,
    Brains,
    EndAll,
    GiveUp,
    StartAgain,
    after_end,
)

SOON_S = 1.0
NEW = Brains()
UP = Brains(was_up=True)

End = tuple[float, bool, bool]
"""How long a brain lived, whether its exit code is permanent, whether the fleet is to stop."""
ends = st.lists(
    st.tuples(
        st.sampled_from([0.0, SOON_S, STABLE_S, STABLE_S + 0.001, 1e9]),
        st.booleans(),
        st.booleans(),
    )
)


def answers(brains: Brains, row: list[End]) -> list[object]:
    """What follows each end of the row."""
    told: list[object] = []
    for lived_s, is_permanent, is_stopping in row:
        brains, answer = after_end(
            brains, lived_s, is_permanent=is_permanent, is_stopping=is_stopping
        )
        told.append(answer)
    return told


def crashes(number: int, *, lived_s: float = SOON_S, stops: bool = False) -> list[End]:
    return [(lived_s, False, stops)] * number


def in_a_row(row: list[End], place: int) -> int:
    """How many ends before that one count with it: those since the last brain that lived long."""
    stable = [n for n in range(place + 1) if row[n][0] > STABLE_S]
    return place - max(stable, default=0)


def test_brains_that_end_soon_are_started_again_later_and_later() -> None:
    expected = [StartAgain(delay_s) for delay_s in (*DELAYS_S, DELAYS_S[-1], DELAYS_S[-1])]
    assert answers(NEW, crashes(len(expected))) == expected
    assert DELAYS_S[0] == 0.0, "the bots are without a brain meanwhile"


def test_a_brain_that_lived_long_makes_good_for_those_before_it() -> None:
    assert answers(NEW, [*crashes(9), *crashes(1, lived_s=STABLE_S + 1), *crashes(1)])[-2:] == [
        StartAgain(DELAYS_S[0]),
        StartAgain(DELAYS_S[1]),
    ]


def test_one_that_lived_just_not_long_enough_does_not() -> None:
    assert answers(NEW, crashes(2, lived_s=STABLE_S)) == [
        StartAgain(DELAYS_S[0]),
        StartAgain(DELAYS_S[1]),
    ]


@pytest.mark.parametrize("stops", [False, True])
def test_a_permanent_fault_before_any_brain_served_ends_it_all(stops: bool) -> None:
    brains = Brains(tries=9)
    assert after_end(brains, SOON_S, is_permanent=True, is_stopping=stops) == (brains, GiveUp())


def test_once_a_brain_has_served_no_fault_is_permanent() -> None:
    """The bots of its fleet run: somebody spoilt a file meanwhile, and may mend it."""
    assert answers(UP, [(SOON_S, True, False)] * 3) == answers(UP, crashes(3))


def test_a_fleet_that_is_to_stop_gets_a_few_brains_to_do_it_and_is_then_ended() -> None:
    told = answers(UP, crashes(TRIES_TO_STOP + 1, stops=True))
    assert told == [*(StartAgain(DELAYS_S[n]) for n in range(TRIES_TO_STOP)), EndAll()]


def test_crashes_of_long_ago_take_no_brain_from_a_fleet_that_is_to_stop() -> None:
    row = [*crashes(9), *crashes(1, lived_s=1e6, stops=True)]
    assert answers(UP, row)[-1] == StartAgain(DELAYS_S[0])


@given(row=ends, was_up=st.booleans())
def test_the_same_ends_give_the_answers_of_the_table(row: list[End], was_up: bool) -> None:
    """A row is judged again from its whole history, where the keeper remembers a number."""
    for place, answer in enumerate(answers(Brains(was_up=was_up), row)):
        _, is_permanent, is_stopping = row[place]
        if is_permanent and not was_up:
            assert answer == GiveUp()
            # The keeper leaves: what follows has no meaning.
            return
        tries = in_a_row(row, place)
        if is_stopping and tries >= TRIES_TO_STOP:
            assert answer == EndAll()
            return
        assert answer == StartAgain(DELAYS_S[min(tries, len(DELAYS_S) - 1)])
