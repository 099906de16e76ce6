"""Dialogues with one unit: facts are played, orders compared."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dims.supervisor.backoff import RestartPolicy
from dims.supervisor.facts import (
    AskedRestart,
    AskedStart,
    AskedStop,
    Exited,
    ExitStatus,
    Fact,
    FailureClass,
    FileChanged,
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
    TimerNumber,
    UnitId,
)
from dims.supervisor.lifecycle import FENCE_MEMORY_S, LONGEST_WAIT_S, decide, restore
from dims.supervisor.orders import (
    Arm,
    Desired,
    DropSession,
    Keep,
    Order,
    RequestStart,
    Signal,
    Spawn,
    Stop,
    Tell,
    WithdrawStart,
)
from dims.supervisor.states import RUNNING, SERVING, TRANSITIONS, Leaving, Policy, State, UnitRecord

ECHO = UnitId("echo")
CRASHED = ExitStatus(code=1)
FIRST, SECOND = Incarnation(1), Incarnation(2)
PLAIN = Policy(
    RestartPolicy(
        first_delay_s=2.0,
        factor=2.0,
        max_delay_s=100.0,
        stable_after_s=60.0,
        max_restarts=3,
        within_s=120.0,
        slow_retry_s=900.0,
    ),
    start_timeout_s=60.0,
    stuck_after_s=45.0,
    drain_timeout_s=20.0,
    dump_before_term_s=1.0,
)


@dataclass
class Unit:
    """One unit, a clock in the test's hand and full jitter: what is drawn is the whole ceiling."""

    policy: Policy = PLAIN
    now_s: float = 1_000.0
    draw: float = 1.0
    record: UnitRecord = field(init=False)

    def __post_init__(self) -> None:
        self.record = UnitRecord(ECHO, self.policy)

    def hears(self, *facts: Fact, after_s: float = 0.0) -> list[Order]:
        """All facts, `after_s` after the last ones; answers the orders to the last."""
        self.now_s += after_s
        orders: tuple[Order, ...] = ()
        for fact in facts:
            self.record, orders = decide(self.record, fact, self.now_s, self.draw)
        return list(orders)

    def rings(self, timer: Timer, after_s: float = 0.0) -> list[Order]:
        """The armed timer rings, `after_s` after the last fact."""
        number = dict(self.record.timers)[timer]
        return self.hears(Rang(timer, number), after_s=after_s)

    @property
    def now(self) -> Incarnation:
        return self.record.incarnation

    @property
    def timers(self) -> set[Timer]:
        return {timer for timer, _ in self.record.timers}

    def starts(self) -> None:
        """From asked to ready."""
        self.hears(AskedStart(), Granted())
        self.is_born()
        assert self.record.state is State.READY

    def is_born(self) -> None:
        self.hears(Spawned(self.now, 70), Ready(self.now))

    def restarts(self) -> None:
        """From BACKING_OFF or WAITING to ready."""
        self.rings(Timer.RETRY, max(0.0, (self.record.retry_at_s or 0.0) - self.now_s))
        self.hears(Granted())
        self.is_born()

    def crashes(self) -> list[Order]:
        return self.hears(Exited(self.now, CRASHED))

    def leaves(
        self, failure: FailureClass, reason: str = "said so", wait_s: float = 0
    ) -> list[Order]:
        """Writes a last will and is gone."""
        self.hears(LastWill(self.now, failure, reason, wait_s))
        return self.hears(Exited(self.now, ExitStatus(code=0)))


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def ready(unit: Unit) -> Unit:
    unit.starts()
    return unit


def told(
    state: State,
    reason: str,
    failure: FailureClass | None = None,
    incarnation: Incarnation = FIRST,
) -> Tell:
    return Tell(ECHO, incarnation, state, reason, failure)


def armed(timer: Timer, number: int, delay_s: float) -> Arm:
    return Arm(ECHO, timer, TimerNumber(number), delay_s)


def kinds(orders: list[Order]) -> list[type]:
    return [type(order) for order in orders]


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


# Crashes


def test_each_crash_in_a_row_doubles_the_delay(ready: Unit) -> None:
    delays_s = []
    for _ in range(3):
        ready.crashes()
        delays_s.append((ready.record.retry_at_s or 0.0) - ready.now_s)
        ready.restarts()
    assert delays_s == [2.0, 4.0, 8.0]
    assert ready.record.restarts == 3


