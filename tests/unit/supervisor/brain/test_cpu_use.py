"""How often the brain looks at its processes, and whose use of CPU it then shows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from usual import POLICY

from dims.config import load_config
from dims.ipc.words.states import State
from dims.layout import Layout
from dims.supervisor.brain.cpu_use import LEAST_PAUSE_S, pause_s
from dims.supervisor.brain.store import Store
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.states import UnitRecord
from dims.system.clock import SYSTEM

TAKES_S = 75e-6
"""To look at one process, on a busy machine."""
BOTS_YAML = """
telegram: {server: sandbox}
storage: {database: off, redis: off}
bots: [{id: ada, handlers: echo.py}]
"""
ADA = UnitId("ada")


@pytest.mark.parametrize("processes", [0, 1, 100, 300, 1_300, 100_000])
def test_looking_takes_a_fifth_of_a_percent_of_a_core_at_most(processes: int) -> None:
    pause = pause_s(processes)
    assert pause >= LEAST_PAUSE_S
    assert processes * TAKES_S <= 0.002 * pause + 1e-9


async def test_a_process_is_shown_from_its_second_look_on_and_never_with_its_former_life(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bots.yaml"
    path.write_text(BOTS_YAML)
    store = Store(tmp_path / "state.db")
    config = load_config(path, {})
    supervisor = ProcessSupervisor(config, Layout(tmp_path / ".dims"), store, SYSTEM)
    use, engine = supervisor.cpu_use, supervisor.engine
    for unit in supervisor.roster.all():
        engine.add(UnitRecord(unit, POLICY), service=unit != ADA)
    first = UnitRecord(
        ADA, POLICY, state=State.READY, alive=True, pid=os.getppid(), incarnation=Incarnation(1)
    )
    second = replace(first, incarnation=Incarnation(2))

    async def look_at(record: UnitRecord) -> float | None:
        engine.add(record, service=False)
        await use.look()
        return use.of(record)

    try:
        assert (use.of(first), use.of_brain, use.machine) == (None, None, None)
        assert await look_at(first) is None
        assert await look_at(first) is not None
        assert use.of(second) is None
        # Its pid is used again, by the next process of the same bot.
        assert await look_at(second) is None
        assert await look_at(second) is not None
        assert await look_at(replace(second, alive=False, pid=None)) is None
        assert use.of_brain is not None
        assert use.machine is not None
        assert use.machine.interval_s is not None
    finally:
        supervisor.close()
        store.close()
