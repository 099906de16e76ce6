"""The one loop that owns all state: takes a fact, decides, stores, performs the orders.

Everything here runs in the event loop's thread and never waits, so there are no locks: a fact
posted while another is decided queues behind it.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from dims.supervisor.brain.store import Store
from dims.supervisor.core import pacing
from dims.supervisor.core.facts import Fact, Granted, Incarnation, Rang, Suspended, Timer, UnitId
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.orders import (
    Arm,
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
from dims.supervisor.core.pacing import FleetRecord, LetStart, Pace, WakeAfter, Wish
from dims.supervisor.core.states import SERVING, UnitRecord
from dims.system.clock import Clock

_log = logging.getLogger(__name__)

TRY_AGAIN_S = 1.0
"""After a commit that failed, for instance on a full disk."""
COMMIT_WITHIN_S = 0.01
"""A commit costs about 0.1 ms: many facts that come within this time share one."""
TOGETHER_S = 1.0
_UNHURRIED = frozenset({Timer.STUCK, Timer.STABLE})
"""Long deadlines that nobody waits for ring on the full second, all of a fleet's together: a
thousand bots would wake this process 30 times a second."""
LONGEST_TICK_S = 5.0
"""How often the engine looks at its clock when nothing happens, to notice a suspension."""


class Actions(Protocol):
    """What the engine cannot do itself: each returns at once, and the outcome comes as a fact."""

    def spawn(self, unit: UnitId, incarnation: Incarnation) -> None:
        """Makes a process."""

    def signal(self, record: UnitRecord, stop: Stop) -> None:
        """Signals the unit's process."""

    def drop_session(self, unit: UnitId) -> None:
        """Gives up the unit's Telegram session."""

    def wish(self, unit: UnitId) -> Wish:
        """What the unit needs in order to start."""

    def entered(self, record: UnitRecord) -> None:
        """A unit is in a new state."""


