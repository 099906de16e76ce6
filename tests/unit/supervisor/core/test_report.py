"""Status, health and explanation of a unit in each state it can be in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from usual import POLICY

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.operator import NO_READINGS, FleetHealth, Readings
from dims.ipc.words.states import Desired, FleetLevel, State
from dims.supervisor.core import report
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.states import UnitRecord

NOW_S = 1_000.0
READY = UnitRecord(
    UnitId("echo"),
    POLICY,
    desired=Desired.RUNNING,
    state=State.READY,
    reason="may serve",
    incarnation=Incarnation(2),
    alive=True,
    pid=7,
    spawned_s=900.0,
    ready_s=900.25,
)
STOPPED = UnitRecord(UnitId("old"), POLICY)


def test_a_ready_bot_has_all_its_readings() -> None:
    status = report.unit_status(READY, Readings(5, 0.5, 9), NOW_S, 12.5)
    assert (status.uptime_s, status.ready_s) == (100.0, 0.25)
    assert (status.unshared_bytes, status.loop_lag_s, status.updates) == (5, 0.5, 9)
    assert status.cpu_percent == 12.5
    assert status.retry_in_s is None


def test_a_bot_without_a_process_has_none() -> None:
    ended = replace(READY, alive=False, pid=None, ready_s=None, state=State.STOPPED)
    status = report.unit_status(ended, Readings(5, 0.5, 9), NOW_S, 12.5)
    names = ("pid", "uptime_s", "ready_s", "unshared_bytes", "loop_lag_s", "updates", "cpu_percent")
    assert [getattr(status, name) for name in names] == [None] * len(names)


def test_what_is_not_known_of_a_start_is_not_made_up() -> None:
    adopted = report.unit_status(replace(READY, spawned_s=None), NO_READINGS, NOW_S)
    assert (adopted.uptime_s, adopted.ready_s) == (None, None)


def test_a_failure_is_named_by_its_class() -> None:
    assert report.unit_status(READY, NO_READINGS, NOW_S).failure is None
    failed = replace(READY, failure=FailureClass.CRASH)
    assert report.unit_status(failed, NO_READINGS, NOW_S).failure == "crash"


def test_who_runs_waits_for_no_retry() -> None:
    status = report.unit_status(replace(READY, retry_at_s=1_010.0), NO_READINGS, NOW_S)
    assert status.retry_in_s is None


@pytest.mark.parametrize("state", [State.BACKING_OFF, State.WAITING])
@pytest.mark.parametrize(("retry_at_s", "left_s"), [(1_010.0, 10.0), (990.0, 0.0)])
def test_a_wait_is_counted_down_to_zero(state: State, retry_at_s: float, left_s: float) -> None:
    record = replace(READY, state=state, alive=False, retry_at_s=retry_at_s)
    assert report.unit_status(record, NO_READINGS, NOW_S).retry_in_s == left_s


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("failure", [None, *FailureClass])
def test_every_state_is_explained_with_what_comes_next(
    state: State, failure: FailureClass | None
) -> None:
    record = replace(READY, state=state, failure=failure, retry_at_s=1_010.0)
    told = report.explain(record, NO_READINGS, [], NOW_S)
    assert told.next
    assert "{unit}" not in told.next
    assert told.events == ()


def comes_next(*missing: UnitRecord, **changed: Any) -> str:
    told = report.explain(replace(READY, **changed), NO_READINGS, [], NOW_S, missing=missing)
    assert isinstance(told.next, str)
    return told.next


def test_a_failure_says_what_to_do() -> None:
    crashed = {"state": State.BACKING_OFF, "failure": FailureClass.CRASH}
    told = comes_next(**crashed, retry_at_s=1_010.0)
    assert told == "starts again in 10 s; see `dims logs echo`"
    assert comes_next(**crashed) == "starts again in 0 s; see `dims logs echo`"


def test_who_starts_waits_for_services_then_for_its_turn_then_for_itself() -> None:
    database = replace(STOPPED, unit=UnitId("postgres"), reason="just now")
    asleep = {"state": State.STARTING, "alive": False}
    waits = "waits for postgres, which is stopped: just now"
    assert comes_next(database, **asleep) == waits
    assert comes_next(**asleep) == "waits for its turn to start"
    assert comes_next(database, state=State.STARTING) == "becomes ready"


def test_a_brain_that_can_keep_nothing_is_not_well() -> None:
    told = report.health([READY], [], keeper_lost=False, store_trouble="disk full")
    assert told.level == "degraded"
    assert told.problems == ("state.db cannot be written, so nothing is remembered: disk full",)


def test_a_fleet_is_well_while_all_that_is_wanted_serves() -> None:
    assert report.health([READY, STOPPED], [READY], keeper_lost=False) == FleetHealth(
        FleetLevel.WELL, problems=(), wanted=1, serving=1
    )


def test_one_bot_that_serves_badly_or_a_lost_keeper_is_degraded() -> None:
    degraded = replace(READY, state=State.DEGRADED, reason="slow")
    assert report.health([degraded, READY], [], keeper_lost=False).level == "degraded"
    lost = report.health([READY], [], keeper_lost=True)
    assert lost.level == "degraded"
    assert "keeper is gone" in lost.problems[0]


def test_a_fleet_of_which_nothing_serves_is_down() -> None:
    failed = replace(READY, state=State.FAILED, alive=False, reason="bad token")
    told = report.health([failed], [], keeper_lost=False)
    assert told.level == "down"
    assert told.problems == ("echo is failed: bad token",)
    assert report.health([STOPPED], [], keeper_lost=False).level == "well"
