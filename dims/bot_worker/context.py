"""What a bot's code gets in `setup(bot)`: the BotContext. The public interface to bot authors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from telethon import TelegramClient

from dims.bot_worker.memory import unshared_bytes


class BotContext:
    """One bot: its `id`, Telethon `client`, `settings`, `admins` and `log`."""

    def __init__(
        self,
        bot: str,
        *,
        client: TelegramClient,
        settings: Mapping[str, Any],
        admins: tuple[int | str, ...],
        incarnation: int,
        leave: Callable[[str], None],
    ) -> None:
        self.id = bot
        self.client = client
        self.settings = settings
        self.admins = admins
        self.log = logging.getLogger(f"bot.{bot}")
        self._incarnation = incarnation
        self._leave = leave
        self._started_s = time.monotonic()

    def status(self) -> dict[str, Any]:
        """`incarnation`, `uptime_s` in seconds and `unshared_bytes` (None where unknown)."""
        return {
            "id": self.id,
            "incarnation": self._incarnation,
            "uptime_s": time.monotonic() - self._started_s,
            "unshared_bytes": unshared_bytes(),
        }

    async def request_restart(self, reason: str) -> None:
        """Asks for a new incarnation: handlers in hand are finished first, then this one leaves."""
        self._leave(reason)
        # One turn of the loop, so that what the caller sent before is on its way.
        await asyncio.sleep(0)
