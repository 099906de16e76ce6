"""Why a process left: the class of a failure, and the status of an exit."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
