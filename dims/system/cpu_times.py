"""CPU time of processes and of families of them, and what percentage of a core that was. Pure.

Knows numbers that a kernel has counted; refuses to know where they come from and whose they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """What one process has used since it began; user and system time together."""

    pid: int
    parent: int
    own_s: float
    reaped_s: float
    """Of its children that have ended and been waited for, and of theirs."""


@dataclass(frozen=True, slots=True)
class Spent:
    """How much CPU time somebody had used at some moment."""

    life: int
    """Which of the lives that bear the same name; each counts from 0."""
    at_s: float
    cpu_s: float


def family_times(
    processes: Iterable[ProcessTimes], heads: Collection[int], nurses: Collection[int] = ()
) -> dict[int, float]:
    """CPU seconds by head: of its process, and of all below that have no nearer head.

    A child that ends takes nothing away: its time goes over to whoever waited for it. `nurses` are
    heads that wait for other heads; what ended below them is not counted, for it may be anybody's.
    A child that outlives its parent has another one then, and leaves the family with its time.
    """
    known = {process.pid: process for process in processes}
    parents = {pid: process.parent for pid, process in known.items()}
    sums: dict[int, float] = {}
    for pid, process in known.items():
        head = _head(pid, parents, heads)
        if head is not None:
            reaped_s = 0.0 if pid in nurses else process.reaped_s
            sums[head] = sums.get(head, 0.0) + process.own_s + reaped_s
    return sums


def core_percent(before: Spent | None, now: Spent) -> float | None:
    """100 is one core, all the time between the two; None when nothing is known of this life
    before, or the clock went back. Time that has shrunk, for a child has left the family, counts
    as none used."""
    if before is None or before.life != now.life or now.at_s <= before.at_s:
        return None
    lasted_s = now.at_s - before.at_s
    return round(100 * max(0.0, now.cpu_s - before.cpu_s) / lasted_s, 1)


def _head(pid: int, parents: dict[int, int], heads: Collection[int]) -> int | None:
    # Processes are read one after the other while they come and go: a pid that is used again
    # meanwhile can close the way up to a circle.
    passed: set[int] = set()
    while pid not in heads:
        if pid in passed or pid not in parents:
            return None
        passed.add(pid)
        pid = parents[pid]
    return pid
