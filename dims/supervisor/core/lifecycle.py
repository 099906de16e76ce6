"""The life of one unit: `decide`, from a fact to orders. Pure and total.

Knows one unit at a time; refuses clocks, chance, I/O and other units.
A process that may still run is always accounted for: a live process is left only through
DRAINING or its own end, and only `Exited` or `SpawnFailed` ends it. So no unit runs twice.
A wait that Telegram announced is kept in `not_before_s`, whatever is asked meanwhile; the one
place that orders a `Spawn` looks at it. So nobody can start too early.
"""

from __future__ import annotations

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core import backoff
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
from dims.supervisor.core.orders import DropSession, Order, RequestStart, Spawn, Stop, WithdrawStart
from dims.supervisor.core.states import RUNNING, Cause, Leaving, UnitRecord
from dims.supervisor.core.step import Step

LONGEST_WAIT_S = 7 * 86_400.0
"""Telegram announces a day at most; a garbled number must not silence a bot for a lifetime."""
FENCE_MEMORY_S = 86_400.0
"""A second burnt key within a day is no accident."""
KILL_AGAIN_S = 5.0
"""KILL cannot be refused, only delayed (uninterruptible sleep): then it is sent again."""

_TOLD = frozenset({FailureClass.WAIT, FailureClass.FENCED, FailureClass.NEEDS_OPERATOR})
"""What only Telegram or the configuration can have said; it outweighs any other reason to leave."""

Decision = tuple[UnitRecord, tuple[Order, ...]]
_OfProcess = Spawned | SpawnFailed | Ready | Heartbeat | Exited


def decide(record: UnitRecord, fact: Fact, now_s: float, draw: float) -> Decision:
    """The record after `fact`, and what is to be done about it.

    `now_s` is monotonic, `draw` uniform in [0, 1). Total: a fact that no longer fits
    (a former incarnation, a replaced timer) changes nothing. Never raises.
    """
    life = _Life(record, now_s, draw)
    match fact:
        case Heartbeat() | Rang() | Spawned() | Ready() | SpawnFailed() | Exited() | LastWill():
            life.happened(fact)
        case AskedStart():
            life.asked_start(fact.reason)
        case AskedStop():
            life.asked_stop(fact.reason)
        case AskedRestart():
            life.asked_restart(fact.reason)
        case Found():
            life.found(fact)
        case Granted():
            life.granted()
        case FileChanged():
            life.file_changed()
        case Suspended():
            life.suspended(fact.gap_s)
    return life.record, tuple(life.orders)


def _bounded_s(wait_s: float) -> float:
    # The order of the arguments matters: max(0.0, nan) is 0.0.
    return min(max(0.0, wait_s), LONGEST_WAIT_S)


