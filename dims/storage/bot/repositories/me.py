"""The bot's own row among the tenants: who it is on Telegram."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dims.errors import StateError
from dims.storage.bot.repositories.repository import Repository, columns, said


@dataclass(frozen=True, slots=True)
class Me:
    """Who the bot is."""

    telegram_id: int | None
    username: str | None
    name: str
    created_at: datetime
    updated_at: datetime


_ROW = columns(Me)
_GET = f"SELECT {_ROW} FROM dims.bots WHERE bot_id = $1"
_UPDATE = (
    "UPDATE dims.bots SET telegram_id = coalesce($3, telegram_id), "
    "username = coalesce($4, username), name = coalesce($5, name), updated_at = now() "
    "WHERE bot_id = $2 AND (telegram_id, username, name) IS DISTINCT FROM "
    "(coalesce($3, telegram_id), coalesce($4, username), coalesce($5, name)) "
    f"RETURNING {_ROW}, {said()}"
)


class Myself(Repository[Me]):
    """`bot.db.me`."""

    __slots__ = ()
    row = Me

    async def get(self) -> Me:
        """The row. Raises StateError when the bot was never registered."""
        me = await self._one(_GET)
        if me is None:
            raise StateError(
                f"{self._bot_id}: not registered in the database", hint="`dims start` registers it"
            )
        return me

    async def update(
        self,
        *,
        telegram_id: int | None = None,
        username: str | None = None,
        name: str | None = None,
    ) -> Me:
        """The row after what is given was stored; None leaves a column as it is. Raises StateError
        when the bot was never registered."""
        return await self._changed(_UPDATE, telegram_id, username, name) or await self.get()