def test_a_backoff_ends_with_a_wish_to_start(ready: Unit) -> None:
    assert ready.crashes() == [
        told(State.BACKING_OFF, "exit code 1; restart 1 of 3 within 120 s", FailureClass.CRASH),
        armed(Timer.RETRY, 4, 2.0),
    ]
    assert ready.rings(Timer.RETRY, 2.0) == [
        told(State.STARTING, "the wait is over"),
        RequestStart(ECHO),
    ]
    assert (ready.record.retry_at_s, ready.timers) == (None, set())


def test_too_many_crashes_turn_to_a_slow_retry(ready: Unit) -> None:
    for _ in range(3):
        ready.crashes()
        ready.restarts()
    assert ready.crashes() == [
        told(
            State.BACKING_OFF,
            "exit code 1; slowed down: more than 3 restarts within 120 s",
            FailureClass.CRASH,
            ready.now,
        ),
        armed(Timer.RETRY, ready.record.next_number - 1, 900.0),
    ]


def test_a_network_that_is_down_is_tried_more_often_than_a_crash(ready: Unit) -> None:
    for _ in range(4):
        ready.leaves(FailureClass.NETWORK)
        delay_s = (ready.record.retry_at_s or 0.0) - ready.now_s
        ready.restarts()
    # The cap asks for no more here: the first of the four is 106 s in the window of 120 s.
    assert delay_s == pytest.approx(106.0)


def test_a_slow_retry_waits_until_the_window_has_room() -> None:
    unit = Unit(Policy(replace(PLAIN.restart, slow_retry_s=1.0, max_restarts=2)))
    unit.starts()
    unit.crashes()
    first_s = unit.now_s
    for _ in range(2):
        unit.restarts()
        unit.hears(after_s=1.0)
        unit.crashes()
    assert unit.record.retry_at_s == first_s + 120.0


def test_what_left_the_window_counts_no_more(ready: Unit) -> None:
    for _ in range(3):
        ready.crashes()
        ready.restarts()
    first_s = ready.record.recent[0]
    ready.hears(after_s=first_s + 120.0 - ready.now_s)
    ready.crashes()
    assert ready.record.reason == "exit code 1; restart 3 of 3 within 120 s"


def test_a_cap_of_zero_makes_every_retry_slow() -> None:
    unit = Unit(Policy(replace(PLAIN.restart, max_restarts=0)))
    unit.starts()
    unit.crashes()
    assert unit.record.retry_at_s == unit.now_s + 900.0
    assert unit.record.recent == (unit.now_s,)


def test_the_record_of_restarts_stays_small(ready: Unit) -> None:
    for _ in range(9):
        ready.crashes()
        ready.hears(AskedStart(), Granted())
        ready.is_born()
    assert len(ready.record.recent) == 4


def test_restarts_that_the_clock_put_into_the_future_are_forgotten(ready: Unit) -> None:
    for _ in range(3):
        ready.crashes()
        ready.restarts()
    ready.hears(after_s=-5_000.0)
    ready.crashes()
    assert ready.record.recent == (ready.now_s,)


def test_a_stable_period_forgives_failures_but_not_the_window(ready: Unit) -> None:
    ready.crashes()
    ready.restarts()
    assert ready.rings(Timer.STABLE, 60.0) == []
    assert (ready.record.failures, len(ready.record.recent)) == (0, 1)
    assert ready.timers == {Timer.STUCK}


def test_a_spawn_that_fails_is_answered_by_its_class(unit: Unit) -> None:
    unit.hears(AskedStart(), Granted())
    orders = unit.hears(SpawnFailed(FIRST, FailureClass.CRASH, "no memory"))
    assert orders == [
        WithdrawStart(ECHO),
        told(State.BACKING_OFF, "no memory; restart 1 of 3 within 120 s", FailureClass.CRASH),
        armed(Timer.RETRY, 2, 2.0),
    ]


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (FailureClass.NETWORK, State.BACKING_OFF),
        (FailureClass.WAIT, State.WAITING),
        (FailureClass.FENCED, State.BACKING_OFF),
        (FailureClass.NEEDS_OPERATOR, State.FAILED),
        (FailureClass.RECYCLE, State.STARTING),
        (FailureClass.STUCK, State.BACKING_OFF),
        (FailureClass.DEAF, State.BACKING_OFF),
        (FailureClass.CRASH, State.BACKING_OFF),
    ],
)
def test_each_class_has_its_answer_from_a_process_and_from_a_spawn(
    failure: FailureClass, state: State
) -> None:
    left, unborn = Unit(), Unit()
    left.starts()
    left.leaves(failure)
    unborn.hears(AskedStart(), Granted(), SpawnFailed(FIRST, failure, "no"))
    assert (left.record.state, unborn.record.state) == (state, state)