class _Life(Step):
    """What each fact means to a unit in each state."""

    __slots__ = ()

    # What a new brain finds

    def found(self, fact: Found) -> None:
        if self.record.state is not State.STOPPED:
            return
        wait_s = _bounded_s(fact.retry_after_s)
        self.note(
            desired=fact.desired,
            incarnation=fact.incarnation,
            since_s=self.now_s,
            not_before_s=self.now_s + wait_s if wait_s else None,
        )
        runs = fact.desired is Desired.RUNNING
        if fact.pid is None:
            if runs:
                self.request(Cause.ASKED_TO_START, "supervisor started")
            return
        self.note(alive=True, pid=fact.pid, spawned_s=self.now_s)
        if runs and fact.goes_on:
            # It has the time of a start to join this brain and say that it is ready.
            self.enter(Cause.GOES_ON, "the brain was restarted, its process goes on")
            self.arm(Timer.START, self.record.policy.start_timeout_s)
        else:
            # Drained before a new one follows, which waits out what this one was told to.
            self.note(again=runs)
            word = "restart" if runs else "stop"
            self._leave(Cause.MUST_LEAVE, Leaving.TERMED, f"{word}: the brain was restarted")
            self.signal(Stop.TERM)

    # What the operator asks

    def asked_start(self, who: str) -> None:
        self._desire(Desired.RUNNING)
        if self.record.state is State.DRAINING:
            self._forgive()
            self.note(again=True, reason=f"start: {who}")
        elif self.record.state not in RUNNING:
            self._forgive()
            self.request(Cause.ASKED_TO_START, f"start: {who}")

    def asked_stop(self, who: str) -> None:
        self._desire(Desired.STOPPED)
        reason = f"stop: {who}"
        if self.record.state is State.DRAINING:
            self.note(again=False, reason=reason)
        elif self.record.alive:
            self._drain(reason)
        elif self.record.state is not State.STOPPED:
            self.disarm(Timer.RETRY)
            self.note(retry_at_s=None)
            self.enter(Cause.ASKED_TO_STOP, reason)

    def asked_restart(self, who: str) -> None:
        if self.record.alive and self.record.state is not State.DRAINING:
            self._forgive()
            self.note(again=True)
            self._drain(f"restart: {who}")
        else:
            self.asked_start(who)

    def file_changed(self) -> None:
        if self.record.state is State.FAILED:
            self._forgive()
            self._start_again("its file changed", FailureClass.NEEDS_OPERATOR)
        else:
            # It may have been read before it changed: remembered in case the start fails on it.
            self.note(file_changed=True)

    # How it starts

    def request(self, cause: Cause, reason: str) -> None:
        """Asks the fleet for leave to start; while an announced wait lasts, waits for it."""
        left_s = self.announced_left_s()
        if left_s > 0:
            waits = f"{reason}; Telegram said wait {left_s:.0f} s"
            self.enter(Cause.WAIT_LASTS, waits, FailureClass.WAIT)
            self.retry_after(left_s)
            return
        if self.record.not_before_s is not None:
            self.note(not_before_s=None)
            self.keep()
        self.disarm(Timer.RETRY)
        self.note(retry_at_s=None)
        self.enter(cause, reason)
        self.orders.append(RequestStart(self.record.unit))

    def granted(self) -> None:
        if self.record.state is not State.STARTING:
            # Too late: the place among those who start is free again.
            self.orders.append(WithdrawStart(self.record.unit))
        elif not self.record.alive:
            if self.announced_left_s() > 0:
                # It was announced since the leave was asked for: the request only finds that out.
                self.request(Cause.STARTS_AGAIN, self.record.reason)
            else:
                self._spawn()

    def _spawn(self) -> None:
        incarnation = Incarnation(self.record.incarnation + 1)
        self.note(
            incarnation=incarnation,
            alive=True,
            spawned_s=self.now_s,
            will=None,
            file_changed=False,
        )
        self.orders.append(Spawn(self.record.unit, incarnation))
        self.arm(Timer.START, self.record.policy.start_timeout_s)

    # What the process and the clock say

    def happened(self, fact: _OfProcess | Rang | LastWill) -> None:
        if isinstance(fact, Rang):
            if (fact.timer, fact.number) in self.record.timers:
                self._rang(fact.timer)
        elif fact.incarnation == self.record.incarnation:
            if isinstance(fact, LastWill):
                self._last_will(fact)
            elif self.record.alive:
                self._of_process(fact)

    def _of_process(self, fact: _OfProcess) -> None:
        match fact:
            case Heartbeat():
                self._beat(fact.trouble)
            case Spawned():
                self._spawned(fact.pid)
            case Ready():
                self._ready()
            case SpawnFailed():
                # Only the first answer to a Spawn counts: what exists does not vanish unseen.
                if self.record.pid is None and self.record.ready_s is None:
                    self._ended(LastWill(fact.incarnation, fact.failure, fact.reason), fact.reason)
            case Exited():
                how = str(fact.status)
                self._ended(LastWill(fact.incarnation, FailureClass.CRASH, how), how)

    def _spawned(self, pid: int) -> None:
        if self.record.pid is None and self.record.state is State.DRAINING:
            # The stop came before the process did: what was sent then met nobody.
            self._push(Leaving.TERMED)
        self.note(pid=pid)

    def _ready(self) -> None:
        if self.record.state is State.STARTING:
            self.enter(Cause.MAY_SERVE, "may serve")
            self.note(ready_s=self.now_s, last_beat_s=self.now_s)
            self.disarm(Timer.START)
            self.arm(Timer.STUCK, self.record.policy.stuck_after_s)
            self.arm(Timer.STABLE, self.record.policy.restart.stable_after_s)

    def _beat(self, trouble: str) -> None:
        state = self.record.state
        if state is State.READY and trouble:
            self.enter(Cause.SERVES_BADLY, trouble)
        elif state is State.DEGRADED and not trouble:
            self.enter(Cause.SERVES_WELL, "serves well again")
        elif trouble and state in (State.DEGRADED, State.STARTING):
            self.note(reason=trouble)
        self.note(last_beat_s=self.now_s)

    def _last_will(self, will: LastWill) -> None:
        # Heeded even from a process that is already gone: exit and will may cross.
        self._announced(_bounded_s(will.retry_after_s))
        if not self.record.alive:
            return
        known = self.record.will
        if known is None or (known.failure not in _TOLD and will.failure in _TOLD):
            self.note(will=will)
        if self.record.state is not State.DRAINING:
            # It said that it leaves; the deadline holds it to its word.
            self._leave(Cause.LEAVES, Leaving.TERMED, will.reason, will.failure)

    def _announced(self, wait_s: float) -> None:
        if wait_s > 0:
            self.note(not_before_s=self.now_s + max(wait_s, self.announced_left_s()))
            self.keep()

    def _rang(self, timer: Timer) -> None:
        match timer:
            case Timer.STUCK:
                self._check_stuck()
            case Timer.START:
                self._verdict(f"not ready within {self.record.policy.start_timeout_s:g} s")
            case Timer.DRAIN:
                dumped = self.record.leaving is Leaving.DUMPED
                self._push(Leaving.TERMED if dumped else Leaving.KILLED)
            case Timer.RETRY:
                self.request(Cause.DELAY_PASSED, "the wait is over")
            case Timer.STABLE:
                # Neither the intensity window nor a burnt key is forgiven by one quiet minute.
                self.disarm(timer)
                self.note(failures=0)

    def _check_stuck(self) -> None:
        # Heartbeats only note their time; this timer looks at the note. That keeps a heartbeat
        # free of orders, and one timer per unit is enough.
        limit_s = self.record.policy.stuck_after_s
        # The clock may go back: a beat from the future would hide silence until then.
        self.note(last_beat_s=min(self.record.last_beat_s, self.now_s))
        # Not `limit_s` minus the silence: rounded, that can be left for ever at a delay of nothing.
        left_s = self.record.last_beat_s + limit_s - self.now_s
        if left_s > 0:
            self.arm(Timer.STUCK, left_s)
        else:
            self._verdict(f"no heartbeat for {self.now_s - self.record.last_beat_s:.0f} s")

    def suspended(self, gap_s: float) -> None:
        """Gives its full time again to each deadline of which `gap_s` took more than half."""
        policy = self.record.policy
        for timer, _ in self.record.timers:
            match timer:
                case Timer.START:
                    limit_s = policy.start_timeout_s
                case Timer.STUCK:
                    limit_s = policy.stuck_after_s
                case Timer.DRAIN:
                    limit_s = self._drain_limit_s()
                case Timer.RETRY | Timer.STABLE:
                    continue
            if gap_s > limit_s / 2:
                self.note(last_beat_s=self.now_s)
                self.arm(timer, limit_s)

    # How it leaves

    def _drain(self, reason: str) -> None:
        """Asks the process to leave, as somebody asked."""
        self._leave(Cause.LEAVES, Leaving.TERMED, reason)
        self.signal(Stop.TERM)

    def _verdict(self, reason: str) -> None:
        """Makes a process leave that does not answer: its stacks first, then TERM, then KILL."""
        self.note(will=LastWill(self.record.incarnation, FailureClass.STUCK, reason))
        self._leave(Cause.LEAVES, Leaving.DUMPED, reason, FailureClass.STUCK)
        self.signal(Stop.DUMP)

    def _leave(
        self, cause: Cause, leaving: Leaving, reason: str, failure: FailureClass | None = None
    ) -> None:
        self.disarm(Timer.START, Timer.STUCK, Timer.STABLE)
        self.enter(cause, reason, failure)
        self.note(leaving=leaving)
        self.arm(Timer.DRAIN, self._drain_limit_s())

    def _push(self, leaving: Leaving) -> None:
        self.note(leaving=leaving)
        self.signal(Stop.KILL if leaving is Leaving.KILLED else Stop.TERM)
        self.arm(Timer.DRAIN, self._drain_limit_s())

    def _drain_limit_s(self) -> float:
        match self.record.leaving:
            case Leaving.DUMPED:
                return self.record.policy.dump_before_term_s
            case Leaving.KILLED:
                return KILL_AGAIN_S
        return self.record.policy.drain_timeout_s

    # What comes after an end

    def _ended(self, will: LastWill, how: str) -> None:
        """The process is gone: what comes next follows from what was wanted and why it left.

        `will` is what to believe if the process left none; `how` is its exit status in words.
        """
        again, will = self.record.again, self.record.will or will
        self.note(alive=False, pid=None, ready_s=None, again=False, leaving=Leaving.NO)
        self.disarm(Timer.START, Timer.STUCK, Timer.DRAIN, Timer.STABLE)
        if will.failure is FailureClass.FENCED:
            self.orders.append(DropSession(self.record.unit))
        if self.record.desired is Desired.STOPPED:
            self.enter(Cause.LEFT, self.record.reason)
        elif again:
            self.request(Cause.STARTS_AGAIN, self.record.reason)
        else:
            self._fail(will, will.reason if will.reason == how else f"{will.reason} ({how})")

    def _fail(self, will: LastWill, reason: str) -> None:
        match will.failure:
            case FailureClass.NEEDS_OPERATOR:
                self._give_up(will.reason)
            case FailureClass.WAIT:
                self._wait(will.reason)
            case FailureClass.FENCED:
                self._fenced(will.reason)
            case FailureClass.RECYCLE:
                self._start_again(will.reason, will.failure)
            case FailureClass.NETWORK:
                # A network that is down ends by itself: its slow retry is the longest backoff.
                slowest_s = self.record.policy.restart.max_delay_s
                self._back_off(reason, will.failure, slowest_s)
            case FailureClass.STUCK | FailureClass.DEAF | FailureClass.CRASH:
                self._back_off(reason, will.failure, self.record.policy.restart.slow_retry_s)

    def _give_up(self, reason: str) -> None:
        if self.record.file_changed:
            self._start_again("its file changed", FailureClass.NEEDS_OPERATOR)
        else:
            self.enter(Cause.GIVEN_UP, reason, FailureClass.NEEDS_OPERATOR)

    def _wait(self, reason: str) -> None:
        """Telegram said how long: no failure, and kept over a restart of the brain."""
        policy, delay_s = self.record.policy.restart, self.announced_left_s()
        if self.record.failures:
            backoff_s = backoff.delay_s(policy, self.record.failures, self.draw)
            delay_s = max(delay_s, backoff_s)
        delay_s, count = self._paced(delay_s, policy.slow_retry_s)
        self.enter(Cause.TOLD_TO_WAIT, f"{reason}; {count}", FailureClass.WAIT)
        self.retry_after(delay_s)

    def _fenced(self, reason: str) -> None:
        """The key is burnt. A new one is made once; a second time somebody else uses the bot."""
        before_s = self.record.fenced_s
        self.note(fenced_s=self.now_s)
        if before_s is not None and self.now_s - before_s < FENCE_MEMORY_S:
            mend = "again, with a new key: stop whoever else runs this bot, then start it"
            self.enter(Cause.GIVEN_UP, f"{reason}; {mend}", FailureClass.FENCED)
        else:
            slowest_s = self.record.policy.restart.slow_retry_s
            self._back_off(f"{reason}; a new key will be made", FailureClass.FENCED, slowest_s)

    def _back_off(self, reason: str, failure: FailureClass, slowest_s: float) -> None:
        policy, failures = self.record.policy.restart, self.record.failures + 1
        self.note(failures=failures)
        delay_s, count = self._paced(backoff.delay_s(policy, failures, self.draw), slowest_s)
        self.enter(Cause.FAILED_FOR_NOW, f"{reason}; {count}", failure)
        self.retry_after(delay_s)

    def _start_again(self, reason: str, failure: FailureClass) -> None:
        """At once, unless that happens too often."""
        delay_s, count = self._paced(0.0, self.record.policy.restart.slow_retry_s)
        if delay_s > 0:
            self.enter(Cause.TOO_OFTEN, f"{reason}; {count}", failure)
            self.retry_after(delay_s)
        else:
            self.request(Cause.STARTS_AGAIN, reason)

    def _paced(self, delay_s: float, slowest_s: float) -> tuple[float, str]:
        """Counts one more restart; `delay_s`, or longer if there are too many within the window.

        Then the next start also waits until the window has room for it: so that no policy lets
        more than `max_restarts` + 1 starts into any window, besides those that somebody asked for.
        """
        policy = self.record.policy.restart
        most, since_s = max(0, policy.max_restarts), self.now_s - policy.within_s
        recent = tuple(at_s for at_s in self.record.recent if since_s < at_s <= self.now_s)
        # What is beyond the cap decides nothing more: the record stays small.
        recent = (*recent, self.now_s)[-(most + 1) :]
        self.note(recent=recent, restarts=self.record.restarts + 1)
        if len(recent) <= most:
            return delay_s, f"restart {len(recent)} of {most} within {policy.within_s:g} s"
        slow_s = backoff.slow_delay_s(slowest_s, self.draw)
        return (
            max(delay_s, slow_s, recent[0] - since_s),
            f"slowed down: more than {most} restarts within {policy.within_s:g} s",
        )

    def _forgive(self) -> None:
        """Somebody did something about it: the next failure is the first again."""
        self.note(failures=0, fenced_s=None)

    def _desire(self, desired: Desired) -> None:
        if self.record.desired is not desired:
            self.note(desired=desired)
            self.keep()
