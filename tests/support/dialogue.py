"""A dialogue with one unit: the test says what happens and when, and hears the orders."""

from __future__ import annotations

from dataclasses import dataclass, field

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import State
from dims.supervisor.core.backoff import RestartPolicy
from dims.supervisor.core.facts import (
    AskedStart,
    Exited,
    Fact,
    Granted,
    Incarnation,
    LastWill,
    Rang,
    Ready,
    Spawned,
    Timer,
    TimerNumber,
    UnitId,
)
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.orders import Arm, Order, Tell
from dims.supervisor.core.states import Cause, Policy, UnitRecord

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


def told(
    state: State,
    reason: str,
    failure: FailureClass | None = None,
    incarnation: Incarnation = FIRST,
) -> Tell:
    return Tell(ECHO, incarnation, state, reason, failure, Cause.MAY_SERVE)


def armed(timer: Timer, number: int, delay_s: float) -> Arm:
    return Arm(ECHO, timer, TimerNumber(number), delay_s)


def kinds(orders: list[Order]) -> list[type]:
    return [type(order) for order in orders]
