"""What is shown of a fleet: status, health, the explanation of one unit, storage."""

from __future__ import annotations

import os

from dims.ipc.words.operator import (
    NO_READINGS,
    Explanation,
    FleetHealth,
    FleetStatus,
    StorageStatus,
    SupervisorStatus,
    UnitStatus,
)
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core import report
from dims.supervisor.core.facts import UnitId

EXPLAINED_EVENTS = 20


class Overview:
    """Reads a supervisor; changes nothing."""

    def __init__(self, supervisor: ProcessSupervisor) -> None:
        self._supervisor = supervisor
        self._roster = supervisor.roster

    def status(self) -> FleetStatus:
        """The object of `dims status --json`."""
        now_s = self._supervisor.clock.monotonic()
        return FleetStatus(
            supervisor=self._brain(now_s),
            machine=self._supervisor.cpu_use.machine,
            services=tuple(self._unit(unit, now_s) for unit in self._others()),
            bots=tuple(self._unit(unit, now_s) for unit in self._roster.bots),
        )

    def health(self) -> FleetHealth:
        """The object of `dims health --json`."""
        records = self._supervisor.engine.records
        return report.health(
            [records[unit] for unit in self._roster.bots],
            [records[unit] for unit in self._others()],
            keeper_lost=not self._supervisor.keeper.is_there,
            store_trouble=self._supervisor.store.trouble,
        )

    def explain(self, unit: UnitId) -> Explanation:
        """The object of `dims bot explain --json`."""
        engine = self._supervisor.engine
        readings = self._supervisor.hearing.readings.get(unit, NO_READINGS)
        events = self._supervisor.store.events(unit, EXPLAINED_EVENTS)
        needs = sorted(self._roster.wish(unit).needs)
        missing = [engine.records[need] for need in needs if not engine.is_up(need)]
        now_s = self._supervisor.clock.monotonic()
        record = engine.records[unit]
        return report.explain(
            record,
            readings,
            events,
            now_s,
            missing=missing,
            shares=self._supervisor.zygote_memory.shown(),
            cpu_percent=self._supervisor.cpu_use.of(record),
        )

    def storage(self) -> StorageStatus:
        """The object of the request `storage`."""
        records = self._supervisor.engine.records
        states = {unit: records[unit].state for unit in self._roster.services}
        return self._supervisor.storage.status(states)

    def _others(self) -> list[UnitId]:
        return [unit for unit in self._roster.all() if unit not in self._roster.bots]

    def _brain(self, now_s: float) -> SupervisorStatus:
        supervisor, config = self._supervisor, self._roster.config
        sharing, reason = supervisor.zygote_memory.shown()
        return SupervisorStatus(
            pid=os.getpid(),
            keeper_pid=supervisor.keeper_pid if supervisor.keeper.is_there else None,
            uptime_s=round(now_s - supervisor.started_s, 3),
            server=config.telegram.server.kind.value,
            sandbox=self._roster.is_sandboxed,
            config=str(config.path),
            state_dir=str(self._roster.layout.state),
            stopping=supervisor.is_stopping,
            cpu_percent=supervisor.cpu_use.of_brain,
            sharing=sharing,
            sharing_reason=reason,
        )

    def _unit(self, unit: UnitId, now_s: float) -> UnitStatus:
        readings = self._supervisor.hearing.readings.get(unit, NO_READINGS)
        record = self._supervisor.engine.records[unit]
        return report.unit_status(record, readings, now_s, self._supervisor.cpu_use.of(record))
