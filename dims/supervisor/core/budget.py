"""How the connections that a database server allows are shared by all workers. Pure and total.

Each worker has a fixed `share` that is its own for as long as it lives, brain or no brain. What is
left over is lent: a worker *reports* how many borrowed connections it holds and how many it wants,
the brain answers with a *word*, how many it may have. Words are numbered, and a report says which
one it has heard, so a report that crossed a word on its way changes nothing.

A connection counts as lent until the worker has said that it is closed, or is gone itself. So no
order of messages, and no death of any process, makes more of them than there are. Who waits is
served in order of arrival; when nothing is left, who has most gives one back.

The record is changed in place and handed back, as that of `fleet`: it has one owner.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from dims.supervisor.core.facts import UnitId

RESERVE = 3
"""Connections for DIMS itself: the steward, `dims db`, somebody with psql."""
SLACK = 0.05
"""Part of the server's connections left free: a server lets go of the connection of a process that
was killed a moment after the process is gone."""


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """What a worker says of its borrowed connections."""

    holds: int
    """Open, opening or closing."""
    wants: int
    """In all, those it holds included."""
    seen: int
    """Number of the last word it has heard; 0 for none."""


class Word(NamedTuple):
    """To be told to `unit`: from now on it may have `granted` borrowed connections."""

    unit: UnitId
    number: int
    granted: int


@dataclass(slots=True)
class _Holder:
    granted: int = 0
    number: int = 0
    charged: int = 0
    """As many may be open: what it may have, or what it has not given back yet."""
    wants: int = 0
    last_s: float = 0.0
    """When it was given one."""
    is_fresh: bool = False
    """It was given one and has not answered: taken back before it is used, it would help nobody."""


@dataclass(slots=True)
class BudgetRecord:
    """All that is known of borrowed connections."""

    total: int = 0
    holders: dict[UnitId, _Holder] = field(default_factory=dict)
    queue: OrderedDict[UnitId, float] = field(default_factory=OrderedDict)
    """Who waits, in order of arrival, since when in seconds."""
    granted: int = 0
    """The sum of what all may have."""
    lent: int = 0
    """The sum of what is charged: never less than what is open."""
    waited_max_s: float = 0.0
    """The longest wait so far."""


Decision = tuple[BudgetRecord, tuple[Word, ...]]


def share_of(connections: int, workers: int, most: int) -> tuple[int, int]:
    """The share of each worker, and what is left to lend, of so many connections.

    No share is more than `most`, the largest pool.
    """
    connections = max(1, connections)
    share = min(most, connections // workers) if workers else 0
    return share, connections - share * workers


def usable(max_connections: int, reserved: int) -> int:
    """The connections that workers may have, of a server with so many, of which it keeps
    `reserved` for administrators; at least 1."""
    return max(1, max_connections - reserved - RESERVE - int(max_connections * SLACK))


def set_total(record: BudgetRecord, total: int, now_s: float) -> Decision:
    """From now on so many may be lent; what is lent beyond is asked back."""
    record.total = max(0, total)
    return _settle(record, now_s, {})


def report(
    record: BudgetRecord, unit: UnitId, said: BudgetReport, now_s: float, *, renews: bool = False
) -> Decision:
    """A worker has reported; with `renews` it is answered even when nothing has changed."""
    holder = record.holders.setdefault(unit, _Holder())
    holds, wants = max(0, said.holds), max(0, said.wants)
    if not holder.number and said.seen > 0:
        # It goes by the word of a former brain: that counts on.
        holder.number = said.seen
        _set(record, holder, granted=holds, charged=holds)
    elif said.seen >= holder.number:
        # Nothing of ours is on its way to it: what it no longer wants it does not have either.
        granted = min(holder.granted, max(wants, holds))
        _set(record, holder, granted=granted, charged=max(granted, holds))
    else:
        _set(record, holder, granted=holder.granted, charged=max(holder.charged, holds))
    holder.wants = wants
    holder.is_fresh = holder.is_fresh and said.seen < holder.number
    _queue(record, unit, holder, now_s)
    return _settle(record, now_s, {unit: None} if renews else {})


def gone(record: BudgetRecord, unit: UnitId, now_s: float) -> Decision:
    """The process of the worker has ended, and all its connections with it."""
    record.queue.pop(unit, None)
    holder = record.holders.pop(unit, None)
    if holder is not None:
        _set(record, holder, granted=0, charged=0)
    return _settle(record, now_s, {})


def former(record: BudgetRecord, unit: UnitId, most: int) -> BudgetRecord:
    """A worker that a former brain started still runs: it may hold up to `most` until it has
    reported or is gone."""
    holder = record.holders.setdefault(unit, _Holder())
    _set(record, holder, granted=holder.granted, charged=max(holder.charged, most))
    return record


def free(record: BudgetRecord) -> int:
    """What can be lent now; below 0 when the total has shrunk."""
    return record.total - record.lent


def _set(record: BudgetRecord, holder: _Holder, *, granted: int, charged: int) -> None:
    record.granted += granted - holder.granted
    record.lent += charged - holder.charged
    holder.granted, holder.charged = granted, charged


def _queue(record: BudgetRecord, unit: UnitId, holder: _Holder, now_s: float) -> None:
    if holder.wants > holder.granted:
        record.queue.setdefault(unit, now_s)
    else:
        record.queue.pop(unit, None)


def _settle(record: BudgetRecord, now_s: float, told: dict[UnitId, None]) -> Decision:
    """Lends what is free, asks back what is needed; `told` are to hear in any case."""
    _lend(record, now_s, told)
    _ask_back(record, now_s, told)
    words = []
    for unit in told:
        holder = record.holders[unit]
        holder.number += 1
        words.append(Word(unit, holder.number, holder.granted))
    return record, tuple(words)


def _lend(record: BudgetRecord, now_s: float, told: dict[UnitId, None]) -> None:
    """One to each who waits, in turn, as long as there are any."""
    while record.queue and free(record) > 0:
        unit, since_s = record.queue.popitem(last=False)
        holder = record.holders[unit]
        record.waited_max_s = max(record.waited_max_s, now_s - since_s)
        granted = holder.granted + 1
        _set(record, holder, granted=granted, charged=max(holder.charged, granted))
        holder.last_s, holder.is_fresh = now_s, True
        told[unit] = None
        _queue(record, unit, holder, now_s)


def _ask_back(record: BudgetRecord, now_s: float, told: dict[UnitId, None]) -> None:
    """Asks for as many as are missing: for a total that has shrunk, and one for each who waits,
    from who has most, provided that is more than the one who waits has."""
    coming = record.lent - record.granted
    beyond = -free(record) - coming
    for _ in range(beyond):
        victim = _richest(record, more_than=0)
        if victim is None:
            return
        _take(record, victim, now_s, told)
    # Those at the head of the queue get what is coming; a unit that gives one back joins its end.
    in_vain: int | None = None
    for unit in tuple(record.queue)[max(0, coming + free(record)) :]:
        granted = record.holders[unit].granted
        if in_vain is not None and granted >= in_vain:
            continue
        victim = _richest(record, more_than=granted) if record.granted else None
        if victim is None:
            if not granted:
                return
            # Nobody has more than this one; who has less is still to be helped.
            in_vain = granted
            continue
        _take(record, victim, now_s, told)


def _richest(record: BudgetRecord, more_than: int) -> UnitId | None:
    """Who has most, and of these was given one longest ago."""
    best: UnitId | None = None
    best_key = (more_than, float("-inf"))
    for unit, holder in record.holders.items():
        key = (holder.granted, -holder.last_s)
        if holder.granted > more_than and not holder.is_fresh and key > best_key:
            best, best_key = unit, key
    return best


def _take(record: BudgetRecord, unit: UnitId, now_s: float, told: dict[UnitId, None]) -> None:
    holder = record.holders[unit]
    _set(record, holder, granted=holder.granted - 1, charged=holder.charged)
    told[unit] = None
    _queue(record, unit, holder, now_s)
