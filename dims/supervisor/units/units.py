"""What units there are, and what a worker is told: built from the configuration. No I/O but files.

Knows how bots, zygote and sandbox are launched; refuses to know when.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from dims.config import (
    BotSettings,
    Config,
    DatabaseKind,
    LimitSettings,
    PostgresAddress,
    RestartSettings,
    ServerKind,
    secret_settings,
)
from dims.errors import ServiceError
from dims.ipc.grants import Grant, Grants
from dims.layout import Layout
from dims.supervisor.core.backoff import RestartPolicy
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.pacing import Wish
from dims.supervisor.core.states import Policy

ZYGOTE = UnitId("zygote")
SANDBOX = UnitId("sandbox")
POSTGRES = UnitId("postgres")
VALKEY = UnitId("valkey")
STEWARD = UnitId("steward")
ADOPTED = (POSTGRES, VALKEY)
"""What goes on when a brain comes back: a restart would cut off whoever uses it."""
MOST_READ = 2**53
"""No reading is larger, and every JSON reader can hold it."""
EMBEDDED_CONNECTIONS = (100, 500)
"""Of an embedded PostgreSQL: at least, and at most; between them one for each bot."""
SANDBOX_API_ID, SANDBOX_API_HASH = 1, "sandbox"
"""Telethon wants any non-empty pair; the sandbox asks for none."""


class UnitKind(StrEnum):
    """What a unit is, and so how it is launched."""

    BOT = "bot"
    ZYGOTE = "zygote"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class TelegramAddress:
    """An MTProto server: literal address, data centre, and its RSA key in PEM or None."""

    host: str
    port: int
    dc: int
    public_key: str | None

    def to_wire(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"host": self.host, "port": self.port, "dc": self.dc, "public_key": self.public_key}


def policy_of(restart: RestartSettings, limits: LimitSettings) -> Policy:
    """The lifecycle's share of a bot's settings."""
    return Policy(
        restart=RestartPolicy(**restart.model_dump()),
        start_timeout_s=limits.start_timeout_s,
        stuck_after_s=limits.stuck_after_s,
        drain_timeout_s=limits.drain_timeout_s,
    )


SERVICE_POLICY = replace(
    policy_of(
        RestartSettings(first_delay_s=0.0, max_delay_s=10.0, slow_retry_s=30.0, max_restarts=10),
        LimitSettings(start_timeout_s=60.0, drain_timeout_s=10.0),
    ),
    stuck_after_s=10**9,
)
"""Services come back fast, for bots wait for them. They send no heartbeats: no stuck deadline."""
SERVER_POLICY = replace(
    SERVICE_POLICY,
    restart=replace(
        SERVICE_POLICY.restart,
        max_delay_s=2.0,
        slow_retry_s=5.0,
        stable_after_s=10.0,
        # Beyond the cap a start waits until the window has room: of two minutes that is an outage.
        within_s=20.0,
    ),
    start_timeout_s=86_400.0,
    drain_timeout_s=20.0,
)
"""All bots stand still without their database, and its start harms nobody outside. It may have much
to write when it is to leave, and to read when it recovers: what its process waits for, that limits
itself."""
STEWARD_POLICY = replace(SERVICE_POLICY, start_timeout_s=3600.0, stuck_after_s=90.0)
"""A migration takes as long as it takes; what the steward waits for it limits itself."""


def policy_of_service(unit: UnitId) -> Policy:
    """How a service or the zygote lives."""
    match unit:
        case _ if unit in (POSTGRES, VALKEY):
            return SERVER_POLICY
        case _ if unit == STEWARD:
            return STEWARD_POLICY
    return SERVICE_POLICY


def needs_of_bot(config: Config) -> frozenset[UnitId]:
    """The units that must be up before a bot may start."""
    needs = {ZYGOTE}
    if config.telegram.server.kind is ServerKind.SANDBOX:
        needs.add(SANDBOX)
    if config.storage.database_kind is not DatabaseKind.OFF:
        needs.add(STEWARD)
    return frozenset(needs)


def wish_of_bot(config: Config, layout: Layout, unit: UnitId) -> Wish:
    """What a bot needs to start; cold when no session of it is stored."""
    return Wish(unit, cold=not layout.session(unit).exists(), needs=needs_of_bot(config))


def zygote_argv(
    config: Config, layout: Layout, incarnation: Incarnation, copy_because: str
) -> list[str]:
    """The command of a zygote; what it preloads is named, so that nothing here imports it.

    `copy_because` says why workers shall copy its memory; empty where they may share it.
    """
    has_database = config.storage.database_kind is not DatabaseKind.OFF
    warm_up = "warm_up_with_database" if has_database else "warm_up"
    return [
        *(sys.executable, "-m", "dims.supervisor.zygote"),
        *("--socket", str(layout.bot_socket)),
        *("--unit", ZYGOTE, "--incarnation", str(incarnation)),
        *("--preload", f"dims.warmup:{warm_up}"),
        *("--entry", "dims.bot_worker.worker:run_forked"),
        *("--copy-because", copy_because),
    ]


def service_argv(
    config: Config, layout: Layout, unit: UnitId, incarnation: Incarnation
) -> list[str]:
    """The command of a service."""
    joins = [
        *("--notify", str(layout.bot_socket), "--unit", unit),
        *("--incarnation", str(incarnation), "--log", str(layout.log(unit))),
    ]
    if unit == SANDBOX:
        return [*_sandbox_argv(config, layout), *joins]
    if unit == STEWARD:
        return [sys.executable, "-m", "dims.services.steward", *joins]
    server = [
        *(sys.executable, "-m", "dims.services.embedded", unit),
        *("--state-dir", str(layout.state), "--runtime-dir", str(layout.runtime)),
    ]
    if unit == POSTGRES:
        server += ["--max-connections", str(_embedded_connections(config))]
    return [*server, *joins]


def _embedded_connections(config: Config) -> int:
    least, most = EMBEDDED_CONNECTIONS
    return max(least, min(most, len(config.bots) + least // 2))


def _sandbox_argv(config: Config, layout: Layout) -> list[str]:
    return [
        *(sys.executable, "-m", "dims.sandbox"),
        *("--dir", str(layout.sandbox), "--control", str(layout.sandbox_socket)),
        *("--port", str(config.telegram.sandbox_port)),
    ]


def configured_address(config: Config) -> TelegramAddress | None:
    """Where Telegram is, or None for a sandbox, which says so itself once it listens.

    Raises ServiceError when the public key file cannot be read.
    """
    server = config.telegram.server
    if server.kind is ServerKind.SANDBOX:
        return None
    if server.host is None or server.port is None or server.dc is None:
        raise ServiceError("telegram.server names no address")
    return TelegramAddress(
        server.host, server.port, server.dc, _read_key(config, server.public_key_file)
    )


def sandbox_address(said: Mapping[str, Any]) -> TelegramAddress:
    """The address that the sandbox said; raises KeyError or OSError on nonsense."""
    key = Path(said["public_key_file"]).read_text(encoding="ascii")
    return TelegramAddress(str(said["host"]), int(said["port"]), int(said["dc_id"]), key)


def worker_terms(
    config: Config,
    layout: Layout,
    bot: BotSettings,
    address: TelegramAddress,
    token: str,
    *,
    storage: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Everything a worker is told in its welcome, secrets included; `storage` is None without a
    database."""
    telegram = config.telegram
    api_hash = telegram.api_hash.get_secret_value() if telegram.api_hash else SANDBOX_API_HASH
    return {
        "bot": bot.id,
        "token": token,
        "api_id": telegram.api_id or SANDBOX_API_ID,
        "api_hash": api_hash,
        "server": address.to_wire(),
        "proxy": telegram.proxy.get_secret_value() if telegram.proxy else None,
        "sandbox": telegram.server.kind is ServerKind.SANDBOX,
        "handlers": bot.handlers,
        "directory": str(config.directory),
        "admins": list(bot.admins),
        "settings": dict(bot.settings),
        "hidden": list(secret_settings(config, bot.id)),
        "limits": bot.limits.model_dump(mode="json"),
        "mail": {
            **config.ipc.model_dump(mode="json"),
            "directory": str(layout.mail),
            "sockets": str(layout.runtime),
            "grants": [grant.to_wire() for grant in grants_of(config).of(bot.id).grants],
        },
        "storage": storage,
        "session": str(layout.session(bot.id)),
        "lease": str(layout.lease(bot.id)),
        "log": str(layout.log(bot.id)),
    }


