"""The processes that run: who they are, when one is gone, and signals to them.

A pidfd says *that* a process ended, at once and for processes that are not our children; the
zygote or the keeper says *how*. If nobody does within a moment, the status is unknown.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from dims.ipc.words.failures import Exit, ExitStatus
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.orders import Stop
from dims.system.exits import is_alive

STATUS_WAIT_S = 0.5
"""How long the exact status may be late behind the pidfd (measured: under 2 ms when idle)."""

SIGNALS = {Stop.TERM: signal.SIGTERM, Stop.KILL: signal.SIGKILL, Stop.DUMP: signal.SIGUSR1}

Gone = Callable[[UnitId, Incarnation, ExitStatus], None]


@dataclass(slots=True)
class _Process:
    unit: UnitId
    incarnation: Incarnation
    pid: int
    started: int
    pidfd: int
    late: asyncio.TimerHandle | None = None


class Processes:
    """Watches processes; calls `gone` exactly once for each watched one that ended."""

    def __init__(self, gone: Gone) -> None:
        self._gone = gone
        self._by_pid: dict[int, _Process] = {}
        self._loop = asyncio.get_running_loop()

    def watch(self, unit: UnitId, incarnation: Incarnation, pid: int, started: int) -> None:
        """Watches one process from now on; one that has ended already is noticed as well."""
        former = self._by_pid.get(pid)
        if former is not None:
            # The pid is used again already, so whoever had it before is gone.
            self._finish(former, ExitStatus())
        process = _Process(unit, incarnation, pid, started, -1)
        self._by_pid[pid] = process
        try:
            process.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._seen_gone(pid)
            return
        if not is_alive(pid, started):
            # The pid is a zombie or somebody else's by now: the descriptor says nothing of ours.
            self._seen_gone(pid)
            return
        self._loop.add_reader(process.pidfd, self._seen_gone, pid)

    def exited(self, said: Exit) -> None:
        """The exact end of a process, from its parent; of one that is not watched: no effect."""
        process = self._by_pid.get(said.pid)
        if process is not None and (process.started == said.started or not said.started):
            self._finish(process, said.status)

    def send(self, pid: int, stop: Stop) -> None:
        """Signals a watched process, and never one that only has the same pid."""
        process = self._by_pid.get(pid)
        if process is None or process.pidfd < 0:
            return
        try:
            signal.pidfd_send_signal(process.pidfd, SIGNALS[stop])
        except ProcessLookupError:
            self._seen_gone(pid)

    def close(self) -> None:
        """Watches nothing any more."""
        for process in list(self._by_pid.values()):
            self._forget(process)

    def _seen_gone(self, pid: int) -> None:
        process = self._by_pid.get(pid)
        if process is None or process.late is not None:
            return
        self._stop_reading(process)
        process.late = self._loop.call_later(STATUS_WAIT_S, self._finish, process, ExitStatus())

    def _finish(self, process: _Process, status: ExitStatus) -> None:
        if self._by_pid.get(process.pid) is process:
            self._forget(process)
            self._gone(process.unit, process.incarnation, status)

    def _forget(self, process: _Process) -> None:
        self._by_pid.pop(process.pid, None)
        if process.late is not None:
            process.late.cancel()
        self._stop_reading(process)

    def _stop_reading(self, process: _Process) -> None:
        if process.pidfd >= 0:
            self._loop.remove_reader(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = -1
