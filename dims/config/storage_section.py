"""The section `storage`: where the data are, and whether the files that its URLs name are there.

Looks at TLS files; opens no connection. Never puts a URL into a fault.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dims.addresses import TLS_FILES, PostgresAddress, anchored, parse_postgres_url
from dims.config.models import StorageSettings
from dims.config.text.files import tls_file_fault
from dims.config.text.ground import Ground

POSTGRES_URLS = ("database", "replica", "pooler")
URLS = (*POSTGRES_URLS, "redis")


def read_storage(ground: Ground) -> StorageSettings | None:
    """The section with its defaults and absolute TLS files; None when faulty."""
    raw = ground.data.get("storage") or {}
    if isinstance(raw, dict):
        raw = _prepared(ground, raw)
    made = ground.section(StorageSettings, ("storage",), raw)
    return made if isinstance(made, StorageSettings) else None


def _prepared(ground: Ground, raw: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in raw.items() if key != "pool" or value is not None}
    for key in POSTGRES_URLS:
        address = _address(kept.get(key))
        if address is not None:
            kept[key] = anchored(kept[key], ground.directory)
            _check_files(ground, key, address)
    return kept


def _address(url: object) -> PostgresAddress | None:
    """None for what is no URL of a server: the model says what is wrong with it."""
    try:
        return parse_postgres_url(url) if isinstance(url, str) else None
    except ValueError:
        return None


def _check_files(ground: Ground, key: str, address: PostgresAddress) -> None:
    for name in TLS_FILES:
        file: Path = ground.directory / getattr(address, name)
        if getattr(address, name) and (fault := tls_file_fault(file, is_key=name == "sslkey")):
            ground.fault(("storage", key), f"{key} names as {name} {file}, which {fault}")
