"""Who may start now: pacing and order of starts over all units. Pure and total.

Knows which units wait, which are starting and which services are up; refuses everything about
a single unit's life, which is in `lifecycle`.

The record is changed in place and handed back: it has one owner, the engine, and a copy of
10,000 wishes per start is what a start cannot afford. Each operation costs O(log n), amortised;
a service that comes up costs that for each unit that waited for it.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from dims.supervisor.core.facts import UnitId


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a fleet may start."""

    starts_at_once: int
    """Units between spawned and ready at the same time."""
    cold_logins_per_minute: int | None
    """Logins without a stored session; Telegram rations them per address. None: no limit."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A unit that wants to start; `cold` when it has no stored session, `needs` go first."""

    unit: UnitId
    cold: bool = False
    needs: frozenset[UnitId] = frozenset()


@dataclass(frozen=True, slots=True)
class LetStart:
    """Let this unit start now."""

    unit: UnitId


@dataclass(frozen=True, slots=True)
class WakeAfter:
    """Call `wake` after `delay_s`: a cold login becomes free then."""

    delay_s: float


FleetOrder = LetStart | WakeAfter

MINUTE_S = 60.0

_Queue = list[tuple[int, UnitId]]
"""A heap of arrival numbers; an entry counts while its number is still that of the unit's wish."""


@dataclass(slots=True)
class FleetRecord:
    """All that the brain knows about starting, besides the units themselves."""

    pace: Pace
    starting: set[UnitId] = field(default_factory=set)
    up: set[UnitId] = field(default_factory=set)
    """Services and zygotes that are ready."""
    wishes: dict[UnitId, tuple[int, Wish]] = field(default_factory=dict)
    """Who waits, in order of arrival, each with the number of the arrival."""
    arrivals: int = 0
    warm: _Queue = field(default_factory=list)
    cold: _Queue = field(default_factory=list)
    parked: dict[UnitId, _Queue] = field(default_factory=dict)
    """By a service that is down: those who need it."""
    cold_at_s: deque[float] = field(default_factory=deque)
    """When cold logins were granted within the last minute."""
    wake_asked: bool = False
    """The engine was asked for a call of `wake` that it has not made yet."""

    @property
    def waiting(self) -> tuple[Wish, ...]:
        """Who waits, in order of arrival."""
        return tuple(wanted for _, wanted in self.wishes.values())


FleetDecision = tuple[FleetRecord, tuple[FleetOrder, ...]]


def wish(record: FleetRecord, wanted: Wish, now_s: float) -> FleetDecision:
    """`wanted` joins the queue; a second wish of the same unit replaces the first."""
    _forget(record, wanted.unit)
    record.arrivals += 1
    record.wishes[wanted.unit] = (record.arrivals, wanted)
    _enqueue(record, record.arrivals, wanted)
    return _grant(record, now_s)


def withdraw(record: FleetRecord, unit: UnitId, now_s: float) -> FleetDecision:
    """`unit` no longer waits and no longer counts as starting."""
    _forget(record, unit)
    return _grant(record, now_s)


def service_up(record: FleetRecord, unit: UnitId, now_s: float) -> FleetDecision:
    """The service `unit` is ready: those who need it may come."""
    record.up.add(unit)
    for number, parked in record.parked.pop(unit, ()):
        wanted = _still_wanted(record, number, parked)
        if wanted is not None:
            _enqueue(record, number, wanted)
    return _grant(record, now_s)


def service_down(record: FleetRecord, unit: UnitId) -> FleetDecision:
    """The service `unit` is not ready: nobody who needs it starts."""
    record.up.discard(unit)
    return record, ()


def wake(record: FleetRecord, now_s: float) -> FleetDecision:
    """Grants what may be granted now, in order of arrival, warm starts past waiting cold ones."""
    record.wake_asked = False
    return _grant(record, now_s)


def _grant(record: FleetRecord, now_s: float) -> FleetDecision:
    orders: list[FleetOrder] = []
    _expire_cold(record, now_s)
    while len(record.starting) < record.pace.starts_at_once:
        queue = _next_queue(record)
        if queue is None:
            orders.extend(_wake_for_cold(record, now_s))
            break
        number, unit = heapq.heappop(queue)
        _, wanted = record.wishes[unit]
        if not wanted.needs <= record.up:
            # A service went down since: parked now, so that each wish is looked at only once.
            _enqueue(record, number, wanted)
            continue
        del record.wishes[unit]
        record.starting.add(unit)
        if wanted.cold:
            record.cold_at_s.append(now_s)
        orders.append(LetStart(unit))
    return record, tuple(orders)


def _next_queue(record: FleetRecord) -> _Queue | None:
    """The queue whose head came first, of those that may go; their heads are live entries."""
    queues = [record.warm]
    if _ration_allows(record):
        queues.append(record.cold)
    heads = [queue for queue in queues if _live_head(record, queue)]
    return min(heads, default=None)


def _live_head(record: FleetRecord, queue: _Queue) -> bool:
    """Whether anybody waits in `queue`; drops who was withdrawn from its head."""
    while queue and _still_wanted(record, *queue[0]) is None:
        heapq.heappop(queue)
    return bool(queue)


def _wake_for_cold(record: FleetRecord, now_s: float) -> tuple[WakeAfter, ...]:
    """Asks once for a call at the moment when the ration has room for the next cold login."""
    if not _live_head(record, record.cold) or not record.cold_at_s or record.wake_asked:
        return ()
    record.wake_asked = True
    return (WakeAfter(record.cold_at_s[0] + MINUTE_S - now_s),)


def _expire_cold(record: FleetRecord, now_s: float) -> None:
    while record.cold_at_s and record.cold_at_s[0] <= now_s - MINUTE_S:
        record.cold_at_s.popleft()


def _ration_allows(record: FleetRecord) -> bool:
    limit = record.pace.cold_logins_per_minute
    return limit is None or len(record.cold_at_s) < limit


def _enqueue(record: FleetRecord, number: int, wanted: Wish) -> None:
    missing = wanted.needs - record.up
    if missing:
        record.parked.setdefault(min(missing), []).append((number, wanted.unit))
    else:
        heapq.heappush(record.cold if wanted.cold else record.warm, (number, wanted.unit))


def _still_wanted(record: FleetRecord, number: int, unit: UnitId) -> Wish | None:
    known = record.wishes.get(unit)
    return known[1] if known is not None and known[0] == number else None


def _forget(record: FleetRecord, unit: UnitId) -> None:
    record.starting.discard(unit)
    record.wishes.pop(unit, None)
