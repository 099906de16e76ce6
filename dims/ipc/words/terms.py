"""What a worker is told when it is welcomed. Frozen values; no repr shows a secret. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from dims.addresses import PostgresAddress
from dims.ipc.grants import Grant
from dims.ipc.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Limits:
    """Durations in seconds, sizes in bytes; see docs/configuration.md."""

    start_timeout_s: float
    heartbeat_s: float
    health_timeout_s: float
    drain_timeout_s: float
    flood_sleep_s: int
    log_bytes: int
    log_files: int
    handlers_at_once: int
    open_files: int


@dataclass(frozen=True, slots=True)
class TelegramAddress:
    """An MTProto server: literal address, data centre, and its RSA key in PEM or None."""

    host: str
    port: int
    dc: int
    public_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class MailTerms:
    """Where messages between bots lie, what they may take, and who may send what to whom."""

    directory: Path
    sockets: Path
    waits_for_disk: bool
    mailbox_bytes: int
    retry: RetryPolicy
    request_timeout_s: float
    handlers_at_once: int
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class StoragePlace:
    """Where a bot's database is, and as whom to go there. Said again when either changes."""

    kind: ClassVar[str] = "storage"

    address: PostgresAddress
    replica: PostgresAddress | None


@dataclass(frozen=True, slots=True)
class StorageTerms:
    """Where the bot's database is, as whom to go there, and how many connections it may have."""

    place: StoragePlace
    is_pooled: bool
    """`address` is a pooler such as PgBouncer."""
    pool: Mapping[str, Any]
    """The fields of dims.storage.connections.pool.PoolLimits."""
    replica_lag_s: float
    share: int
    """Connections that are the bot's own, without asking the brain."""

    def moved(self, place: StoragePlace) -> StorageTerms:
        """The same at another place, or with another password."""
        return replace(self, place=place)


@dataclass(frozen=True, slots=True)
class FreshSettings:
    """A bot's own settings, which can be told anew while it runs."""

    settings: Mapping[str, Any] = field(repr=False)
    hidden: tuple[str, ...] = field(repr=False)
    """Texts in `settings` that are secrets."""


@dataclass(frozen=True, slots=True)
class WorkerTerms:
    """One bot's identity, secrets, server, code and limits."""

    bot: str
    token: str = field(repr=False)
    api_id: int = field(repr=False)
    api_hash: str = field(repr=False)
    server: TelegramAddress
    proxy: str | None = field(repr=False)
    sandbox: bool
    handlers: str
    directory: Path
    admins: tuple[int | str, ...]
    own: FreshSettings
    limits: Limits
    mail: MailTerms
    storage: StorageTerms | None
    session: Path
    lease: Path
    log: Path

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that must appear in no log."""
        candidates = (self.token, self.token.partition(":")[2], self.api_hash, self.proxy or "")
        # A short text such as the sandbox's "sandbox" is no secret and would blank out words.
        own = [text for text in candidates if len(text) >= 16]
        if self.storage is not None:
            own.append(self.storage.place.address.password)
        return (*own, *worth_hiding(self.own.hidden))


def worth_hiding(texts: Iterable[str]) -> tuple[str, ...]:
    """Those that are long enough: hiding `1` or `yes` would blank out words everywhere."""
    return tuple(text for text in texts if len(text) >= 6)
