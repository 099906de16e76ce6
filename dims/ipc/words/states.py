"""The names of what a unit is and of what is wanted of it. Pure values."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a unit is in its life; design words."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    BACKING_OFF = "backing_off"
    WAITING = "waiting"
    FAILED = "failed"


class Desired(StrEnum):
    """What the operator wants of a unit."""

    RUNNING = "running"
    STOPPED = "stopped"
