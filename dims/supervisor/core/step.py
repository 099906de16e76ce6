"""One decision in the making: the record so far, and the orders so far. Pure.

Knows how each small step is written down (a timer armed, a state entered); refuses to know why.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import Any

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import State
from dims.supervisor.core.facts import Timer, TimerNumber
from dims.supervisor.core.orders import Arm, Keep, Order, Signal, Stop, Tell, WithdrawStart
from dims.supervisor.core.states import TRANSITIONS, Cause, UnitRecord

_values = attrgetter(*(field.name for field in fields(UnitRecord)))


class Step:
    """Collects what `lifecycle` decides about one fact at `now_s`; `draw` is its share of luck."""

    __slots__ = ("_own", "draw", "now_s", "orders", "record")

    def __init__(self, record: UnitRecord, now_s: float, draw: float) -> None:
        self.record = record
        self.now_s = now_s
        self.draw = draw
        self.orders: list[Order] = []
        self._own = False

    def note(self, **changes: Any) -> None:
        """Changes fields of the record.

        The first change makes a copy, the later ones change that copy, which nobody else has seen
        yet. A `dataclasses.replace` for each would be most of the time that a decision takes.
        """
        if not self._own:
            self.record = UnitRecord(*_values(self.record))
            self._own = True
        for name, value in changes.items():
            object.__setattr__(self.record, name, value)

    def enter(self, cause: Cause, reason: str, failure: FailureClass | None = None) -> None:
        """The unit is in the state that follows from `cause`; fleet and operator hear of it.

        Raises KeyError for a cause that cannot be in the present state: a fault of `lifecycle`.
        """
        record = self.record
        state = TRANSITIONS[record.state][cause]
        if record.state is State.STARTING:
            self.orders.append(WithdrawStart(record.unit))
        self.note(state=state, since_s=self.now_s, reason=reason, failure=failure)
        self.orders.append(Tell(record.unit, record.incarnation, state, reason, failure, cause))

    def signal(self, stop: Stop) -> None:
        """A signal to the process of this incarnation."""
        self.orders.append(Signal(self.record.unit, self.record.incarnation, stop))

    def keep(self) -> None:
        """What must outlive the brain is stored as it is now."""
        record = self.record
        self.orders.append(Keep(record.unit, record.desired, self.announced_left_s() or None))

    def announced_left_s(self) -> float:
        """How much of a wait that Telegram announced is still to come, in seconds."""
        not_before_s = self.record.not_before_s
        return 0.0 if not_before_s is None else max(0.0, not_before_s - self.now_s)

    def arm(self, timer: Timer, delay_s: float) -> None:
        """`timer` rings after `delay_s`, and an earlier one of its kind counts no more."""
        number = self.record.next_number
        timers = (*self._others((timer,)), (timer, number))
        self.note(timers=timers, next_number=TimerNumber(number + 1))
        self.orders.append(Arm(self.record.unit, timer, number, delay_s))

    def disarm(self, *timers: Timer) -> None:
        """None of `timers` counts any more.

        The engine need not be told: a timer whose number is not in the record rings in vain.
        """
        self.note(timers=self._others(timers))

    def retry_after(self, delay_s: float) -> None:
        """The next start is due after `delay_s`."""
        self.note(retry_at_s=self.now_s + delay_s)
        self.arm(Timer.RETRY, delay_s)

    def _others(self, timers: tuple[Timer, ...]) -> tuple[tuple[Timer, TimerNumber], ...]:
        return tuple(armed for armed in self.record.timers if armed[0] not in timers)
