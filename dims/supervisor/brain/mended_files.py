"""The handlers file of each bot that failed: when it changes, the bot is worth another start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dims.supervisor.brain.roster import Roster
from dims.supervisor.core.facts import FileChanged, UnitId

LOOK_S = 1.0
"""How often the files are looked at."""

Post = Callable[[UnitId, FileChanged], None]


class MendedFiles:
    """Watches the files of those who are followed, and posts what changed."""

    def __init__(self, roster: Roster, post: Post) -> None:
        self._roster = roster
        self._post = post
        self._times: dict[UnitId, float] = {}

    def follow(self, unit: UnitId) -> None:
        """From now on a change of its file counts."""
        if unit not in self._times:
            self._times[unit] = self._time(unit)

    def leave(self, unit: UnitId) -> None:
        """Its file is of no interest any more."""
        self._times.pop(unit, None)

    async def watch(self) -> None:
        """Looks again and again; never returns."""
        while True:
            await asyncio.sleep(LOOK_S)
            for unit, seen in tuple(self._times.items()):
                if self._time(unit) != seen:
                    del self._times[unit]
                    self._post(unit, FileChanged())

    def _time(self, unit: UnitId) -> float:
        """When the bot's handlers file last changed; 0 where there is none."""
        bot = self._roster.bots.get(unit)
        if bot is None:
            return 0.0
        name = bot.handlers
        if not name.endswith(".py"):
            name = name.replace(".", "/") + ".py"
        try:
            return (self._roster.config.directory / name).stat().st_mtime
        except OSError:
            return 0.0
