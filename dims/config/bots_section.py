"""The section `bots`: each bot with the defaults merged in, and no two alike.

A fault that a bot inherits is told once, where it is written, under `defaults`.
"""

from __future__ import annotations

from typing import Any

from dims.config.models import BotSettings, ServerKind
from dims.config.text.complaints import validate
from dims.config.text.document import ItemPath
from dims.config.text.ground import Ground, tidy
from dims.config.tokens import Tokens
from dims.wording import quoted


def read_bots(ground: Ground, kind: ServerKind | None) -> tuple[BotSettings, ...]:
    """The bots without a fault; `kind` (None: not known) says whether tokens are needed."""
    raw = ground.data.get("bots")
    if raw is None or raw == []:
        ground.fault(("bots",), "bots is missing or empty; list at least one bot", of_key=True)
        return ()
    if not isinstance(raw, list):
        ground.fault(("bots",), "bots must be a list; begin each bot with '- id: ...'")
        return ()
    _check_ids(ground, raw)
    tokens, defaults = Tokens(ground, kind), _Defaults(ground)
    made = [_bot(ground, index, value, tokens, defaults) for index, value in enumerate(raw)]
    return tuple(bot for bot in made if bot is not None)


def _check_ids(ground: Ground, raw: list[Any]) -> None:
    first_lines: dict[str, int] = {}
    for index, bot in enumerate(raw):
        bot_id = bot.get("id") if isinstance(bot, dict) else None
        if not isinstance(bot_id, str):
            continue
        here: ItemPath = ("bots", index, "id")
        if bot_id in first_lines:
            line = first_lines[bot_id]
            text = f"the bot id {quoted(bot_id)} is already on line {line}; ids must differ"
            ground.fault(here, text)
        first_lines.setdefault(bot_id, ground.mark(here).line)


class _Defaults:
    """The section `defaults` as every bot inherits it: raw, so that each fault keeps its place."""

    def __init__(self, ground: Ground) -> None:
        raw = tidy(ground.data.get("defaults"))
        sections = raw if isinstance(raw, dict) else {}
        self._sections = {
            name: inner for name, inner in sections.items() if isinstance(inner, dict)
        }
        here = ("defaults", "settings")
        self._sources = [
            (path[1:], source) for path, source in ground.sources.items() if path[:2] == here
        ]

    def under(self, raw: dict[str, Any]) -> dict[str, Any]:
        """restart, limits and settings: the bot's own keys over those under `defaults`."""
        merged: dict[str, Any] = {}
        for name in ("restart", "limits", "settings"):
            own = raw.get(name, {})
            base = self._sections.get(name, {})
            merged[name] = {**base, **own} if isinstance(own, dict) else own
        return merged

    def sources(self, index: int, raw: dict[str, Any]) -> dict[ItemPath, str]:
        """Where the settings come from that the bot at that place does not write itself."""
        own = raw.get("settings", {})
        return {
            ("bots", index, *path): source for path, source in self._sources if path[1] not in own
        }


def _bot(
    ground: Ground, index: int, value: Any, tokens: Tokens, defaults: _Defaults
) -> BotSettings | None:
    if not isinstance(value, dict):
        ground.fault(("bots", index), "a bot must be a mapping (id: ..., handlers: ...)")
        return None
    raw = tidy(value)
    merged = {key: inner for key, inner in raw.items() if key not in {"token", "token_file"}}
    merged |= {"token": tokens.of(index, raw)} | defaults.under(raw)
    made, complaints = validate(BotSettings, merged, "a bot", ("token_file",))
    for path, of_key, text in complaints:
        _tell(ground, index, path, text, of_key=of_key)
    if not isinstance(made, BotSettings):
        return None
    ground.sources.update(defaults.sources(index, raw))
    return made


def _tell(ground: Ground, index: int, path: ItemPath, text: str, *, of_key: bool) -> None:
    """At the bot's own key, else at the one under `defaults`, where it may be told already."""
    own: ItemPath = ("bots", index, *path)
    inherited: ItemPath = ("defaults", *path)
    if not ground.has(own) and ground.has(inherited) and ground.faulty(inherited):
        return
    is_inherited = len(path) > 1 and ground.has(inherited[:-1])
    if is_inherited and not ground.has(ground.written(own)):
        ground.fault(inherited, text, of_key=of_key)
    else:
        ground.fault(own, text, of_key=of_key)
