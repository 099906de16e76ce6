"""Dialogues with one unit: how a process ends, and what comes next."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from dialogue import CRASHED, ECHO, FIRST, PLAIN, SECOND, Unit, armed, kinds, told

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.facts import (
    AskedRestart,
    AskedStart,
    AskedStop,
    Exited,
    Fact,
    FileChanged,
    Granted,
    LastWill,
    SpawnFailed,
    Timer,
)
from dims.supervisor.core.lifecycle import FENCE_MEMORY_S, LONGEST_WAIT_S
from dims.supervisor.core.orders import (
    DropSession,
    Keep,
    RequestStart,
    Signal,
    Stop,
    Tell,
    WithdrawStart,
)


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.fixture
def ready(unit: Unit) -> Unit:
    unit.starts()
    return unit


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
    unit = Unit(replace(PLAIN, restart=replace(PLAIN.restart, slow_retry_s=1.0, max_restarts=2)))
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
    unit = Unit(replace(PLAIN, restart=replace(PLAIN.restart, max_restarts=0)))
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
