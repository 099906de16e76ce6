"""What a worker is told when it is welcomed. A frozen value; its repr shows no secret."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dims.addresses import PostgresAddress
from dims.ipc.grants import Grant, Grants
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
class MailTerms:
    """Where messages between bots lie, what they may take, and who may send what to whom."""

    directory: Path
    sockets: Path
    waits_for_disk: bool
    mailbox_bytes: int
    retry: RetryPolicy
    request_timeout_s: float
    handlers_at_once: int
    grants: Grants


@dataclass(frozen=True, slots=True)
class StorageTerms:
    """Where the bot's database is, as whom to go there, and how many connections it may have."""

    address: PostgresAddress
    replica: PostgresAddress | None
    is_pooled: bool
    """`address` is a pooler such as PgBouncer."""
    pool: Mapping[str, Any]
    """The fields of dims.storage.connections.pool.PoolLimits."""
    replica_lag_s: float
    share: int
    """Connections that are the bot's own, without asking the brain."""

    def moved(self, wire: Mapping[str, Any]) -> StorageTerms:
        """With the `address` and `replica` of an order; raises KeyError, TypeError, ValueError."""
        return replace(self, address=_address(wire["address"]), replica=_replica(wire))


@dataclass(frozen=True, slots=True)
class Terms:
    """One bot's identity, secrets, server, code and limits."""

    bot: str
    token: str = field(repr=False)
    api_id: int = field(repr=False)
    api_hash: str = field(repr=False)
    host: str
    port: int
    dc: int
    public_key: str | None = field(repr=False)
    proxy: str | None = field(repr=False)
    sandbox: bool
    handlers: str
    directory: Path
    admins: tuple[int | str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    hidden: tuple[str, ...] = field(repr=False)
    """Texts in `settings` that are secrets."""
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
            own.append(self.storage.address.password)
        return (*own, *worth_hiding(self.hidden))


def worth_hiding(texts: Iterable[str]) -> tuple[str, ...]:
    """Those that are long enough: hiding `1` or `yes` would blank out words everywhere."""
    return tuple(text for text in texts if len(text) >= 6)


def read_terms(wire: Mapping[str, Any]) -> Terms:
    """The terms in a welcome; raises KeyError or TypeError when a field is missing or wrong."""
    server, limits = wire["server"], wire["limits"]
    names = Limits.__slots__
    return Terms(
        bot=wire["bot"],
        token=wire["token"],
        api_id=wire["api_id"],
        api_hash=wire["api_hash"],
        host=server["host"],
        port=server["port"],
        dc=server["dc"],
        public_key=server["public_key"],
        proxy=wire["proxy"],
        sandbox=wire["sandbox"],
        handlers=wire["handlers"],
        directory=Path(wire["directory"]),
        admins=tuple(wire["admins"]),
        settings=wire["settings"],
        hidden=tuple(wire["hidden"]),
        limits=Limits(**{name: limits[name] for name in names}),
        mail=_read_mail(wire["mail"]),
        storage=_read_storage(wire["storage"]) if wire.get("storage") else None,
        session=Path(wire["session"]),
        lease=Path(wire["lease"]),
        log=Path(wire["log"]),
    )


def _read_mail(wire: Mapping[str, Any]) -> MailTerms:
    return MailTerms(
        directory=Path(wire["directory"]),
        sockets=Path(wire["sockets"]),
        waits_for_disk=wire["durability"] == "power",
        mailbox_bytes=wire["mailbox_bytes"],
        retry=RetryPolicy(wire["attempts"], wire["retry_first_s"], wire["retry_max_s"]),
        request_timeout_s=wire["request_timeout_s"],
        handlers_at_once=wire["handlers_at_once"],
        grants=Grants(tuple(map(Grant.from_wire, wire["grants"]))),
    )


def _read_storage(wire: Mapping[str, Any]) -> StorageTerms:
    pool = dict(wire["pool"])
    lag_s = float(pool.pop("replica_lag_s"))
    return StorageTerms(
        address=_address(wire["address"]),
        replica=_replica(wire),
        is_pooled=wire["is_pooled"],
        pool=pool,
        replica_lag_s=lag_s,
        share=wire["share"],
    )


def _address(wire: Mapping[str, Any]) -> PostgresAddress:
    return PostgresAddress.from_wire(wire)


def _replica(wire: Mapping[str, Any]) -> PostgresAddress | None:
    return _address(wire["replica"]) if wire.get("replica") else None
