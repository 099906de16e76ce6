"""What an operator may tell a running worker, and how each command is answered.

Knows the commands and their bodies, which come from outside and are checked here; refuses to know
how they travel. Each answer is a JSON object; its shape is in docs/json.md.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from telethon import TelegramClient

from dims.bot_worker import handlers
from dims.bot_worker.context import BotContext
from dims.bot_worker.log_levels import LogLevels
from dims.bot_worker.memory import give_back, unshared_bytes
from dims.bot_worker.stacks import stacks
from dims.bot_worker.telegram import entities
from dims.bot_worker.telegram.diagnosis import Failure
from dims.bot_worker.telegram.file_session import FileSession
from dims.bot_worker.telegram.updates import UpdateTracker
from dims.errors import RefusedError, RemoteError, TimedOutError, UsageError
from dims.ipc.words.failures import FailureClass
from dims.ipc.words.terms import Limits, worth_hiding
from dims.logs import one_line
from dims.system.clock import SYSTEM

DUMP_BYTES = 256 * 1024
MOST_ENTITIES = 1_000
"""Per `warm`: Telegram rations the resolving of names to some hundred a day."""
MOST_SECONDS = 604_800.0
_USERNAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """A worker that is ready: what it serves with."""

    client: TelegramClient
    session: FileSession
    tracker: UpdateTracker
    bot: BotContext
    module: ModuleType


class Commands:
    """Answers for one worker. `serving` is None while it is not ready, or leaves already.

    `clean` takes secrets out of a text, `hide` makes more texts secret, `leave` ends the worker,
    `trouble` says what is wrong, or nothing.
    """

    def __init__(
        self,
        limits: Limits,
        incarnation: int,
        *,
        clean: Callable[[str], str],
        hide: Callable[[tuple[str, ...]], None],
        leave: Callable[[Failure], None],
        trouble: Callable[[], str],
    ) -> None:
        self._limits = limits
        self._incarnation = incarnation
        self._clean = clean
        self._hide = hide
        self._leave = leave
        self._trouble = trouble
        self._started_s = SYSTEM.monotonic()
        self._levels = LogLevels(asyncio.get_running_loop().call_later)
        self._reloading = asyncio.Lock()
        self.serving: Serving | None = None

    async def answer(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one command.

        Raises RefusedError for a command that this worker does not know or cannot do yet,
        UsageError for a body that it does not understand, and as each command says.
        """
        match kind:
            case "reload":
                return await self._reload(_fields(kind, body, "settings", "hidden"))
            case "warm":
                return await self._warm(_fields(kind, body, "entities"))
            case "drop-caches":
                return self._drop_caches(_fields(kind, body))
            case "log-level":
                return self._log_level(_fields(kind, body, "level", "logger", "for_s"))
            case "drain":
                return await self._drain(_fields(kind, body))
            case "dump":
                return self._dump(_fields(kind, body))
            case "readings":
                return await self._readings(_fields(kind, body))
            case _:
                raise RefusedError(
                    f"this worker does not know {kind!r}",
                    hint="it may be older than the supervisor: restart the bot",
                )

    def _ready(self) -> Serving:
        if self.serving is None:
            raise RefusedError("not ready yet", hint="try again in a moment")
        return self.serving

    async def _reload(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """New settings for the bot's code; the old ones come back when its hook fails."""
        serving = self._ready()
        settings, hidden = body.get("settings"), body.get("hidden", [])
        if not isinstance(settings, dict):
            raise UsageError("reload: settings must be an object")
        if not isinstance(hidden, list) or not all(isinstance(text, str) for text in hidden):
            raise UsageError("reload: hidden must be a list of texts")
        # Before anything may log them, and for good: the old ones are still in use somewhere.
        self._hide(worth_hiding(hidden))
        async with self._reloading:
            old, serving.bot.settings = serving.bot.settings, settings
            try:
                await self._call_reload(serving)
            except BaseException:
                serving.bot.settings = old
                raise
        return {"changed": changed_keys(old, settings)}

    async def _call_reload(self, serving: Serving) -> None:
        """Raises RemoteError with what the hook raised, TimedOutError when it takes too long."""
        limit_s = self._limits.start_timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                await handlers.call_hook(serving.module, "reload", serving.bot)
        except Exception as error:
            # The bot's own code may raise anything.
            if limit.expired() and isinstance(error, TimeoutError):
                raise TimedOutError(f"reload() took longer than {limit_s:g} s") from error
            _log.exception("reload() failed")
            what = self._clean(one_line(f"{type(error).__name__}: {error}"))
            raise RemoteError(
                f"reload() raised {what}", hint="the old settings stay in force"
            ) from error

    async def _warm(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        serving = self._ready()
        wanted = body.get("entities")
        if not isinstance(wanted, list) or not 0 < len(wanted) <= MOST_ENTITIES:
            raise UsageError(f"warm: entities must be a list of 1 to {MOST_ENTITIES} ids or names")
        for entity in wanted:
            if not _is_entity(entity):
                raise UsageError(f"warm: {entity!r} is no numeric id and no name such as '@alice'")
        failed = await entities.warm(serving.client, wanted, self._limits.health_timeout_s)
        serving.session.save()
        reasons = {name: self._clean(reason) for name, reason in failed.items()}
        return {"warmed": len(set(wanted)) - len(failed), "failed": reasons}

    def _drop_caches(self, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Lets go of what can be had again from the session, and of free memory."""
        serving = self._ready()
        before = unshared_bytes()
        went = entities.drop(serving.client, serving.session)
        gc.collect()
        give_back()
        return {
            "dropped": went.dropped,
            "kept": went.kept,
            "unshared_bytes_before": before,
            "unshared_bytes_after": unshared_bytes(),
        }

    def _log_level(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        level, logger, for_s = body.get("level"), body.get("logger", ""), body.get("for_s")
        if not isinstance(level, str) or not isinstance(logger, str):
            raise UsageError("log-level: level must be a text, and logger too where it is given")
        if for_s is not None and not (type(for_s) in (int, float) and 0 < for_s <= MOST_SECONDS):
            raise UsageError("log-level: for_s must be seconds, above 0 and at most a week")
        was = self._levels.set(logger, level, for_s)
        return {"logger": logger, "level": level, "was": was, "for_s": for_s}

    async def _drain(self, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ends the worker once what is in hand is finished, or took too long."""
        tracker = self._ready().tracker
        drained = True
        try:
            async with asyncio.timeout(self._limits.drain_timeout_s):
                await tracker.drain()
        except TimeoutError:
            drained = False
        finally:
            # A turn later: the answer is sent before the link ends.
            failure = Failure(FailureClass.RECYCLE, "drained by the operator")
            asyncio.get_running_loop().call_soon(self._leave, failure)
        return {"drained": drained, "in_hand": tracker.in_hand}

    def _dump(self, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        text = self._clean(stacks(DUMP_BYTES))
        # Whatever level is set, for it was asked for.
        level = max(logging.INFO, _log.getEffectiveLevel())
        _log.log(level, "stacks, as the operator asked", extra={"stacks": text})
        return {"stacks": text}

    async def _readings(self, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        tracker = self.serving.tracker if self.serving is not None else None
        return {
            "incarnation": self._incarnation,
            "uptime_s": round(SYSTEM.monotonic() - self._started_s, 3),
            "ready": self.serving is not None,
            "trouble": self._clean(self._trouble()),
            "updates": tracker.seen if tracker is not None else None,
            "in_hand": tracker.in_hand if tracker is not None else None,
            "loop_lag_s": round(await _loop_lag_s(), 6),
            "unshared_bytes": unshared_bytes(),
            "open_files": _entries("/proc/self/fd") - 1,
            "threads": _entries("/proc/self/task"),
            "tasks": len(asyncio.all_tasks()),
            "gc_counts": list(gc.get_count()),
        }


async def _loop_lag_s() -> float:
    """How long the loop takes to come round once: what else is ready runs before us."""
    loop = asyncio.get_running_loop()
    began_s, turn = loop.time(), loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn
    return loop.time() - began_s


def _entries(directory: str) -> int:
    return len(os.listdir(directory))  # noqa: PTH208 (no objects: only their number counts)


def _fields(command: str, body: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The body, which has no other names than these: a mistyped one must not be passed over."""
    for name in body:
        if name not in names:
            takes = ", ".join(names) or "nothing"
            raise UsageError(f"{command} knows no {name!r}", hint=f"{command} takes {takes}")
    return body


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys that came, went, or have another value; 1, 1.0 and true are three values."""
    texts = [
        {key: json.dumps(value, sort_keys=True, default=str) for key, value in settings.items()}
        for settings in (old, new)
    ]
    return sorted(k for k in old.keys() | new.keys() if texts[0].get(k) != texts[1].get(k))


def _is_entity(value: object) -> bool:
    if isinstance(value, str):
        return _USERNAME.fullmatch(value) is not None
    return type(value) is int and 0 < abs(value) < 2**63
