"""All that can happen to a unit or to the fleet, as frozen values. Pure. Counterpart of `orders`.

A *unit* is anything with a lifecycle: a bot's worker, the zygote, a service.
Times are seconds on the engine's monotonic clock, durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired

UnitId = NewType("UnitId", str)
"""Name of a unit: `echo` for a bot, `zygote`, `sandbox` for the others (`/` never occurs)."""
Incarnation = NewType("Incarnation", int)
"""The n-th process of a unit, from 1; 0 before the first."""
TimerNumber = NewType("TimerNumber", int)


class Timer(StrEnum):
    """What a unit waits for; at most one of each is armed per unit."""

    START = "start"
    """Spawned, but not ready yet: the deadline."""
    STUCK = "stuck"
    """No heartbeat: the deadline."""
    DRAIN = "drain"
    """TERM was sent, the process still runs: the deadline."""
    RETRY = "retry"
    """The end of a backoff or a flood wait."""
    STABLE = "stable"
    """Ready for long enough that former failures are forgotten."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The operator (or a bot with the right to) asked for a start, with `reason` for the log."""

    reason: str = "operator"


class AskedStart(Asked):
    """… for the unit to run."""

    __slots__ = ()


class AskedStop(Asked):
    """… for the unit to stop and stay stopped."""

    __slots__ = ()


class AskedRestart(Asked):
    """… for a new incarnation."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A new brain found this unit: what was wanted of it, how much is left of a wait that Telegram
    announced, and the process of `incarnation` if it still runs; `goes_on` if it may run on."""

    desired: Desired
    incarnation: Incarnation
    retry_after_s: float = 0.0
    pid: int | None = None
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The fleet lets this unit start now."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """The process of `incarnation` exists."""

    incarnation: Incarnation
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The process of `incarnation` could not be made."""

    incarnation: Incarnation
    failure: FailureClass
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The process of `incarnation` may serve."""

    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The process of `incarnation` lives; `trouble` says why it serves badly, or is empty."""

    incarnation: Incarnation
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class LastWill:
    """What the process of `incarnation` said before it left."""

    incarnation: Incarnation
    failure: FailureClass
    reason: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Exited:
    """The process of `incarnation` is gone for good."""

    incarnation: Incarnation
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class Rang:
    """A timer rang; it counts only if `number` is that of the timer armed last."""

    timer: Timer
    number: TimerNumber


@dataclass(frozen=True, slots=True)
class FileChanged:
    """A file that the unit was started from has changed."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """The engine itself did not run for `gap_s`: silence in that time proves nothing."""

    gap_s: float


Fact = (
    AskedStart
    | AskedStop
    | AskedRestart
    | Found
    | Granted
    | Spawned
    | SpawnFailed
    | Ready
    | Heartbeat
    | LastWill
    | Exited
    | Rang
    | FileChanged
    | Suspended
)
