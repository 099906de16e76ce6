"""What single services say of themselves when they are ready, and what they are told. Pure.

Each of the types ending in `Ready` is the `about` of a `MayServe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dims.addresses import PostgresAddress


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """Where the local Telegram listens, and the file of its public key in PEM."""

    host: str
    port: int
    dc_id: int
    public_key_file: str


@dataclass(frozen=True, slots=True)
class ServerReady:
    """An embedded server serves: the directory of its socket, its superuser, what it is."""

    socket_dir: str
    user: str
    version: str
    source: str
    port: int = 0
    """Names the socket of PostgreSQL; 0 for a server that has no use for it."""


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """What a PostgreSQL is and allows: `reserved` of its connections are not for workers."""

    version: str
    max_connections: int
    reserved: int
    revision: str | None = None
    """Of the schema; None while the database is away and only remembered."""


@dataclass(frozen=True, slots=True)
class StewardReady:
    """The database is ready for bots: by bot, role and password, or why it is refused one."""

    server: DatabaseServer
    roles: Mapping[str, tuple[str, str]]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StewardTerms:
    """What the steward is told in its welcome."""

    address: PostgresAddress | None
    """As an administrator; None until the embedded server serves."""
    password_file: Path | None
    """Holds the administrator's password of an embedded server."""
    roles_file: Path
    """Where passwords are sealed."""
    server_file: Path
    """Keeps what the server allows, for a start while it is away."""
    bots: tuple[str, ...]
    prefix: str
    partitions: int
    """These two as in dims.storage.names.Shape."""
    migrates: bool
    rotate_days: int
    """Age at which a password is replaced; 0: never."""


@dataclass(frozen=True, slots=True)
class DatabaseMoved:
    """To the steward: the database is here now, for an administrator."""

    kind: ClassVar[str] = "database"

    address: PostgresAddress
