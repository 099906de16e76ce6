"""How much CPU the fleet's processes use: looks now and then, and remembers the last two looks.

Knows who heads which processes; refuses to judge. Nobody who asks waits for a look, and none is
made for him: each of the machine's processes must be read, 50 to 75 µs, and a thousand bots that
are asked about every second would cost more than all else that the brain does. So it looks by
itself, more rarely the more processes there are, and a few of them at a turn.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dims.ipc.words.operator import MachineStatus
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.roster import Roster
from dims.supervisor.core.facts import UnitId
from dims.supervisor.core.states import UnitRecord
from dims.supervisor.units.units import ZYGOTE
from dims.system.clock import Clock
from dims.system.cpu_times import ProcessTimes, Spent, core_percent, family_times
from dims.system.machine import read_machine, read_processes

LEAST_PAUSE_S = 5.0
"""The kernel counts in hundredths of a second: 0.2 % of a core is the least that is seen."""
PAUSE_PER_PROCESS_S = 0.04
"""Over 500 times what it takes to read one: looking uses at most 0.2 % of a core. With 300
processes on the machine it looks every 12 s, with 1,300 every 52 s."""
AT_A_TURN = 32
"""Processes read without a pause: under 3 ms."""
_BRAIN = UnitId("brain")
_MACHINE = UnitId("#machine")


def pause_s(processes: int) -> float:
    """How long to wait after a look at so many."""
    return max(LEAST_PAUSE_S, processes * PAUSE_PER_PROCESS_S)


@dataclass(frozen=True, slots=True)
class _Head:
    unit: UnitId
    life: int


class CpuUse:
    """Of one fleet, of its brain and of the machine."""

    def __init__(self, roster: Roster, engine: Engine, clock: Clock) -> None:
        self._roster = roster
        self._engine = engine
        self._clock = clock
        self._spent: dict[UnitId, Spent] = {}
        self._percents: dict[UnitId, float | None] = {}
        self._machine: MachineStatus | None = None

    async def watch(self) -> None:
        """Looks again and again; never returns."""
        count = 0
        while True:
            await asyncio.sleep(pause_s(count))
            count = await self.look()

    async def look(self) -> int:
        """Reads all processes, and says how many there are."""
        processes = await _in_turns(read_processes())
        heads = self._heads()
        zygote = self._engine.records[ZYGOTE].pid
        nurses = () if zygote is None else (zygote,)
        now_s = self._clock.monotonic()
        former, self._spent, self._percents = self._spent, {}, {}
        for pid, cpu_s in family_times(processes, heads, nurses).items():
            self._note(former, heads[pid], now_s, cpu_s)
        self._look_at_machine(former, now_s)
        return len(processes)

    def of(self, record: UnitRecord) -> float | None:
        """Percent of a core of the unit's process and its children, between the last two looks.
        None until this very process was looked at twice."""
        spent = self._spent.get(record.unit)
        if spent is None or spent.life != record.incarnation:
            return None
        return self._percents[record.unit]

    @property
    def of_brain(self) -> float | None:
        """Percent of a core of this process; None before the second look."""
        return self._percents.get(_BRAIN)

    @property
    def machine(self) -> MachineStatus | None:
        """As of the last look; None before the first."""
        return self._machine

    def _heads(self) -> dict[int, _Head]:
        heads = {os.getpid(): _Head(_BRAIN, os.getpid())}
        for unit in self._roster.all():
            record = self._engine.records[unit]
            if record.alive and record.pid is not None:
                heads[record.pid] = _Head(unit, record.incarnation)
        return heads

    def _look_at_machine(self, former: dict[UnitId, Spent], now_s: float) -> None:
        read = read_machine()
        self._note(former, _Head(_MACHINE, 0), now_s, read.busy_s)
        before = former.get(_MACHINE)
        self._machine = MachineStatus(
            cpu_percent=self._percents[_MACHINE],
            interval_s=None if before is None else round(now_s - before.at_s, 3),
            cores=read.cores,
            load=read.load,
            memory_bytes=read.memory_bytes,
            memory_available_bytes=read.memory_available_bytes,
        )

    def _note(self, former: dict[UnitId, Spent], head: _Head, now_s: float, cpu_s: float) -> None:
        now = Spent(head.life, now_s, cpu_s)
        self._spent[head.unit] = now
        self._percents[head.unit] = core_percent(former.get(head.unit), now)


async def _in_turns(reading: Iterator[ProcessTimes]) -> list[ProcessTimes]:
    read: list[ProcessTimes] = []
    while some := list(islice(reading, AT_A_TURN)):
        read += some
        await asyncio.sleep(0)
    return read
