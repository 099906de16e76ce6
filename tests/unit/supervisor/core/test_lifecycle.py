"""Dialogues with one unit: starts, stops, health, and what a new brain finds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from dialogue import ECHO, FIRST, PLAIN, SECOND, Unit, armed, kinds, told

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.facts import (
    AskedRestart,
    AskedStart,
    AskedStop,
    Exited,
    Fact,
    FileChanged,
    Found,
    Granted,
    Heartbeat,
    Incarnation,
    LastWill,
    Rang,
    Ready,
    Spawned,
    SpawnFailed,
    Suspended,
    Timer,
)
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.orders import (
    Arm,
    Keep,
    RequestStart,
    Signal,
    Spawn,
    Stop,
    Tell,
    WithdrawStart,
)
from dims.supervisor.core.states import RUNNING, SERVING, Leaving, transitions


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def ready(unit: Unit) -> Unit:
    unit.starts()
    return unit


# From asked to ready


def test_a_start_asks_the_fleet_first(unit: Unit) -> None:
    assert unit.hears(AskedStart("alice")) == [
        Keep(ECHO, Desired.RUNNING, None),
        told(State.STARTING, "start: alice", incarnation=Incarnation(0)),
        RequestStart(ECHO),
    ]
    assert unit.hears(AskedStart("bob")) == []


def test_what_the_fleet_grants_is_spawned_with_a_deadline(unit: Unit) -> None:
    unit.hears(AskedStart())
    assert unit.hears(Granted()) == [Spawn(ECHO, FIRST), armed(Timer.START, 1, 60.0)]
    assert (unit.record.spawned_s, unit.record.alive) == (1_000.0, True)
    assert unit.hears(Granted()) == []


def test_ready_frees_the_place_and_watches_the_heartbeat(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted())
    assert unit.hears(Spawned(FIRST, 70), after_s=0.5) == []
    assert unit.hears(Ready(FIRST), after_s=0.5) == [
        WithdrawStart(ECHO),
        told(State.READY, "may serve"),
        armed(Timer.STUCK, 2, 45.0),
        armed(Timer.STABLE, 3, 60.0),
    ]
    assert (unit.record.pid, unit.record.ready_s, unit.record.last_beat_s) == (70, 1001.0, 1001.0)
    assert unit.record.since_s == 1001.0
    assert unit.timers == {Timer.STUCK, Timer.STABLE}
    assert unit.hears(Ready(FIRST)) == []


def test_a_grant_that_comes_too_late_is_given_back(unit: Unit) -> None:
    unit.hears(AskedStart(), AskedStop())
    assert unit.hears(Granted()) == [WithdrawStart(ECHO)]


def test_a_unit_that_is_not_ready_in_time_shows_its_stacks_and_is_ended(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted(), Spawned(FIRST, 70))
    why = "not ready within 60 s"
    assert unit.rings(Timer.START, 60.0) == [
        WithdrawStart(ECHO),
        told(State.DRAINING, why, FailureClass.STUCK),
        armed(Timer.DRAIN, 2, 1.0),
        Signal(ECHO, FIRST, Stop.DUMP),
    ]
    assert unit.hears(Ready(FIRST)) == []
    assert unit.rings(Timer.DRAIN, 1.0) == [
        Signal(ECHO, FIRST, Stop.TERM),
        armed(Timer.DRAIN, 3, 20.0),
    ]
    assert unit.rings(Timer.DRAIN, 20.0) == [
        Signal(ECHO, FIRST, Stop.KILL),
        armed(Timer.DRAIN, 4, 5.0),
    ]
    assert unit.rings(Timer.DRAIN, 5.0) == [
        Signal(ECHO, FIRST, Stop.KILL),
        armed(Timer.DRAIN, 5, 5.0),
    ]
    assert unit.hears(Exited(FIRST, ExitStatus(signal=9))) == [
        told(
            State.BACKING_OFF,
            f"{why} (killed by signal 9); restart 1 of 3 within 120 s",
            FailureClass.STUCK,
        ),
        armed(Timer.RETRY, 6, 2.0),
    ]


def test_only_the_answers_to_this_spawn_count(ready: Unit) -> None:
    ready.crashes()
    ready.restarts()
    before = ready.record
    late = ExitStatus(code=0)
    will = LastWill(FIRST, FailureClass.NEEDS_OPERATOR, "late")
    for fact in (Exited(FIRST, late), will, Heartbeat(FIRST, "late"), Ready(FIRST)):
        assert ready.hears(fact) == []
    assert ready.hears(SpawnFailed(SECOND, FailureClass.CRASH, "it does exist")) == []
    assert ready.record == before


def test_a_spawn_that_was_answered_cannot_fail_any_more(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted(), Spawned(FIRST, 70))
    assert unit.hears(SpawnFailed(FIRST, FailureClass.CRASH, "it does exist")) == []
    assert unit.record.alive


def test_a_process_that_spoke_exists_whatever_is_said_of_its_spawn(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted(), Ready(FIRST))
    assert unit.hears(SpawnFailed(FIRST, FailureClass.CRASH, "it does exist")) == []
    assert unit.record.state is State.READY


# Health


def test_trouble_degrades_and_its_end_makes_ready_again(ready: Unit) -> None:
    assert ready.hears(Heartbeat(FIRST, "slow"), after_s=1.0) == [told(State.DEGRADED, "slow")]
    assert ready.hears(Heartbeat(FIRST, "slower"), after_s=1.0) == []
    assert ready.record.reason == "slower"
    assert ready.hears(Heartbeat(FIRST), after_s=1.0) == [told(State.READY, "serves well again")]
    assert ready.hears(Heartbeat(FIRST), after_s=1.0) == []
    assert ready.record.last_beat_s == ready.now_s
    assert ready.record.reason == "serves well again"


def test_what_keeps_a_unit_from_getting_ready_is_its_reason(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted(), Spawned(FIRST, 70))
    assert unit.hears(Heartbeat(FIRST, "the database is away"), Heartbeat(FIRST)) == []
    assert (unit.record.state, unit.record.reason) == (State.STARTING, "the database is away")


def test_a_heartbeat_moves_the_deadline_without_an_order(ready: Unit) -> None:
    assert ready.hears(Heartbeat(FIRST), after_s=30.0) == []
    assert ready.rings(Timer.STUCK, 15.0) == [armed(Timer.STUCK, 4, 30.0)]
    assert ready.rings(Timer.STUCK, 30.0) == [
        told(State.DRAINING, "no heartbeat for 45 s", FailureClass.STUCK),
        armed(Timer.DRAIN, 5, 1.0),
        Signal(ECHO, FIRST, Stop.DUMP),
    ]
    assert ready.timers == {Timer.DRAIN}


@pytest.mark.parametrize("beat_s", [0.1, 900.1844967605408, 1_234_567.891, 3.3e9 + 1 / 3])
def test_silence_is_noticed_at_the_first_ring_whatever_floats_round_to(beat_s: float) -> None:
    unit = Unit(replace(PLAIN, stuck_after_s=900.0), now_s=beat_s)
    unit.starts()
    unit.rings(Timer.STUCK, 900.0)
    assert unit.record.reason == "no heartbeat for 900 s"


def test_a_replaced_timer_rings_in_vain(ready: Unit) -> None:
    stale = Rang(Timer.STUCK, dict(ready.record.timers)[Timer.STUCK])
    ready.hears(Heartbeat(FIRST), after_s=30.0)
    ready.rings(Timer.STUCK, 15.0)
    assert ready.hears(stale, after_s=100.0) == []
    assert ready.record.state is State.READY


def test_what_troubles_a_unit_that_leaves_is_not_why_it_leaves(ready: Unit) -> None:
    ready.hears(AskedStop("alice"))
    assert (ready.record.state, ready.record.reason) == (State.DRAINING, "stop: alice")
    ready.hears(Heartbeat(FIRST, trouble="deaf"), after_s=1.0)
    assert ready.record.reason == "stop: alice"
    assert ready.record.last_beat_s == ready.now_s


def test_a_clock_that_went_back_neither_kills_nor_blinds(ready: Unit) -> None:
    ready.hears(Heartbeat(FIRST))
    assert ready.rings(Timer.STUCK, -500.0) == [armed(Timer.STUCK, 4, 45.0)]
    assert kinds(ready.rings(Timer.STUCK, 45.0)) == [Tell, Arm, Signal]


@pytest.mark.parametrize(("gap_s", "again"), [(22.5, []), (23.0, [45.0]), (31.0, [45.0])])
def test_a_suspended_engine_believes_nobody_dead(
    ready: Unit, gap_s: float, again: list[float]
) -> None:
    orders = ready.hears(Suspended(gap_s), after_s=100.0)
    assert orders == [armed(Timer.STUCK, 4, delay_s) for delay_s in again]
    assert ready.record.last_beat_s == (1_100.0 if again else 1_000.0)


def test_every_deadline_starts_again_after_a_suspension_but_no_wait(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted())
    assert unit.hears(Suspended(31.0)) == [armed(Timer.START, 2, 60.0)]
    unit.rings(Timer.START)
    assert unit.hears(Suspended(0.6)) == [armed(Timer.DRAIN, 4, 1.0)]
    unit.rings(Timer.DRAIN)
    assert unit.hears(Suspended(11.0)) == [armed(Timer.DRAIN, 6, 20.0)]
    unit.rings(Timer.DRAIN)
    assert unit.hears(Suspended(3.0)) == [armed(Timer.DRAIN, 8, 5.0)]
    unit.crashes()
    assert unit.record.state is State.BACKING_OFF
    assert unit.hears(Suspended(9_999.0)) == []


# Stops


def test_a_stop_drains_and_keeps_it_stopped(ready: Unit) -> None:
    assert ready.hears(AskedStop("alice")) == [
        Keep(ECHO, Desired.STOPPED, None),
        told(State.DRAINING, "stop: alice"),
        armed(Timer.DRAIN, 4, 20.0),
        Signal(ECHO, FIRST, Stop.TERM),
    ]
    assert ready.hears(Exited(FIRST, ExitStatus(code=0))) == [told(State.STOPPED, "stop: alice")]
    record = ready.record
    assert (record.alive, record.pid, record.ready_s, record.timers) == (False, None, None, ())
    assert record.leaving is Leaving.NO
    assert ready.hears(AskedStop("bob")) == []
    assert ready.record == record


def test_a_process_that_ignores_term_is_killed_only_after_its_deadline(ready: Unit) -> None:
    ready.hears(AskedStop())
    assert ready.rings(Timer.DRAIN, 20.0) == [
        Signal(ECHO, FIRST, Stop.KILL),
        armed(Timer.DRAIN, 5, 5.0),
    ]


def test_a_stop_before_the_grant_ends_the_wish(unit: Unit) -> None:
    unit.hears(AskedStart())
    assert unit.hears(AskedStop()) == [
        Keep(ECHO, Desired.STOPPED, None),
        WithdrawStart(ECHO),
        told(State.STOPPED, "stop: operator", incarnation=Incarnation(0)),
    ]


def test_a_stop_that_overtakes_the_spawn_reaches_the_process_once_it_exists(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted(), AskedStop())
    unit.rings(Timer.DRAIN, 20.0)
    assert unit.hears(Spawned(FIRST, 70), after_s=1.0) == [
        Signal(ECHO, FIRST, Stop.TERM),
        armed(Timer.DRAIN, 4, 20.0),
    ]
    assert unit.hears(Spawned(FIRST, 70)) == []
    assert unit.record.pid == 70


def test_a_stop_before_a_spawn_that_fails_ends_stopped(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted(), AskedStop())
    orders = unit.hears(SpawnFailed(FIRST, FailureClass.CRASH, "no memory"))
    assert orders == [told(State.STOPPED, "stop: operator")]


def test_a_stop_in_a_backoff_ends_it(ready: Unit) -> None:
    ready.crashes()
    assert ready.hears(AskedStop()) == [
        Keep(ECHO, Desired.STOPPED, None),
        told(State.STOPPED, "stop: operator"),
    ]
    assert (ready.timers, ready.record.retry_at_s) == (set(), None)


def test_a_stop_of_a_failed_unit_is_kept(ready: Unit) -> None:
    ready.leaves(FailureClass.NEEDS_OPERATOR, "token revoked")
    ready.hears(AskedStop())
    assert ready.record.state is State.STOPPED
    assert ready.hears(FileChanged()) == []


def test_a_stop_while_it_drains_after_a_verdict_ends_stopped(ready: Unit) -> None:
    ready.rings(Timer.STUCK, 45.0)
    assert ready.hears(AskedStop()) == [Keep(ECHO, Desired.STOPPED, None)]
    assert ready.rings(Timer.DRAIN, 1.0)[0] == Signal(ECHO, FIRST, Stop.TERM)
    assert ready.crashes() == [told(State.STOPPED, "stop: operator")]


# Starts and restarts that are asked for


def test_a_restart_drains_and_starts_again_without_a_backoff(ready: Unit) -> None:
    assert ready.hears(AskedRestart("alice")) == [
        told(State.DRAINING, "restart: alice"),
        armed(Timer.DRAIN, 4, 20.0),
        Signal(ECHO, FIRST, Stop.TERM),
    ]
    assert ready.hears(Exited(FIRST, ExitStatus(code=0))) == [
        told(State.STARTING, "restart: alice"),
        RequestStart(ECHO),
    ]
    assert (ready.record.again, ready.record.restarts) == (False, 0)


def test_a_start_while_a_stop_drains_starts_again_after_it(ready: Unit) -> None:
    ready.hears(AskedStop())
    assert ready.hears(AskedStart("alice")) == [Keep(ECHO, Desired.RUNNING, None)]
    assert ready.crashes() == [told(State.STARTING, "start: alice"), RequestStart(ECHO)]


def test_a_restart_while_a_stop_drains_sends_nothing_twice(ready: Unit) -> None:
    ready.hears(AskedStop())
    assert ready.hears(AskedRestart()) == [Keep(ECHO, Desired.RUNNING, None)]
    assert ready.record.again


def test_a_stop_takes_a_restart_back(ready: Unit) -> None:
    ready.hears(AskedRestart(), AskedStop("bob"))
    assert not ready.record.again
    assert ready.crashes() == [told(State.STOPPED, "stop: bob")]


def test_a_start_while_a_verdict_drains_is_not_counted_as_a_failure(ready: Unit) -> None:
    ready.rings(Timer.STUCK, 45.0)
    ready.hears(AskedStart())
    ready.crashes()
    assert (ready.record.state, ready.record.failures) == (State.STARTING, 0)


@pytest.mark.parametrize("asked", [AskedStart("alice"), AskedRestart("alice")])
def test_who_asks_in_a_backoff_starts_it_now_and_forgives(unit: Unit, asked: Fact) -> None:
    unit.starts()
    unit.crashes()
    assert unit.hears(asked)[1:] == [RequestStart(ECHO)]
    assert (unit.record.failures, unit.record.retry_at_s, unit.timers) == (0, None, set())


def test_a_restart_of_a_stopped_unit_starts_it(unit: Unit) -> None:
    assert kinds(unit.hears(AskedRestart())) == [Keep, Tell, RequestStart]


def test_a_start_of_a_failed_unit_tries_again(ready: Unit) -> None:
    ready.leaves(FailureClass.NEEDS_OPERATOR, "token revoked")
    assert kinds(ready.hears(AskedStart())) == [Tell, RequestStart]


def test_a_restart_forgives_former_failures(ready: Unit) -> None:
    ready.crashes()
    ready.restarts()
    ready.hears(AskedRestart())
    assert ready.record.failures == 0


def test_a_start_in_a_drain_forgives_former_failures(ready: Unit) -> None:
    ready.crashes()
    ready.restarts()
    ready.hears(AskedStop(), AskedStart())
    assert ready.record.failures == 0


def test_a_start_of_a_unit_that_serves_changes_nothing(ready: Unit) -> None:
    before = ready.record
    assert ready.hears(AskedStart()) == []
    assert ready.record == before


def test_asking_does_not_widen_the_intensity_window(ready: Unit) -> None:
    for _ in range(3):
        ready.crashes()
        ready.hears(AskedStart(), Granted())
        ready.is_born()
    ready.crashes()
    assert ready.record.retry_at_s == ready.now_s + 900.0


# A new brain


def test_a_new_brain_starts_what_should_run(unit: Unit) -> None:
    record, orders = decide(unit.record, Found(Desired.RUNNING, Incarnation(0), 0.0), 5.0, 0.0)
    assert orders == (
        told(State.STARTING, "supervisor started", incarnation=Incarnation(0)),
        RequestStart(ECHO),
    )
    assert (record.since_s, record.desired) == (5.0, Desired.RUNNING)


def test_a_new_brain_leaves_a_stopped_unit_stopped(unit: Unit) -> None:
    record, orders = decide(unit.record, Found(Desired.STOPPED, Incarnation(0), 40.0), 5.0, 0.0)
    assert orders == ()
    assert (record.state, record.since_s, record.not_before_s) == (State.STOPPED, 5.0, 45.0)


def test_a_new_brain_goes_on_waiting_where_the_old_one_was(unit: Unit) -> None:
    record, orders = decide(unit.record, Found(Desired.RUNNING, Incarnation(0), 40.0), 5.0, 0.0)
    assert orders == (
        told(
            State.WAITING,
            "supervisor started; Telegram said wait 40 s",
            FailureClass.WAIT,
            Incarnation(0),
        ),
        armed(Timer.RETRY, 1, 40.0),
    )
    assert (record.retry_at_s, record.state) == (45.0, State.WAITING)


def test_a_wait_that_ended_while_no_brain_ran_is_over(unit: Unit) -> None:
    record, _ = decide(unit.record, Found(Desired.RUNNING, Incarnation(0), -40.0), 5.0, 0.0)
    assert (record.state, record.not_before_s) == (State.STARTING, None)


# The table and its figure


def test_the_figure_in_the_documentation_shows_the_table() -> None:
    page = Path(__file__).parents[4] / "docs" / "lifecycle.md"
    drawn = re.findall(r"^    (\w+) --> (\w+): (.+)$", page.read_text("utf-8"), re.MULTILINE)
    assert drawn == [(old.value, new.value, why) for old, new, why in transitions()]


def test_a_process_exists_only_in_the_states_that_say_so(ready: Unit) -> None:
    assert SERVING < RUNNING
    assert {State.STARTING, State.DRAINING} == RUNNING - SERVING
    assert ready.record.state in SERVING


def test_an_exit_says_how() -> None:
    texts = [str(ExitStatus(code=3)), str(ExitStatus(signal=9)), str(ExitStatus())]
    assert texts == ["exit code 3", "killed by signal 9", "exit unknown"]
