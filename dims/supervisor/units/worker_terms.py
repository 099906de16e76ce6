"""What a worker is told, made from the configuration. Reads no file but the server's public key."""

from __future__ import annotations

from pathlib import Path

from dims.config import BotSettings, Config, PostgresAddress, ServerKind, secret_settings
from dims.errors import ServiceError
from dims.ipc.grants import Grant, Grants
from dims.ipc.retry import RetryPolicy
from dims.ipc.words.services import SandboxReady
from dims.ipc.words.terms import (
    FreshSettings,
    Limits,
    MailTerms,
    StoragePlace,
    StorageTerms,
    TelegramAddress,
    WorkerTerms,
)
from dims.layout import Layout

SANDBOX_API_ID, SANDBOX_API_HASH = 1, "sandbox"
"""Telethon wants any non-empty pair; the sandbox asks for none."""


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


def sandbox_address(said: SandboxReady) -> TelegramAddress:
    """The address that the sandbox said; raises OSError when its key cannot be read."""
    key = Path(said.public_key_file).read_text(encoding="ascii")
    return TelegramAddress(said.host, said.port, said.dc_id, key)


def worker_terms(
    config: Config,
    layout: Layout,
    bot: BotSettings,
    address: TelegramAddress,
    token: str,
    *,
    storage: StorageTerms | None,
) -> WorkerTerms:
    """Everything a worker is told in its welcome; `storage` is None without a database."""
    telegram = config.telegram
    return WorkerTerms(
        bot=bot.id,
        token=token,
        api_id=telegram.api_id or SANDBOX_API_ID,
        api_hash=telegram.api_hash.get_secret_value() if telegram.api_hash else SANDBOX_API_HASH,
        server=address,
        proxy=telegram.proxy.get_secret_value() if telegram.proxy else None,
        sandbox=telegram.server.kind is ServerKind.SANDBOX,
        handlers=bot.handlers,
        directory=config.directory,
        admins=tuple(bot.admins),
        own=fresh_settings(config, bot.id),
        limits=Limits(**{name: getattr(bot.limits, name) for name in Limits.__slots__}),
        mail=_mail_terms(config, layout, bot.id),
        storage=storage,
        session=layout.session(bot.id),
        lease=layout.lease(bot.id),
        log=layout.log(bot.id),
    )


def fresh_settings(config: Config, bot: str) -> FreshSettings:
    """The part of a worker's terms that can be told anew; UsageError for an unknown bot."""
    return FreshSettings(dict(config.bot(bot).settings), tuple(secret_settings(config, bot)))


def _mail_terms(config: Config, layout: Layout, bot: str) -> MailTerms:
    ipc = config.ipc
    return MailTerms(
        directory=layout.mail,
        sockets=layout.runtime,
        waits_for_disk=ipc.durability.value == "power",
        mailbox_bytes=ipc.mailbox_bytes,
        retry=RetryPolicy(ipc.attempts, ipc.retry_first_s, ipc.retry_max_s),
        request_timeout_s=ipc.request_timeout_s,
        handlers_at_once=ipc.handlers_at_once,
        grants=grants_of(config).of(bot).grants,
    )


def storage_terms(
    config: Config, address: PostgresAddress, role: str, password: str, share: int | None = None
) -> StorageTerms:
    """The storage part of a worker's terms; a `share` of None is as many as a pool may have."""
    storage = config.storage
    pool = storage.pool.model_dump(mode="json")
    lag_s = float(pool.pop("replica_lag_s"))
    return StorageTerms(
        place=storage_place(config, address, role, password),
        is_pooled=storage.pooler_address is not None,
        pool=pool,
        replica_lag_s=lag_s,
        share=storage.pool.max_size if share is None else share,
    )


def storage_place(
    config: Config, address: PostgresAddress, role: str, password: str
) -> StoragePlace:
    """Where a worker's database is, and as whom to go there."""
    replica = config.storage.replica_address
    return StoragePlace(
        address.as_user(role, password), replica.as_user(role, password) if replica else None
    )


def grants_of(config: Config) -> Grants:
    """Who may send what to whom."""
    return Grants(tuple(Grant(tuple(g.sender), tuple(g.to), tuple(g.kinds)) for g in config.grants))


def _read_key(config: Config, file: Path | None) -> str | None:
    if file is None:
        return None
    path = config.directory / file
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot read the server's public key {path}: {error}") from error