# Last wills


def test_a_last_will_is_a_farewell_with_a_deadline(ready: Unit) -> None:
    will = LastWill(FIRST, FailureClass.DEAF, "no updates for 300 s")
    assert ready.hears(will) == [
        told(State.DRAINING, "no updates for 300 s", FailureClass.DEAF),
        armed(Timer.DRAIN, 4, 20.0),
    ]
    assert ready.timers == {Timer.DRAIN}
    assert ready.hears(Exited(FIRST, ExitStatus(code=3))) == [
        told(
            State.BACKING_OFF,
            "no updates for 300 s (exit code 3); restart 1 of 3 within 120 s",
            FailureClass.DEAF,
        ),
        armed(Timer.RETRY, 5, 2.0),
    ]


def test_who_wrote_a_last_will_and_stays_is_pushed_out(ready: Unit) -> None:
    ready.hears(LastWill(FIRST, FailureClass.RECYCLE, "memory limit"))
    assert ready.rings(Timer.DRAIN, 20.0) == [
        Signal(ECHO, FIRST, Stop.KILL),
        armed(Timer.DRAIN, 5, 5.0),
    ]


def test_a_recycled_unit_starts_again_at_once_and_counts_as_restarted(ready: Unit) -> None:
    assert ready.leaves(FailureClass.RECYCLE, "memory limit") == [
        told(State.STARTING, "memory limit"),
        RequestStart(ECHO),
    ]
    assert (ready.record.restarts, ready.record.failures, len(ready.record.recent)) == (1, 0, 1)


def test_recycling_too_often_is_slowed_down(ready: Unit) -> None:
    for _ in range(3):
        ready.leaves(FailureClass.RECYCLE, "memory limit")
        ready.hears(Granted())
        ready.is_born()
    assert ready.leaves(FailureClass.RECYCLE, "memory limit") == [
        told(
            State.BACKING_OFF,
            "memory limit; slowed down: more than 3 restarts within 120 s",
            FailureClass.RECYCLE,
            ready.now,
        ),
        armed(Timer.RETRY, ready.record.next_number - 1, 900.0),
    ]


def test_the_first_last_will_counts(ready: Unit) -> None:
    ready.hears(LastWill(FIRST, FailureClass.RECYCLE, "memory limit"))
    ready.hears(LastWill(FIRST, FailureClass.CRASH, "and it crashed"))
    ready.crashes()
    assert ready.record.state is State.STARTING


def test_what_telegram_said_outweighs_our_own_verdict(ready: Unit) -> None:
    ready.rings(Timer.STUCK, 45.0)
    ready.hears(LastWill(FIRST, FailureClass.NEEDS_OPERATOR, "token revoked"))
    ready.hears(LastWill(FIRST, FailureClass.FENCED, "too late"))
    assert ready.crashes() == [told(State.FAILED, "token revoked", FailureClass.NEEDS_OPERATOR)]


def test_a_will_in_a_drain_that_was_asked_for_changes_no_plan(ready: Unit) -> None:
    ready.hears(AskedRestart())
    assert ready.hears(LastWill(FIRST, FailureClass.CRASH, "while leaving")) == []
    assert ready.crashes()[-1] == RequestStart(ECHO)


def test_the_will_of_a_former_incarnation_is_not_that_of_this_one(ready: Unit) -> None:
    ready.leaves(FailureClass.RECYCLE, "memory limit")
    ready.hears(Granted())
    assert ready.record.will is None
    ready.is_born()
    ready.crashes()
    assert ready.record.failure is FailureClass.CRASH


# Announced waits


