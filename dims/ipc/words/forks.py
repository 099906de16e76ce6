"""What the zygote says to the brain, and the brain to it. Pure.

When the brain is gone the zygote remembers what it forked and what ended, and tells the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Fork:
    """Make the worker `incarnation` of `unit`. No secrets: the worker gets them at its hello."""

    kind: ClassVar[str] = "fork"

    unit: str
    incarnation: int
    log: str
    directory: str
    socket: str


@dataclass(frozen=True, slots=True)
class Forked:
    """The worker exists; `started` as in `Exit`."""

    kind: ClassVar[str] = "forked"

    unit: str
    incarnation: int
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """The worker could not be made."""

    kind: ClassVar[str] = "fork_failed"

    unit: str
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class AllTold:
    """All that this zygote remembers has been said: what is not among it was never ordered."""

    kind: ClassVar[str] = "all_told"
