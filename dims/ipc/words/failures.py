"""Why a process left, and how: the class of a failure, the status of an exit. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class FailureClass(StrEnum):
    """Why a process ended or could not start; the answer to each is in `lifecycle`."""

    NETWORK = "network"
    WAIT = "wait"
    FENCED = "fenced"
    NEEDS_OPERATOR = "needs operator"
    RECYCLE = "recycle"
    STUCK = "stuck"
    DEAF = "deaf"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: `code` or `signal` is set, or neither when nobody could tell."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        if self.code is not None:
            return f"exit code {self.code}"
        return "exit unknown"


@dataclass(frozen=True, slots=True)
class Exit:
    """An ended process. `started`, its start time in clock ticks since boot, tells it from a later
    process of the same pid; 0 where it is not known."""

    kind: ClassVar[str] = "exited"

    pid: int
    started: int
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class ExitsHeard:
    """The brain has these exits, each as (pid, started): nobody need remember them any more."""

    kind: ClassVar[str] = "exited_ack"

    exits: tuple[tuple[int, int], ...]
