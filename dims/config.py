"""bots.yaml and the environment, validated once into frozen models: the whole of the public API.

Knows Telegram's server addresses and what a bot may say about itself; knows no process, no
socket and no Telethon. The work is done in `dims.configuration`; import from here.
"""

from __future__ import annotations

from dims.configuration.handlers import check_handlers_source
from dims.configuration.masking import masked, secret_settings
from dims.configuration.models import (
    BotSettings,
    Config,
    DefaultSettings,
    Durability,
    FleetSettings,
    GrantSettings,
    IpcSettings,
    LimitSettings,
    PoolSettings,
    Preset,
    RestartSettings,
    ServerKind,
    ServerSettings,
    StorageSettings,
    TelegramSettings,
)
from dims.configuration.reading import load_config, read_environment, referenced_variables
from dims.configuration.server_urls import PostgresAddress, TlsMode
from dims.configuration.servers import DatabaseKind

__all__ = [
    "BotSettings",
    "Config",
    "DatabaseKind",
    "DefaultSettings",
    "Durability",
    "FleetSettings",
    "GrantSettings",
    "IpcSettings",
    "LimitSettings",
    "PoolSettings",
    "PostgresAddress",
    "Preset",
    "RestartSettings",
    "ServerKind",
    "ServerSettings",
    "StorageSettings",
    "TelegramSettings",
    "TlsMode",
    "check_handlers_source",
    "load_config",
    "masked",
    "read_environment",
    "referenced_variables",
    "secret_settings",
]
