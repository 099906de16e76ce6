"""The loop that owns all state, in virtual time: what a fleet at rest costs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from usual import PACE, POLICY
from virtual import VirtualLoop, run

from dims.ipc.words.states import Desired, State
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.store import Store
from dims.supervisor.core.facts import (
    AskedStart,
    Found,
    Heartbeat,
    Incarnation,
    Ready,
    Spawned,
    UnitId,
)
from dims.supervisor.core.orders import Stop
from dims.supervisor.core.pacing import Wish
from dims.supervisor.core.states import UnitRecord
from dims.system.clock import Clock

BOTS = [UnitId(f"bot-{number}") for number in range(200)]
BEAT_S = 10.0
REST_S = 60.0


class Machine:
    """One on which every start works at once; remembers the signals, and when they were sent."""

    def __init__(self, loop: VirtualLoop, directory: Path) -> None:
        self._loop = loop
        self._store = Store(directory / "state.db")
        clock = Clock(loop.time, loop.time, lambda: 0.5)
        self.engine = Engine(self._store, self, clock, PACE)
        self.signals: list[tuple[UnitId, Stop, float]] = []
        for bot in BOTS:
            self.engine.add(UnitRecord(bot, POLICY), service=False)
            self.engine.post(bot, Found(Desired.STOPPED, Incarnation(0)))
        self.engine.start()
        self.engine.post_all(BOTS, AskedStart())

    def spawn(self, unit: UnitId, incarnation: Incarnation) -> None:
        self.engine.post(unit, Spawned(incarnation, 1))
        self.engine.post(unit, Ready(incarnation))

    def signal(self, record: UnitRecord, stop: Stop) -> None:
        self.signals.append((record.unit, stop, self._loop.time()))

    def drop_session(self, unit: UnitId) -> None: ...

    def wish(self, unit: UnitId) -> Wish:
        return Wish(unit)

    def entered(self, record: UnitRecord) -> None: ...

    def close(self) -> None:
        self.engine.close()
        self._store.close()


async def _beat(machine: Machine, bots: list[UnitId], for_s: float) -> int:
    """Each bot says that it lives every `BEAT_S`, at its own moment; how many times in all."""
    loop = asyncio.get_running_loop()
    step_s, count = BEAT_S / len(bots), round(for_s / BEAT_S) * len(bots)
    for number in range(count):
        bot = bots[number % len(bots)]
        beat = Heartbeat(Incarnation(1))
        loop.call_later(number * step_s, machine.engine.post, bot, beat)
    await asyncio.sleep(for_s)
    return count


def test_a_fleet_at_rest_wakes_the_brain_for_its_beats_and_little_more(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        machine = Machine(loop, tmp_path)
        await _beat(machine, BOTS, REST_S)
        before = loop.turns
        beats = await _beat(machine, BOTS, REST_S)
        assert all(machine.engine.records[bot].state is State.READY for bot in BOTS)
        # One for each beat, one a second for all deadlines; neither commits nor timers for each.
        assert loop.turns - before < beats + 2 * REST_S
        machine.close()

    run(main())


def test_deadlines_that_ring_together_find_who_is_silent_within_a_second(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        machine = Machine(loop, tmp_path)
        began_s = loop.time()
        await _beat(machine, BOTS[1:], REST_S)
        stuck_after_s = machine.engine.records[BOTS[0]].policy.stuck_after_s
        unit, stop, at_s = machine.signals[0]
        assert (unit, stop) == (BOTS[0], Stop.DUMP)
        assert stuck_after_s <= at_s - began_s <= stuck_after_s + 1
        assert {unit for unit, _, _ in machine.signals} == {BOTS[0]}
        machine.close()

    run(main())