class Engine:
    """Owns the records of all units and of the pacing."""

    def __init__(self, store: Store, actions: Actions, clock: Clock, pace: Pace) -> None:
        self._store = store
        self._actions = actions
        self._clock = clock
        self._records: dict[UnitId, UnitRecord] = {}
        self._services: set[UnitId] = set()
        self._fleet = FleetRecord(pace)
        self._facts: deque[tuple[UnitId, Fact]] = deque()
        self._timers: list[tuple[float, int, UnitId, Rang | None]] = []
        self._timer_count = 0
        self._deciding = False
        self._handle: asyncio.TimerHandle | None = None
        self._rings_s = 0.0
        """When the handle rings, on our clock."""
        self._commit: asyncio.TimerHandle | None = None
        self._tick_s = LONGEST_TICK_S
        self._seen_s = clock.monotonic()
        self.keeps_desired = True
        """False while the whole fleet stops: then a stop is not the operator's wish for later."""

    @property
    def records(self) -> dict[UnitId, UnitRecord]:
        """All records; read only."""
        return self._records

    def add(self, record: UnitRecord, *, service: bool) -> None:
        """Takes a unit in; `service` when others may need it."""
        self._records[record.unit] = record
        if service:
            self._services.add(record.unit)
        self._tick_s = min(self._tick_s, record.policy.stuck_after_s / 4)

    def post(self, unit: UnitId, fact: Fact) -> None:
        """Something happened to `unit`; decided at once, or after what is being decided now."""
        self.post_all((unit,), fact)

    def post_all(self, units: Iterable[UnitId], fact: Fact) -> None:
        """The same happened to many units: one turn, and so one commit, for all of them."""
        self.post_each((unit, fact) for unit in units)

    def post_each(self, facts: Iterable[tuple[UnitId, Fact]]) -> None:
        """This happened, in one turn."""
        self._facts.extend(facts)
        if not self._deciding:
            self._notice_gap()
            self._drain()
            self._settle()

    def _drain(self) -> None:
        self._deciding = True
        try:
            while self._facts:
                self._decide(*self._facts.popleft())
        finally:
            self._deciding = False

    def start(self) -> None:
        """Timers run from now on."""
        self._seen_s = self._clock.monotonic()
        self._settle()

    def close(self) -> None:
        """Timers ring no more."""
        for handle in (self._handle, self._commit):
            if handle is not None:
                handle.cancel()

    def is_up(self, unit: UnitId) -> bool:
        """Whether a service can be used."""
        return unit in self._fleet.up

    def _decide(self, unit: UnitId, fact: Fact) -> None:
        record = self._records.get(unit)
        if record is None:
            return
        try:
            changed, orders = decide(record, fact, self._clock.monotonic(), self._clock.draw())
        except Exception:
            # A fault in one unit's decision must not end the process that guards all the others.
            _log.exception("no decision for %s on %r", unit, fact)
            return
        self._records[unit] = changed
        was_up, is_up = record.state in SERVING, changed.state in SERVING
        if was_up and not is_up and unit in self._services:
            # Before its orders: nobody who needs it may be let in meanwhile.
            self._perform_fleet_of(pacing.service_down(self._fleet, unit))
        for order in orders:
            self._perform(order)
        if is_up and not was_up and unit in self._services:
            now_s = self._clock.monotonic()
            self._perform_fleet_of(pacing.service_up(self._fleet, unit, now_s))
        if changed.state is not record.state:
            self._actions.entered(changed)

    def _perform(self, order: Order) -> None:
        now_s = self._clock.monotonic()
        match order:
            case Spawn():
                self._store.spawning(order.unit, order.incarnation)
                self._actions.spawn(order.unit, order.incarnation)
            case Signal():
                self._actions.signal(self._records[order.unit], order.stop)
            case Arm():
                self._ring_after(order.delay_s, order.unit, Rang(order.timer, order.number))
            case RequestStart():
                self._perform_fleet_of(
                    pacing.wish(self._fleet, self._actions.wish(order.unit), now_s)
                )
            case WithdrawStart():
                self._perform_fleet_of(pacing.withdraw(self._fleet, order.unit, now_s))
            case Keep():
                self._keep(order)
            case DropSession():
                self._actions.drop_session(order.unit)
            case Tell():
                self._store.tell(order, self._clock.utc())
                _log.info(
                    "%s is %s: %s",
                    order.unit,
                    order.state,
                    order.reason,
                    extra={"cause": order.cause.value},
                )

    def _keep(self, order: Keep) -> None:
        retry_at = None
        if order.retry_after_s is not None:
            retry_at = self._clock.utc() + order.retry_after_s
        if self.keeps_desired:
            self._store.keep(order.unit, order.desired, retry_at)
        else:
            # The stop is not meant for next time; what Telegram announced meanwhile is.
            self._store.keep_wait(order.unit, retry_at)

    def _perform_fleet_of(self, decision: pacing.FleetDecision) -> None:
        self._fleet, orders = decision
        self._perform_fleet(orders)

    def _perform_fleet(self, orders: tuple[pacing.FleetOrder, ...]) -> None:
        for order in orders:
            match order:
                case LetStart():
                    self.post(order.unit, Granted())
                case WakeAfter():
                    self._ring_after(order.delay_s, UnitId(""), None)

    # Timers: one heap, one handle of the event loop

    def _ring_after(self, delay_s: float, unit: UnitId, rang: Rang | None) -> None:
        self._timer_count += 1
        due_s = self._clock.monotonic() + delay_s
        if rang is not None and rang.timer in _UNHURRIED and delay_s > 10 * TOGETHER_S:
            due_s = math.ceil(due_s / TOGETHER_S) * TOGETHER_S
        heapq.heappush(self._timers, (due_s, self._timer_count, unit, rang))

    def _settle(self) -> None:
        """After a turn: what was decided is kept, and the next ring is set.

        What an operator wants is on the disk before he is answered. The rest may lag a moment:
        a brain killed in it forgets an event or a pid, and the worker's lease holds all the same.
        """
        if self._store.wants_disk:
            self._store.commit()
        elif self._store.has_changes and self._commit is None:
            self._commit = asyncio.get_running_loop().call_later(COMMIT_WITHIN_S, self._commit_now)
        now_s = self._clock.monotonic()
        due_s = now_s + self._tick_s
        if self._timers:
            due_s = min(due_s, self._timers[0][0])
        if self._handle is not None:
            if self._rings_s <= due_s:
                # Most turns are a heartbeat, after which nothing is due sooner than before.
                return
            self._handle.cancel()
        self._rings_s = due_s
        self._handle = asyncio.get_running_loop().call_later(max(0.0, due_s - now_s), self._ring)

    def _commit_now(self) -> None:
        self._commit = None
        self._store.commit()
        if self._store.trouble:
            self._commit = asyncio.get_running_loop().call_later(TRY_AGAIN_S, self._commit_now)

    def _notice_gap(self) -> None:
        """Every turn comes here first, and the next is due within a tick: a longer gap means that
        this process was suspended, and silence in that time proves nothing about the units."""
        now_s = self._clock.monotonic()
        gap_s, self._seen_s = now_s - self._seen_s, now_s
        if gap_s > 2 * self._tick_s:
            _log.warning("nothing ran here for %.1f s: all deadlines start again", gap_s)
            self._facts.extendleft((unit, Suspended(gap_s)) for unit in self._records)

    def _ring(self) -> None:
        self._handle = None
        self._notice_gap()
        now_s = self._clock.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            _, _, unit, rang = heapq.heappop(self._timers)
            if rang is not None:
                self._facts.append((unit, rang))
            else:
                self._perform_fleet_of(pacing.wake(self._fleet, now_s))
        self._drain()
        self._settle()
