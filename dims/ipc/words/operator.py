"""What the brain tells operators of its processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readings:
    """The last readings of a process: memory in bytes, loop lag in seconds, updates handled."""

    unshared_bytes: int | None = None
    loop_lag_s: float | None = None
    updates: int | None = None


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """The machine that the fleet runs on, as of the brain's last look; in a container all of it."""

    cpu_percent: float | None
    """of one core, used by all processes of the machine since the look before: up to 100 times
    `cores`. None: there was no look before"""
    interval_s: float | None
    """between these two looks. None: as above"""
    cores: int
    """that the kernel schedules on"""
    load: float
    """processes that run or wait, on average over the last minute"""
    memory_bytes: int
    """of the machine"""
    memory_available_bytes: int
    """of that, what can be had without swapping"""


NO_READINGS = Readings()
