"""What a bot's code gets in `setup(bot)`: the BotContext. The public interface to bot authors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from telethon import TelegramClient

from dims.bot_worker.database.worker_storage import Storage
from dims.bot_worker.mail.authoring import F
from dims.bot_worker.mail.mail import Mail
from dims.bot_worker.memory import unshared_bytes
from dims.ipc.wire.envelope import Priority
from dims.system.clock import SYSTEM

if TYPE_CHECKING:
    from dims.storage.bot.database import Database
    from dims.storage.bot.transaction import Transaction


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
        mail: Mail,
        storage: Storage,
    ) -> None:
        self.id = bot
        self.client = client
        self.settings = settings
        self.admins = admins
        self.log = logging.getLogger(f"bot.{bot}")
        self._incarnation = incarnation
        self._leave = leave
        self._mail = mail
        self._storage = storage
        self._started_s = SYSTEM.monotonic()

    def status(self) -> dict[str, Any]:
        """`incarnation`, `uptime_s` in seconds and `unshared_bytes` (None where unknown)."""
        return {
            "id": self.id,
            "incarnation": self._incarnation,
            "uptime_s": SYSTEM.monotonic() - self._started_s,
            "unshared_bytes": unshared_bytes(),
        }

    async def request_restart(self, reason: str) -> None:
        """Asks for a new incarnation: handlers in hand are finished first, then this one leaves."""
        self._leave(reason)
        # One turn of the loop, so that what the caller sent before is on its way.
        await asyncio.sleep(0)

    # What the bot knows

    @property
    def db(self) -> Database:
        """The bot's own part of the database: `users`, `chats`, `messages`, `settings` and more,
        raw SQL, `session()` for SQLAlchemy; see docs/storage.md.

        Nobody else's rows can be read or written with it. Raises ServiceError where
        `storage.database` is off.
        """
        return self._storage.database

    def tx(
        self, *, isolation: str | None = None, read_only: bool = False
    ) -> AbstractAsyncContextManager[Transaction]:
        """`async with bot.tx():` all that is done with `bot.db` inside, or nothing of it; inside
        another one a savepoint. Raises as `Database.tx`."""
        return self.db.tx(isolation=isolation, read_only=read_only)

    # Messages to and from other bots

    async def send(
        self,
        to: str,
        kind: str,
        body: Any = None,
        *,
        priority: Priority | str = Priority.NORMAL,
        durable: bool = True,
        expires_in_s: float | None = None,
    ) -> str:
        """Sends a message to the bot `to` and returns its id.

        `body` is any JSON value or a pydantic model. A durable message is in the recipient's
        mailbox file when this returns, whether the recipient runs or not. One that is not durable
        is given to the recipient's socket, and is lost with either process.

        Raises RefusedError when no grant allows it, FullError when too much waits there already
        (`retry_after_s` says when to try again), StateError when the disk is full, ProtocolError
        when the body is too large or no JSON; not durable: NotRunningError as well.
        """
        return await self._mail.send(
            to, kind, body, priority=priority, durable=durable, expires_in_s=expires_in_s
        )

    async def send_many(
        self,
        to: str,
        kind: str,
        bodies: Iterable[Any],
        *,
        priority: Priority | str = Priority.NORMAL,
        durable: bool = True,
    ) -> int:
        """Sends one message for each of `bodies`, in order, and returns how many; durable ones all
        or none, with one write. Raises as `send`."""
        return await self._mail.send_many(to, kind, bodies, priority=priority, durable=durable)

    async def request(
        self,
        to: str,
        kind: str,
        body: Any = None,
        *,
        timeout_s: float | None = None,
        priority: Priority | str = Priority.NORMAL,
        durable: bool = False,
        model: Any = None,
    ) -> Any:
        """What the handler of the bot `to` answers: a JSON value, or a `model`.

        Waits `timeout_s` seconds (default: `ipc.request_timeout_s`) for a bot that comes up, too.
        When it is cancelled or late, the other bot's handler is cancelled. A durable request waits
        in the mailbox of a bot that is down, and is handled until its deadline.

        Raises TimedOutError, NotRunningError, RefusedError when no grant or no handler is there,
        RemoteError when the handler raised.
        """
        return await self._mail.request(
            to,
            kind,
            body,
            timeout_s=timeout_s,
            priority=priority,
            durable=durable,
            model=model,
        )

    def on(self, *kinds: str, model: Any = None) -> Callable[[F], F]:
        """`@bot.on("kind")` in `setup`: the function takes messages of these kinds; `dims.on` does
        the same at the top of a module. Raises UsageError when another function takes them."""
        return self._mail.on(*kinds, model=model)
