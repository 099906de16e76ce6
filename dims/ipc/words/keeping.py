"""What the keeper says to the brain, and the brain to it. Pure.

The keeper holds the sockets, starts the brain again and remembers exits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dims.ipc.words.failures import Exit


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a process; `tag` comes back in the answer. It writes to the file `log`."""

    kind: ClassVar[str] = "spawn"

    tag: str
    argv: tuple[str, ...]
    log: str


@dataclass(frozen=True, slots=True)
class Up:
    """This brain serves: from now on it is worth starting again."""

    kind: ClassVar[str] = "up"


@dataclass(frozen=True, slots=True)
class Stopping:
    """The brain has heard that it is to stop."""

    kind: ClassVar[str] = "stopping"


@dataclass(frozen=True, slots=True)
class Finished:
    """All is stopped, and no new brain is wanted."""

    kind: ClassVar[str] = "finished"


@dataclass(frozen=True, slots=True)
class KeeperWelcome:
    """The keeper's first sentence: the variables that bots.yaml names, what ended while there was
    no brain, and what `dims start` asked for, which is said once only."""

    kind: ClassVar[str] = "welcome"

    environment: Mapping[str, str]
    exits: tuple[Exit, ...]
    wish: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class StopFleet:
    """The keeper was told to end the fleet."""

    kind: ClassVar[str] = "stop"


@dataclass(frozen=True, slots=True)
class SpawnDone:
    """The process asked for under `tag` exists."""

    kind: ClassVar[str] = "spawned"

    tag: str
    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class SpawnRefused:
    """The process asked for under `tag` could not be made."""

    kind: ClassVar[str] = "spawn_failed"

    tag: str
    reason: str
