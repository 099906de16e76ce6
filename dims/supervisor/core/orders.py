"""All that may be asked of the engine, as frozen values. Pure. Counterpart of `facts`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.facts import Incarnation, Timer, TimerNumber, UnitId
from dims.supervisor.core.states import Cause


class Stop(StrEnum):
    """How a process is asked to leave, gentle first."""

    TERM = "TERM"
    KILL = "KILL"
    DUMP = "DUMP"
    """Write all stacks to the log; the process goes on."""


@dataclass(frozen=True, slots=True)
class RequestStart:
    """Ask the fleet for leave to start; it answers with the fact `Granted`."""

    unit: UnitId


@dataclass(frozen=True, slots=True)
class WithdrawStart:
    """The unit no longer wants to start, or no longer counts as starting."""

    unit: UnitId


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make the process of `incarnation`; the answer is `Spawned` or `SpawnFailed`."""

    unit: UnitId
    incarnation: Incarnation


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to the process of `incarnation`, if it still runs."""

    unit: UnitId
    incarnation: Incarnation
    stop: Stop


@dataclass(frozen=True, slots=True)
class Arm:
    """Ring after `delay_s`; replaces the unit's former timer of this kind."""

    unit: UnitId
    timer: Timer
    number: TimerNumber
    delay_s: float


@dataclass(frozen=True, slots=True)
class Keep:
    """Store what must outlive the brain: desired state, and a wait that Telegram announced."""

    unit: UnitId
    desired: Desired
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class DropSession:
    """Give up the unit's Telegram session: its key is burnt."""

    unit: UnitId


@dataclass(frozen=True, slots=True)
class Tell:
    """Write one event for the operator: the state entered and why."""

    unit: UnitId
    incarnation: Incarnation
    state: State
    reason: str
    failure: FailureClass | None
    cause: Cause = field(compare=False)
    """For the log; the state follows from it, so two that tell the same are the same."""


Order = RequestStart | WithdrawStart | Spawn | Signal | Arm | Keep | DropSession | Tell