def test_a_flood_wait_is_kept_and_waited_for(ready: Unit) -> None:
    will = LastWill(FIRST, FailureClass.WAIT, "flood wait of 1600 s", 1_600.0)
    assert ready.hears(will) == [
        Keep(ECHO, Desired.RUNNING, 1_600.0),
        told(State.DRAINING, "flood wait of 1600 s", FailureClass.WAIT),
        armed(Timer.DRAIN, 4, 20.0),
    ]
    assert ready.hears(Exited(FIRST, CRASHED), after_s=2.0) == [
        told(
            State.WAITING,
            "flood wait of 1600 s; restart 1 of 3 within 120 s",
            FailureClass.WAIT,
        ),
        armed(Timer.RETRY, 5, 1_598.0),
    ]
    assert (ready.record.failures, ready.record.retry_at_s) == (0, 2_600.0)
    assert ready.rings(Timer.RETRY, 1_598.0) == [
        Keep(ECHO, Desired.RUNNING, None),
        told(State.STARTING, "the wait is over"),
        RequestStart(ECHO),
    ]
    assert ready.record.not_before_s is None


@pytest.mark.parametrize("asked", [AskedStart("alice"), AskedRestart("alice")])
def test_nobody_can_start_before_an_announced_wait_ends(unit: Unit, asked: AskedStart) -> None:
    unit.starts()
    unit.leaves(FailureClass.WAIT, "flood", 1_600.0)
    verb = "start"
    assert unit.hears(asked, after_s=100.0) == [
        told(State.WAITING, f"{verb}: alice; Telegram said wait 1500 s", FailureClass.WAIT),
        armed(Timer.RETRY, 6, 1_500.0),
    ]


def test_a_stop_and_a_start_do_not_shorten_an_announced_wait(ready: Unit) -> None:
    ready.leaves(FailureClass.WAIT, "flood", 1_600.0)
    assert ready.hears(AskedStop(), after_s=100.0)[0] == Keep(ECHO, Desired.STOPPED, 1_500.0)
    assert ready.timers == set()
    assert ready.hears(AskedStart(), after_s=100.0) == [
        Keep(ECHO, Desired.RUNNING, 1_400.0),
        told(State.WAITING, "start: operator; Telegram said wait 1400 s", FailureClass.WAIT),
        armed(Timer.RETRY, 6, 1_400.0),
    ]


def test_a_stop_and_a_start_after_the_wait_start_at_once(ready: Unit) -> None:
    ready.leaves(FailureClass.WAIT, "flood", 1_600.0)
    ready.hears(AskedStop())
    assert kinds(ready.hears(AskedStart(), after_s=1_600.0)) == [Keep, Keep, Tell, RequestStart]


def test_a_wait_announced_during_an_asked_restart_holds_it(ready: Unit) -> None:
    ready.hears(AskedRestart(), LastWill(FIRST, FailureClass.WAIT, "flood", 50.0))
    assert ready.crashes()[-1] == armed(Timer.RETRY, 5, 50.0)
    assert ready.record.state is State.WAITING


def test_a_wait_announced_during_a_stop_is_kept_for_the_next_start(ready: Unit) -> None:
    ready.hears(AskedStop())
    orders = ready.hears(LastWill(FIRST, FailureClass.WAIT, "flood", 50.0))
    assert orders == [Keep(ECHO, Desired.STOPPED, 50.0)]
    ready.crashes()
    ready.hears(AskedStart())
    assert ready.record.state is State.WAITING


def test_a_wait_announced_after_the_exit_was_seen_holds_the_retry(ready: Unit) -> None:
    ready.crashes()
    will = LastWill(FIRST, FailureClass.WAIT, "flood", 50.0)
    assert ready.hears(will) == [Keep(ECHO, Desired.RUNNING, 50.0)]
    assert ready.record.state is State.BACKING_OFF
    ready.rings(Timer.RETRY, 2.0)
    assert (ready.record.state, ready.record.retry_at_s) == (State.WAITING, 1_050.0)


def test_a_wait_announced_before_the_grant_holds_the_spawn(ready: Unit) -> None:
    ready.crashes()
    ready.rings(Timer.RETRY, 2.0)
    ready.hears(LastWill(FIRST, FailureClass.WAIT, "flood", 50.0))
    assert ready.hears(Granted()) == [
        WithdrawStart(ECHO),
        told(State.WAITING, "the wait is over; Telegram said wait 50 s", FailureClass.WAIT),
        armed(Timer.RETRY, 5, 50.0),
    ]


def test_any_other_will_after_the_exit_was_seen_is_dropped(ready: Unit) -> None:
    ready.crashes()
    before = ready.record
    assert ready.hears(LastWill(FIRST, FailureClass.NEEDS_OPERATOR, "late")) == []
    assert ready.record == before


