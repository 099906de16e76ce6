"""The configuration as it may be shown: JSON types, and stars with a source for each secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from dims.config.models import Config
from dims.config.storage_section import URLS
from dims.config.text.document import ItemPath

_SECRET_NAME = re.compile(
    r"token|secret|passw|credential|private|api_?(?:key|hash)|_key$", re.IGNORECASE
)


def masked(config: Config) -> dict[str, Any]:
    """All settings for `dims config show`.

    A secret is {"secret": "***", "source": "variable NAME" | "file PATH" | "inline"}. Below
    `settings`, values from variables and those with a telling name (api_key, password, ...)
    count as secrets.
    """
    telegram = config.telegram
    return {
        "path": str(config.path),
        "directory": str(config.directory),
        "telegram": {
            **telegram.model_dump(mode="json", exclude={"api_hash", "proxy"}),
            "api_hash": _secret(telegram.api_hash, config, ("telegram", "api_hash")),
            "proxy": _secret(telegram.proxy, config, ("telegram", "proxy")),
        },
        "fleet": config.fleet.model_dump(mode="json"),
        "ipc": config.ipc.model_dump(mode="json"),
        "grants": [grant.model_dump(mode="json", by_alias=True) for grant in config.grants],
        "storage": _storage(config),
        "defaults": {
            **config.defaults.model_dump(mode="json", exclude={"settings"}),
            "settings": _settings(config.defaults.settings, config, ("defaults", "settings")),
        },
        "bots": [_bot(config, index) for index in range(len(config.bots))],
    }


def _storage(config: Config) -> dict[str, Any]:
    storage = config.storage
    shown = storage.model_dump(mode="json")
    for name in URLS:
        if isinstance(url := getattr(storage, name), SecretStr):
            shown[name] = _secret(url, config, ("storage", name))
    return shown


def secret_settings(config: Config, bot_id: str) -> tuple[str, ...]:
    """The texts below a bot's `settings` that count as secrets: they belong in no log."""
    # By id: comparing whole models costs a millisecond with 100 bots.
    index = next(i for i, bot in enumerate(config.bots) if bot.id == bot_id)
    shown = _settings(config.bots[index].settings, config, ("bots", index, "settings"))
    return tuple(_hidden(config.bots[index].settings, shown))


def _hidden(value: Any, shown: Any) -> Iterator[str]:
    """Walks both trees; where the shown one has stars, the other has a secret."""
    if isinstance(shown, Mapping) and shown.get("secret") == "***" and value != shown:
        if isinstance(value, str | int):
            yield str(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _hidden(inner, shown[key])
    elif isinstance(value, list):
        for inner, inner_shown in zip(value, shown, strict=True):
            yield from _hidden(inner, inner_shown)


def _bot(config: Config, index: int) -> dict[str, Any]:
    bot = config.bots[index]
    plain = bot.model_dump(mode="json", exclude={"token", "settings"})
    return {
        "id": plain.pop("id"),
        "token": _secret(bot.token, config, ("bots", index, "token")),
        **plain,
        "settings": _settings(bot.settings, config, ("bots", index, "settings")),
    }


def _secret(secret: SecretStr | None, config: Config, path: ItemPath) -> dict[str, str] | None:
    return None if secret is None else _stars(config.sources.get(path, "inline"))


def _stars(source: str) -> dict[str, str]:
    return {"secret": "***", "source": source}


def _settings(value: Any, config: Config, path: ItemPath) -> Any:
    if path in config.sources:
        return _stars(config.sources[path])
    if isinstance(value, Mapping):
        return {
            key: _settings(inner, config, (*path, key))
            if (*path, key) in config.sources or not _is_secret(key, inner)
            else _stars("inline")
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_settings(inner, config, (*path, index)) for index, inner in enumerate(value)]
    return value


def _is_secret(key: str, value: Any) -> bool:
    return isinstance(value, str | int) and bool(_SECRET_NAME.search(key))
