"""What the brain keeps: the newest events of each unit, and a file that is read or refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import State
from dims.supervisor.brain.store import EVENTS_PER_UNIT, Store
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.orders import Tell
from dims.supervisor.core.states import Cause

IN_STEP = [UnitId(f"bot/{name}") for name in ("ada", "bob", "cleo", "dan")]
OTHER = UnitId("bot/eve")


def crash(unit: UnitId, number: int) -> Tell:
    return Tell(
        unit,
        Incarnation(number),
        State.BACKING_OFF,
        f"crash {number}",
        FailureClass.CRASH,
        Cause.FAILED_FOR_NOW,
    )


def kept(store: Store, unit: UnitId) -> list[str]:
    return [event.reason for event in store.events(unit, 100 * EVENTS_PER_UNIT)]


def test_each_of_units_that_crash_in_step_keeps_its_newest_events(tmp_path: Path) -> None:
    last = 3 * EVENTS_PER_UNIT
    newest = [f"crash {number}" for number in range(last - EVENTS_PER_UNIT + 1, last + 1)]
    with closing(Store(tmp_path / "state.db")) as store:
        for number in range(1, last + 1):
            for unit in IN_STEP:
                store.tell(crash(unit, number), 0.0)
        assert {unit: kept(store, unit) for unit in IN_STEP} == dict.fromkeys(IN_STEP, newest)


def test_brains_that_each_end_soon_keep_no_more_events(tmp_path: Path) -> None:
    for life in range(4):
        with closing(Store(tmp_path / "state.db")) as store:
            for number in range(EVENTS_PER_UNIT - 1):
                store.tell(crash(OTHER, number), float(life))
            assert len(kept(store, OTHER)) <= EVENTS_PER_UNIT
