"""What operators ask of the brain, and bots that have a grant for it. Pure.

What it answers is in `dims.ipc.words.operator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """How is every unit? The answer is a `FleetStatus`."""

    kind: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True)
class ShowHealth:
    """Is the fleet well? The answer is a `FleetHealth`."""

    kind: ClassVar[str] = "health"


@dataclass(frozen=True, slots=True)
class ShowStorage:
    """How is the storage? The answer is a `StorageStatus`."""

    kind: ClassVar[str] = "storage"


@dataclass(frozen=True, slots=True)
class ExplainBot:
    """Why is this bot as it is? The answer is an `Explanation`."""

    kind: ClassVar[str] = "explain"

    bot: str


@dataclass(frozen=True, slots=True)
class StartBots:
    """Start `bots`, ids and globs, or with `new` those that nobody ever asked for."""

    kind: ClassVar[str] = "start"

    bots: tuple[str, ...] | None = None
    """None: of a bot, itself; an operator has to name some. So in the two that follow."""
    new: bool = False


@dataclass(frozen=True, slots=True)
class StopBots:
    """Stop `bots`; they stay stopped until somebody starts them."""

    kind: ClassVar[str] = "stop"

    bots: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RestartBots:
    """Restart `bots`: each finishes what is in hand first."""

    kind: ClassVar[str] = "restart"

    bots: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RotatePasswords:
    """New passwords for the database roles of `bots`, ids and globs; with `end_sessions` also an
    end to connections that were made with the former ones."""

    kind: ClassVar[str] = "rotate"

    bots: tuple[str, ...] = ("*",)
    end_sessions: bool = False


@dataclass(frozen=True, slots=True)
class TellBot:
    """Pass `command` with what belongs to it on to the bot's worker; the answer is the worker's,
    within `timeout_s`."""

    kind: ClassVar[str] = "tell"

    bot: str
    command: str
    body: Mapping[str, Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class ShutDown:
    """Stop all bots, all services, and the brain itself."""

    kind: ClassVar[str] = "shutdown"
