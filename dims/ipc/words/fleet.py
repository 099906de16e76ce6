"""What workers and services say to the brain, and it to them. Pure.

A worker runs foreign code, so what it says may be anything: what has a wrong shape is refused where
it arrives, and what may merely be a lie is made harmless by `sound`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dims.ipc.words import VERSION
from dims.ipc.words.failures import FailureClass

MOST_READ = 2**53
"""No reading is larger, and every JSON reader can hold it (RFC 8259, section 6)."""


def sound(said: object) -> Any:
    """A reading as a worker said it, or None for what is no sound number."""
    good = type(said) in (int, float) and 0 <= said < MOST_READ  # type: ignore[operator]
    return said if good else None


WELCOME = "welcome"
"""Kind of the brain's answer to a `Hello`; its body is of the type that suits who is welcomed."""


# A process to the brain


@dataclass(frozen=True, slots=True)
class Hello:
    """The first sentence of each connection."""

    kind: ClassVar[str] = "hello"

    unit: str
    incarnation: int
    words: int = VERSION


@dataclass(frozen=True, slots=True)
class MayServe:
    """This process may serve; what it says of itself is of a type of its own per service."""

    kind: ClassVar[str] = "ready"

    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """This process lives. `trouble` says why it serves badly, or is empty; the rest are readings,
    in seconds and bytes, of a worker and of its database pool."""

    kind: ClassVar[str] = "heartbeat"

    trouble: Any = ""
    loop_lag_s: Any = None
    unshared_bytes: Any = None
    updates: Any = None
    pool: Any = None
    slow: Any = None


@dataclass(frozen=True, slots=True)
class SlowQuerySaid:
    """One of the `slow` in a heartbeat: when it was asked (UTC), how long it took, its text."""

    at: Any
    took_s: Any
    sql: str


@dataclass(frozen=True, slots=True)
class Will:
    """Why this process is about to leave; Telegram's wait in seconds, if any."""

    kind: ClassVar[str] = "last_will"

    failure: FailureClass
    reason: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ConnectionsHeld:
    """How many borrowed database connections a worker holds and wants, and the last word it has
    seen; `renews` asks for what is granted to last longer."""

    kind: ClassVar[str] = "connections"

    holds: int
    wants: int
    seen: int
    renews: bool = False


@dataclass(frozen=True, slots=True)
class Introduce:
    """A request: tell me and the bot `to` who the other is. The answer is `Whereabouts`."""

    kind: ClassVar[str] = "introduce"

    to: str


@dataclass(frozen=True, slots=True)
class ControlCommand:
    """A request of a bot that has a grant for it: one of the control commands."""

    kind: ClassVar[str] = "control"

    command: str
    body: Mapping[str, Any]


# The brain to a process


@dataclass(frozen=True, slots=True)
class Leave:
    """Finish what is in hand and go; to a stranger: go."""

    kind: ClassVar[str] = "leave"


@dataclass(frozen=True, slots=True)
class Introduced:
    """The bot `bot`, whose process is `pid`, will come to you directly."""

    kind: ClassVar[str] = "introduced"

    bot: str
    pid: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """The answer to `Introduce`: the other's process, and the path of its socket."""

    pid: int
    incarnation: int
    path: str


@dataclass(frozen=True, slots=True)
class ConnectionsLent:
    """Word `number`: so many connections are borrowed by you for `loan_s` seconds."""

    kind: ClassVar[str] = "connections"

    lent: int
    number: int
    loan_s: float