def test_a_wait_counts_whatever_else_the_process_says(ready: Unit) -> None:
    ready.leaves(FailureClass.CRASH, "flood in a handler", 50.0)
    ready.rings(Timer.RETRY, 2.0)
    assert (ready.record.state, ready.record.retry_at_s) == (State.WAITING, 1_050.0)


def test_a_wait_without_failures_is_as_long_as_announced(ready: Unit) -> None:
    ready.leaves(FailureClass.WAIT, "flood", 0.25)
    assert ready.record.retry_at_s == ready.now_s + 0.25


def test_of_two_announced_waits_the_later_end_counts(ready: Unit) -> None:
    ready.hears(LastWill(FIRST, FailureClass.WAIT, "flood", 50.0))
    shorter = LastWill(FIRST, FailureClass.WAIT, "flood", 20.0)
    assert ready.hears(shorter) == [Keep(ECHO, Desired.RUNNING, 50.0)]
    ready.hears(LastWill(FIRST, FailureClass.WAIT, "flood", 70.0))
    assert ready.record.not_before_s == 1_070.0


@pytest.mark.parametrize(
    ("said_s", "waited_s"),
    [
        (math.nan, None),
        (-5.0, None),
        (0.0, None),
        (math.inf, LONGEST_WAIT_S),
        (9e9, LONGEST_WAIT_S),
    ],
)
def test_a_garbled_wait_is_bounded(ready: Unit, said_s: float, waited_s: float | None) -> None:
    ready.hears(LastWill(FIRST, FailureClass.WAIT, "flood", said_s))
    left_s = ready.record.not_before_s and ready.record.not_before_s - ready.now_s
    assert left_s == waited_s


def test_a_wait_after_failures_is_no_shorter_than_their_backoff(ready: Unit) -> None:
    ready.crashes()
    ready.restarts()
    ready.leaves(FailureClass.WAIT, "flood", 1.0)
    assert ready.record.retry_at_s == ready.now_s + 2.0
    assert ready.record.failures == 1
    ready.hears(AskedStart(), after_s=1.0)
    assert ready.record.state is State.STARTING


def test_waits_without_a_length_cannot_become_a_loop(ready: Unit) -> None:
    for _ in range(3):
        ready.leaves(FailureClass.WAIT, "flood", 0.0)
        ready.restarts()
    ready.leaves(FailureClass.WAIT, "flood", 0.0)
    assert ready.record.retry_at_s == ready.now_s + 900.0


# Burnt keys


def test_a_burnt_key_is_given_up_and_a_new_one_made_once(ready: Unit) -> None:
    assert ready.leaves(FailureClass.FENCED, "used elsewhere") == [
        DropSession(ECHO),
        told(
            State.BACKING_OFF,
            "used elsewhere; a new key will be made; restart 1 of 3 within 120 s",
            FailureClass.FENCED,
        ),
        armed(Timer.RETRY, 5, 2.0),
    ]
    ready.restarts()
    ready.rings(Timer.STABLE, 60.0)
    assert ready.leaves(FailureClass.FENCED, "used elsewhere") == [
        DropSession(ECHO),
        told(
            State.FAILED,
            "used elsewhere; again, with a new key: stop whoever else runs this bot, then start it",
            FailureClass.FENCED,
            SECOND,
        ),
    ]


@pytest.mark.parametrize(
    ("later_s", "state"),
    [(FENCE_MEMORY_S - 10.0, State.FAILED), (FENCE_MEMORY_S, State.BACKING_OFF)],
)
def test_a_burnt_key_is_forgotten_after_a_day(ready: Unit, later_s: float, state: State) -> None:
    ready.leaves(FailureClass.FENCED)
    fenced_s = ready.now_s
    ready.restarts()
    ready.hears(after_s=fenced_s + later_s - ready.now_s)
    ready.leaves(FailureClass.FENCED)
    assert ready.record.state is state


def test_who_asks_for_a_start_forgives_a_burnt_key(ready: Unit) -> None:
    ready.leaves(FailureClass.FENCED)
    ready.hears(AskedStart(), Granted())
    ready.is_born()
    ready.leaves(FailureClass.FENCED)
    assert ready.record.state is State.BACKING_OFF


