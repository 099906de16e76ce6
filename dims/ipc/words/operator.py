"""What the brain tells operators of its processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Readings:
    """The last readings of a process: memory in bytes, loop lag in seconds, updates handled."""

    unshared_bytes: int | None = None
    loop_lag_s: float | None = None
    updates: int | None = None


NO_READINGS = Readings()