def storage_terms(
    config: Config, address: PostgresAddress, role: str, password: str, share: int | None = None
) -> dict[str, Any]:
    """The storage part of a worker's terms; a `share` of None is as many as a pool may have."""
    storage = config.storage
    return {
        **storage_place(config, address, role, password),
        "is_pooled": storage.pooler_address is not None,
        "pool": storage.pool.model_dump(mode="json"),
        "share": storage.pool.max_size if share is None else share,
    }


def storage_place(
    config: Config, address: PostgresAddress, role: str, password: str
) -> dict[str, Any]:
    """Where a worker's database is, and as whom to go there."""
    replica = config.storage.replica_address
    return {
        "address": address.as_user(role, password).to_wire(),
        "replica": replica.as_user(role, password).to_wire() if replica else None,
    }


def grants_of(config: Config) -> Grants:
    """Who may send what to whom."""
    return Grants(tuple(Grant(tuple(g.sender), tuple(g.to), tuple(g.kinds)) for g in config.grants))


def number(said: Any) -> Any:
    """A reading as a worker said it; None for what is no sound number, for it runs foreign code."""
    sound = type(said) in (int, float) and 0 <= said < MOST_READ
    return said if sound else None


def _read_key(config: Config, file: Path | None) -> str | None:
    if file is None:
        return None
    path = config.directory / file
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot read the server's public key {path}: {error}") from error