@pytest.mark.parametrize(
    ("asked", "state"), [(AskedStop(), State.STOPPED), (AskedRestart(), State.STARTING)]
)
def test_a_burnt_key_is_given_up_whatever_comes_next(
    ready: Unit, asked: Fact, state: State
) -> None:
    ready.hears(asked)
    assert ready.leaves(FailureClass.FENCED)[0] == DropSession(ECHO)
    assert ready.record.state is state


# Files


def test_a_failed_unit_starts_when_its_file_changes(ready: Unit) -> None:
    ready.leaves(FailureClass.NEEDS_OPERATOR, "cannot import handlers")
    assert ready.timers == set()
    assert ready.hears(FileChanged()) == [
        told(State.STARTING, "its file changed"),
        RequestStart(ECHO),
    ]


def test_a_file_that_changed_during_the_start_gives_one_more_try(unit: Unit) -> None:
    unit.hears(AskedStart(), FileChanged(), Granted(), FileChanged())
    unit.is_born()
    unit.leaves(FailureClass.NEEDS_OPERATOR, "cannot import handlers")
    assert (unit.record.state, unit.record.reason) == (State.STARTING, "its file changed")
    unit.hears(Granted())
    unit.is_born()
    unit.leaves(FailureClass.NEEDS_OPERATOR, "cannot import handlers")
    assert unit.record.state is State.FAILED


def test_a_unit_that_writes_its_own_file_cannot_loop(ready: Unit) -> None:
    for _ in range(3):
        ready.leaves(FailureClass.NEEDS_OPERATOR)
        ready.hears(FileChanged(), Granted())
        ready.is_born()
    ready.leaves(FailureClass.NEEDS_OPERATOR)
    assert ready.hears(FileChanged()) == [
        told(
            State.BACKING_OFF,
            "its file changed; slowed down: more than 3 restarts within 120 s",
            FailureClass.NEEDS_OPERATOR,
            ready.now,
        ),
        armed(Timer.RETRY, ready.record.next_number - 1, 900.0),
    ]


def test_a_changed_file_forgives_former_failures(ready: Unit) -> None:
    ready.crashes()
    ready.restarts()
    ready.leaves(FailureClass.NEEDS_OPERATOR)
    ready.hears(FileChanged())
    assert ready.record.failures == 0


def test_a_file_that_changes_while_it_serves_disturbs_nobody(ready: Unit) -> None:
    assert ready.hears(FileChanged()) == []
    assert ready.record.state is State.READY


# A new brain


def test_a_new_brain_starts_what_should_run(unit: Unit) -> None:
    record, orders = restore(unit.record, Desired.RUNNING, None, 5.0)
    assert orders == (
        told(State.STARTING, "supervisor started", incarnation=Incarnation(0)),
        RequestStart(ECHO),
    )
    assert (record.since_s, record.desired) == (5.0, Desired.RUNNING)


def test_a_new_brain_leaves_a_stopped_unit_stopped(unit: Unit) -> None:
    record, orders = restore(unit.record, Desired.STOPPED, 40.0, 5.0)
    assert orders == ()
    assert (record.state, record.since_s, record.not_before_s) == (State.STOPPED, 5.0, 45.0)


def test_a_new_brain_goes_on_waiting_where_the_old_one_was(unit: Unit) -> None:
    record, orders = restore(unit.record, Desired.RUNNING, 40.0, 5.0)
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
    record, _ = restore(unit.record, Desired.RUNNING, -40.0, 5.0)
    assert (record.state, record.not_before_s) == (State.STARTING, None)


# The table and its figure


def test_the_figure_in_the_documentation_shows_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "lifecycle.md"
    drawn = re.findall(r"^    (\w+) --> (\w+): (.+)$", page.read_text("utf-8"), re.MULTILINE)
    table = [(old, new, why) for old, row in TRANSITIONS.items() for new, why in row.items()]
    assert drawn == [(old.value, new.value, why) for old, new, why in table]


def test_a_process_exists_only_in_the_states_that_say_so(ready: Unit) -> None:
    assert SERVING < RUNNING
    assert {State.STARTING, State.DRAINING} == RUNNING - SERVING
    assert ready.record.state in SERVING


def test_an_exit_says_how() -> None:
    texts = [str(ExitStatus(code=3)), str(ExitStatus(signal=9)), str(ExitStatus())]
    assert texts == ["exit code 3", "killed by signal 9", "exit unknown"]
