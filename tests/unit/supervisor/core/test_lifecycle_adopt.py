"""A process that a former brain has started goes on under this one."""

from __future__ import annotations

import pytest
from dialogue import CRASHED, PLAIN, Unit, kinds

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.facts import (
    AskedRestart,
    AskedStop,
    Exited,
    Found,
    Heartbeat,
    Incarnation,
    LastWill,
    Ready,
    SpawnFailed,
    Timer,
)
from dims.supervisor.core.orders import Arm, RequestStart, Signal, Spawn, Stop
from dims.supervisor.core.states import Leaving

SEVENTH = Incarnation(7)


@pytest.fixture
def adopted() -> Unit:
    unit = Unit()
    orders = unit.hears(Found(Desired.RUNNING, SEVENTH, pid=4711, goes_on=True))
    assert not {RequestStart, Spawn, Signal} & set(kinds(orders)), "it runs already"
    assert [(o.timer, o.delay_s) for o in orders if isinstance(o, Arm)] == [
        (Timer.START, PLAIN.start_timeout_s)
    ]
    return unit


def test_it_has_the_time_of_a_start_to_say_that_it_is_ready(adopted: Unit) -> None:
    record = adopted.record
    assert (record.state, record.desired) == (State.STARTING, Desired.RUNNING)
    assert (record.alive, record.pid, record.incarnation) == (True, 4711, SEVENTH)
    assert record.spawned_s == adopted.now_s
    adopted.hears(Ready(SEVENTH), after_s=5.0)
    assert adopted.record.state is State.READY
    assert adopted.record.restarts == 0


def test_one_that_does_not_join_is_made_to_leave(adopted: Unit) -> None:
    orders = adopted.rings(Timer.START, after_s=PLAIN.start_timeout_s)
    assert adopted.record.state is State.DRAINING
    assert [order.stop for order in orders if isinstance(order, Signal)] == [Stop.DUMP]


def test_one_that_ends_before_it_joins_is_started_anew(adopted: Unit) -> None:
    adopted.hears(Exited(SEVENTH, CRASHED), after_s=1.0)
    assert adopted.record.state is State.BACKING_OFF
    orders = adopted.rings(Timer.RETRY, after_s=2.0)
    assert RequestStart in kinds(list(orders))


def test_one_that_ends_while_it_serves_is_started_anew(adopted: Unit) -> None:
    adopted.hears(Ready(SEVENTH), after_s=1.0)
    adopted.hears(LastWill(SEVENTH, FailureClass.CRASH, "the server is gone", 0.0), after_s=9.0)
    adopted.hears(Exited(SEVENTH, CRASHED), after_s=1.0)
    assert adopted.record.state is State.BACKING_OFF
    assert "the server is gone" in adopted.record.reason


@pytest.mark.parametrize("joined", [False, True])
def test_it_can_be_stopped(adopted: Unit, joined: bool) -> None:
    if joined:
        adopted.hears(Ready(SEVENTH))
    orders = adopted.hears(AskedStop("the fleet stops"), after_s=1.0)
    assert [order.stop for order in orders if isinstance(order, Signal)] == [Stop.TERM]
    assert adopted.record.leaving is Leaving.TERMED
    adopted.hears(Exited(SEVENTH, CRASHED), after_s=1.0)
    assert adopted.record.state is State.STOPPED


def test_a_restart_takes_the_next_incarnation(adopted: Unit) -> None:
    adopted.hears(Ready(SEVENTH))
    adopted.hears(AskedRestart("dims"), after_s=1.0)
    orders = adopted.hears(Exited(SEVENTH, CRASHED), after_s=1.0)
    assert RequestStart in kinds(list(orders))
    assert adopted.record.state is State.STARTING


def test_what_is_told_of_other_incarnations_does_not_count(adopted: Unit) -> None:
    before = adopted.record
    for other in (Incarnation(6), Incarnation(8)):
        facts = (Ready(other), Heartbeat(other, "x"), Exited(other, CRASHED))
        assert adopted.hears(*facts) == []
    failed = SpawnFailed(SEVENTH, FailureClass.CRASH, "late news of a former spawn")
    assert adopted.hears(failed) == [], "it exists: its pid is known"
    assert adopted.record == before


@pytest.mark.parametrize(
    ("fact", "again", "reason"),
    [
        (Found(Desired.RUNNING, SEVENTH, pid=4711), True, "restart: the brain was restarted"),
        (Found(Desired.STOPPED, SEVENTH, pid=4711), False, "stop: the brain was restarted"),
        (
            Found(Desired.STOPPED, SEVENTH, pid=4711, goes_on=True),
            False,
            "stop: the brain was restarted",
        ),
    ],
)
def test_one_that_cannot_go_on_or_is_not_wanted_leaves(
    fact: Found, again: bool, reason: str
) -> None:
    unit = Unit()
    orders = unit.hears(fact)
    assert (unit.record.state, unit.record.reason) == (State.DRAINING, reason)
    assert (unit.record.alive, unit.record.again) == (True, again)
    assert [order.stop for order in orders if isinstance(order, Signal)] == [Stop.TERM]
    assert RequestStart not in kinds(orders), "not before that one has ended"


def test_what_is_wanted_and_does_not_run_is_started_and_nothing_else_is() -> None:
    assert RequestStart in kinds(Unit().hears(Found(Desired.RUNNING, SEVENTH)))
    assert RequestStart not in kinds(Unit().hears(Found(Desired.STOPPED, SEVENTH)))
