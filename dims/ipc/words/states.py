"""Names that are said: of what a unit is, what is wanted of it, how a fleet is and how it shares.
Pure values.

No dataclass is here: `dims status` reads these names and has to start at once.
"""

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


class FleetLevel(StrEnum):
    """How a fleet is: all that is wanted serves well, something does not, or nothing serves."""

    WELL = "well"
    DEGRADED = "degraded"
    DOWN = "down"


class Manner(StrEnum):
    """Whether a worker shares the zygote's objects for good, or copies their pages as it runs."""

    IMMORTAL = "immortal"
    COPY = "copy"
