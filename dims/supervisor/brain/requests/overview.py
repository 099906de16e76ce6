"""What is shown of a fleet: status, health, the explanation of one unit, storage."""

from __future__ import annotations

import os
from typing import Any

from dims.ipc.wire.sentences import written
from dims.ipc.words.operator import NO_READINGS
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core import report
from dims.supervisor.core.facts import UnitId

EXPLAINED_EVENTS = 20


class Overview:
    """Reads a supervisor; changes nothing."""

    def __init__(self, supervisor: ProcessSupervisor) -> None:
        self._supervisor = supervisor
        self._roster = supervisor.roster

    def status(self) -> dict[str, Any]:
        """The object of `dims status --json`."""
        supervisor, config = self._supervisor, self._roster.config
        now_s = supervisor.clock.monotonic()
        machine = supervisor.cpu_use.machine
        return {
            "supervisor": {
                "pid": os.getpid(),
                "keeper_pid": supervisor.keeper_pid if supervisor.keeper.is_there else None,
                "uptime_s": round(now_s - supervisor.started_s, 3),
                "server": config.telegram.server.kind.value,
                "sandbox": self._roster.is_sandboxed,
                "config": str(config.path),
                "state_dir": str(self._roster.layout.state),
                "stopping": supervisor.is_stopping,
                "cpu_percent": supervisor.cpu_use.of_brain,
                **supervisor.zygote_memory.shown(),
            },
            "machine": None if machine is None else written(machine),
            "services": [self._unit(unit, now_s) for unit in self._others()],
            "bots": [self._unit(unit, now_s) for unit in self._roster.bots],
        }

    def health(self) -> dict[str, Any]:
        """The object of `dims health --json`."""
        records = self._supervisor.engine.records
        return report.health(
            [records[unit] for unit in self._roster.bots],
            [records[unit] for unit in self._others()],
            keeper_lost=not self._supervisor.keeper.is_there,
            store_trouble=self._supervisor.store.trouble,
        )

    def explain(self, unit: UnitId) -> dict[str, Any]:
        """The object of `dims bot explain --json`."""
        engine = self._supervisor.engine
        readings = self._supervisor.hearing.readings.get(unit, NO_READINGS)
        events = self._supervisor.store.events(unit, EXPLAINED_EVENTS)
        needs = sorted(self._roster.wish(unit).needs)
        missing = [engine.records[need] for need in needs if not engine.is_up(need)]
        now_s = self._supervisor.clock.monotonic()
        record = engine.records[unit]
        cpu_percent = self._supervisor.cpu_use.of(record)
        told = report.explain(record, readings, events, now_s, missing, cpu_percent=cpu_percent)
        return {**told, **self._supervisor.zygote_memory.shown()}

    def storage(self) -> dict[str, Any]:
        """The object of the request `storage`."""
        records = self._supervisor.engine.records
        states = {unit: records[unit].state.value for unit in self._roster.services}
        return self._supervisor.storage.status(states)

    def _others(self) -> list[UnitId]:
        return [unit for unit in self._roster.all() if unit not in self._roster.bots]

    def _unit(self, unit: UnitId, now_s: float) -> dict[str, Any]:
        readings = self._supervisor.hearing.readings.get(unit, NO_READINGS)
        record = self._supervisor.engine.records[unit]
        return report.unit_status(record, readings, now_s, self._supervisor.cpu_use.of(record))
