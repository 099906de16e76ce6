"""Every transition in the table happens, and no other: all stories of one unit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from usual import POLICY, RESTART

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired
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
    UnitId,
)
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.orders import Tell
from dims.supervisor.core.states import TRANSITIONS, UnitRecord

ONE_RESTART = replace(POLICY, restart=replace(RESTART, max_restarts=1, within_s=1e9))
STEP_S = 100.0


def facts_of(record: UnitRecord) -> Iterator[Fact]:
    """Everything that may happen to a unit next."""
    born = record.incarnation
    yield from (AskedStart(), AskedStop(), AskedRestart(), Granted(), FileChanged())
    if born == 0:
        for desired in Desired:
            yield Found(desired, Incarnation(1))
            yield Found(desired, Incarnation(1), 250.0)
            for goes_on in (False, True):
                yield Found(desired, Incarnation(1), pid=6, goes_on=goes_on)
    yield from (Spawned(born, 7), Ready(born), Heartbeat(born), Heartbeat(born, "slow"))
    yield Exited(born, ExitStatus(code=1))
    for failure in FailureClass:
        yield SpawnFailed(born, failure, "no")
        yield LastWill(born, failure, "said so", 250.0)
    for timer, number in record.timers:
        yield Rang(timer, number)


def kind(record: UnitRecord, now_s: float) -> tuple[object, ...]:
    """What tells two records apart for the decisions to come."""
    return (
        record.state,
        record.desired,
        record.alive,
        record.pid,
        record.again,
        record.leaving,
        record.will and record.will.failure,
        record.fenced_s is None,
        record.file_changed,
        len(record.recent),
        (record.not_before_s or 0.0) > now_s,
        {timer for timer, _ in record.timers} == set(),
    )


def test_every_transition_in_the_table_happens_and_no_other() -> None:
    begin = UnitRecord(UnitId("echo"), ONE_RESTART)
    seen, frontier = {kind(begin, 0.0)}, deque([(begin, 0.0)])
    happened = set()
    while frontier:
        record, now_s = frontier.popleft()
        now_s += STEP_S
        for fact in facts_of(record):
            after, orders = decide(record, fact, now_s, 0.5)
            state = record.state
            for order in orders:
                if isinstance(order, Tell):
                    happened.add((state, order.cause, order.state))
                    state = order.state
            if (known := kind(after, now_s)) not in seen:
                seen.add(known)
                frontier.append((after, now_s))
    assert happened == {
        (old, cause, new) for old, row in TRANSITIONS.items() for cause, new in row.items()
    }
