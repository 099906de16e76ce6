"""What operators tell a running worker: passed on, and its answer brought back.

Knows no command but `reload`, whose body is made here: the bot's settings as bots.yaml has them
now. Everything else is between the operator and the worker.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from dims.config import BotSettings, load_config
from dims.errors import NotRunningError, UsageError
from dims.ipc.wire.sentences import written
from dims.ipc.words.asked import TellBot
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units.worker_terms import fresh_settings

MOST_SECONDS = 3_600.0
_COMMAND = re.compile(r"[a-z][a-z-]{0,31}")


class Teller:
    """Passes commands on. `environment` is what the brain read its configuration with."""

    def __init__(self, supervisor: ProcessSupervisor, environment: Mapping[str, str]) -> None:
        self._supervisor = supervisor
        self._environment = environment

    async def tell(self, unit: UnitId, asked: TellBot) -> Mapping[str, Any]:
        """What the bot's worker answers.

        Raises UsageError for a request that is none, NotRunningError when the bot is down,
        TimedOutError, ConfigError from a reload, and whatever DimsError the worker answers.
        """
        command, told, timeout_s = asked.command, asked.body, asked.timeout_s
        if not _COMMAND.fullmatch(command):
            raise UsageError("the command must be a word such as 'readings'")
        if not 0 < timeout_s <= MOST_SECONDS:
            raise UsageError(f"the timeout must be above 0 s and at most {MOST_SECONDS:g} s")
        self._check_runs(unit)
        if command == "reload":
            return await self._reload(unit, told, timeout_s)
        return await self._supervisor.links.request(unit, command, told, timeout_s)

    def _check_runs(self, unit: UnitId) -> None:
        if not self._supervisor.links.is_joined(unit):
            state = self._supervisor.engine.records[unit].state.value
            raise NotRunningError(f"{unit} is {state}", hint=f"see `dims bot explain {unit}`")

    async def _reload(
        self, unit: UnitId, told: Mapping[str, Any], timeout_s: float
    ) -> Mapping[str, Any]:
        """New settings count for later incarnations once this one has taken them."""
        if told:
            raise UsageError("reload takes nothing", hint="it reads bots.yaml and .env again")
        running = self._supervisor.roster.config
        # In a thread: a file of a thousand bots takes longer than the fleet should wait.
        config = await asyncio.to_thread(load_config, running.path, self._environment)
        settings = fresh_settings(config, unit)
        links = self._supervisor.links
        answer = await links.request(unit, "reload", written(settings), timeout_s)
        self._supervisor.welcoming.reloaded[unit] = settings
        return {**answer, "needs_restart": other_changes(running.bot(unit), config.bot(unit))}


def other_changes(old: BotSettings, new: BotSettings) -> list[str]:
    """The keys besides `settings` that differ, such as `handlers` or `limits.log_bytes`."""
    whole = ("token", "handlers", "admins")
    changed = [key for key in whole if getattr(old, key) != getattr(new, key)]
    for section in ("limits", "restart"):
        before, after = getattr(old, section), getattr(new, section)
        fields = type(before).model_fields
        changed += [
            f"{section}.{name}" for name in fields if getattr(before, name) != getattr(after, name)
        ]
    return sorted(changed)
