"""The section `telegram`: which server, as which application, through which proxy.

Nothing is guessed: no server, no start; and Telegram's own servers never turn into a sandbox.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from dims.config.models import ServerKind, ServerSettings, TelegramSettings
from dims.config.proxies import proxy_fault
from dims.config.text.complaints import unknown_key
from dims.config.text.files import public_key_fault
from dims.config.text.ground import Ground
from dims.config.text.variables import FromVariable
from dims.wording import did_you_mean, quoted

SERVERS = (
    "production (Telegram), test (Telegram's test servers), sandbox (a Telegram on this machine) "
    "or {host: ..., port: ..., dc: ..., public_key_file: ...}"
)
_HERE = ("telegram",)
_SERVER = ("telegram", "server")
_CUSTOM_KEYS = ["host", "port", "dc", "public_key_file"]
_DEFAULT_SOURCES = {"api_id": "TELEGRAM_API_ID", "api_hash": "TELEGRAM_API_HASH"}


def read_telegram(ground: Ground) -> tuple[ServerSettings | None, TelegramSettings | None]:
    """The server and the whole section; each is None when faulty."""
    raw = ground.data.get("telegram")
    if raw is None or raw == {}:
        text = f"telegram.server is missing; say which server the bots use: {SERVERS}"
        ground.fault(_HERE, text, of_key=True)
        return None, None
    if not isinstance(raw, dict):
        ground.fault(_HERE, "telegram must be a mapping (key: value)")
        return None, None
    raw = raw | _from_environment(ground, raw)
    server = _server(ground, raw.get("server"))
    # A stand-in only lets the other faults of the section be found: it is never returned.
    stand_in = ServerSettings(kind=ServerKind.SANDBOX)
    made = ground.section(TelegramSettings, _HERE, raw | {"server": server or stand_in})
    _check_proxy(ground, raw.get("proxy"))
    if server is not None:
        _check_credentials(ground, server.kind, raw)
    for secret in ("api_hash", "proxy"):
        if raw.get(secret) is not None:
            ground.sources.setdefault(("telegram", secret), "inline")
    return server, made if server else None


def _from_environment(ground: Ground, raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, name in _DEFAULT_SOURCES.items():
        if key not in raw and ground.variables.get(name):
            found[key] = FromVariable(ground.variables[name])
            ground.sources["telegram", key] = f"variable {name}"
    return found


def _server(ground: Ground, value: object) -> ServerSettings | None:
    names = [kind.value for kind in ServerKind if kind is not ServerKind.CUSTOM]
    match value:
        case dict():
            return _custom_server(ground, value)
        case None:
            ground.fault(_SERVER, f"telegram.server is missing; possible: {SERVERS}", of_key=True)
        case str() if value in names:
            return ServerSettings.named(ServerKind(value))
        case str() if not isinstance(value, FromVariable):
            near = did_you_mean(value, names)
            ground.fault(_SERVER, f"server cannot be {quoted(value)}; possible: {SERVERS}.{near}")
        case _:
            ground.fault(_SERVER, f"server must be one of: {SERVERS}")
    return None


def _custom_server(ground: Ground, raw: dict[str, Any]) -> ServerSettings | None:
    values: dict[str, Any] = {"port": 443, "dc": 2, **raw, "kind": ServerKind.CUSTOM}
    if "kind" in raw:
        ground.fault((*_SERVER, "kind"), unknown_key("kind", _CUSTOM_KEYS), of_key=True)
    for key in ("host", "port", "dc"):
        if values.get(key) is None:
            text = f"{key} is missing; a server of your own needs an IP address, a port and a dc"
            ground.fault((*_SERVER, key), text, of_key=True)
    file = raw.get("public_key_file")
    if isinstance(file, str):
        values["public_key_file"] = ground.directory / file
        if fault := public_key_fault(ground.directory / file):
            ground.fault((*_SERVER, "public_key_file"), f"public_key_file {fault}")
    made = ground.section(ServerSettings, _SERVER, values)
    return made if isinstance(made, ServerSettings) else None


def _check_proxy(ground: Ground, url: object) -> None:
    if isinstance(url, str) and (fault := proxy_fault(url, _is_installed)):
        ground.fault(("telegram", "proxy"), fault)


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _check_credentials(ground: Ground, kind: ServerKind, raw: dict[str, Any]) -> None:
    """Telegram's own servers want an application's id and hash."""
    if kind not in {ServerKind.PRODUCTION, ServerKind.TEST}:
        return
    for key, name in _DEFAULT_SOURCES.items():
        if raw.get(key) is None:
            text = f"{key} is missing; put it here or set {name} (from https://my.telegram.org)"
            ground.fault(("telegram", key), text, of_key=True)
