"""bots.yaml and the environment, validated once into frozen models: the whole of the public API.

Knows Telegram's server addresses and what a bot may say about itself; knows no process, no
socket and no Telethon. Import from here; what lies in the modules below may move.
"""

from __future__ import annotations

from dims.addresses import PostgresAddress, TlsMode
from dims.config.handler_source import check_handlers_source
from dims.config.masking import masked, secret_settings
from dims.config.models import (
    BotSettings,
    Config,
    DefaultSettings,
    Durability,
    FleetSettings,
    GrantSettings,
    IpcSettings,
    LimitSettings,
    MemorySharing,
    PoolSettings,
    Preset,
    RestartSettings,
    ServerKind,
    ServerSettings,
    StorageSettings,
    TelegramSettings,
)
from dims.config.reading import load_config, read_environment, referenced_variables
from dims.config.servers import DatabaseKind

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
    "MemorySharing",
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
