"""People a bot has met. What Telegram says of them is read here, Telethon itself is not known."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from dims.storage.bot.repositories.repository import (
    LIMIT,
    UNSET,
    Repository,
    Unset,
    as_json,
    as_text,
    bounded,
    columns,
    given,
    said,
    save_statement,
)

SEEN_EVERY = "1 minute"
"""Who writes ten messages in a minute is marked as seen once: each mark is a row written twice,
here and in the audit log."""


@dataclass(frozen=True, slots=True)
class User:
    """One person, as this bot knows them. `data` is the bot author's own."""

    user_id: int
    username: str | None
    """Without `@`."""
    first_name: str
    last_name: str | None
    language: str | None
    is_bot: bool
    has_blocked: bool
    data: dict[str, Any] = field(repr=False)
    first_seen_at: datetime
    last_seen_at: datetime


_ROW = columns(User)
_GET = f"SELECT {_ROW} FROM dims.users WHERE bot_id = $1 AND user_id = $2"
_FIND = (
    f"SELECT {_ROW} FROM dims.users WHERE bot_id = $1 AND lower(username) = lower($2) "
    "AND username IS NOT NULL ORDER BY last_seen_at DESC LIMIT 1"
)
_RECENT = f"SELECT {_ROW} FROM dims.users WHERE bot_id = $1 ORDER BY last_seen_at DESC LIMIT $2"
_COUNT = "SELECT count(*) FROM dims.users WHERE bot_id = $1"
_DELETE = f"DELETE FROM dims.users WHERE bot_id = $2 AND user_id = $3 RETURNING {said()}"
# What is "min" in Telegram has no language; it is kept.
_SEEN = (
    "INSERT INTO dims.users (bot_id, user_id, username, first_name, last_name, language, is_bot) "
    "VALUES ($2, $3, $4, $5, $6, $7, $8) ON CONFLICT (bot_id, user_id) DO UPDATE SET "
    "username = EXCLUDED.username, first_name = EXCLUDED.first_name, "
    "last_name = EXCLUDED.last_name, language = coalesce(EXCLUDED.language, users.language), "
    "is_bot = EXCLUDED.is_bot, last_seen_at = now() "
    f"WHERE users.last_seen_at < now() - interval '{SEEN_EVERY}' OR "
    "(users.username, users.first_name, users.last_name, users.is_bot) IS DISTINCT FROM "
    "(EXCLUDED.username, EXCLUDED.first_name, EXCLUDED.last_name, EXCLUDED.is_bot) OR "
    "coalesce(EXCLUDED.language, users.language) IS DISTINCT FROM users.language "
    f"RETURNING {said()}"
)
_SEEN_ID = (
    "INSERT INTO dims.users (bot_id, user_id) VALUES ($2, $3) "
    "ON CONFLICT (bot_id, user_id) DO UPDATE SET last_seen_at = now() "
    f"WHERE users.last_seen_at < now() - interval '{SEEN_EVERY}' RETURNING {said()}"
)


@cache
def saving(names: tuple[str, ...]) -> str:
    """The statement that saves these columns."""
    return save_statement("users", "user_id", User, names)


class Users(Repository[User]):
    """`bot.db.users`."""

    __slots__ = ()
    row = User

    async def get(self, user_id: int) -> User | None:
        """The user, None when this bot has not met them."""
        return await self._one(_GET, user_id)

    async def find(self, username: str) -> User | None:
        """Whoever was last seen with this name, whatever its case, with or without `@`."""
        return await self._one(_FIND, username.removeprefix("@"))

    async def recent(self, limit: int = 50) -> list[User]:
        """Who was seen last, the last one first; at most 1,000."""
        return await self._all(_RECENT, bounded(limit, LIMIT))

    async def count(self) -> int:
        """How many users there are."""
        return await self._number(_COUNT)

    async def save(
        self,
        user_id: int,
        *,
        username: str | Unset | None = UNSET,
        first_name: str | Unset = UNSET,
        last_name: str | Unset | None = UNSET,
        language: str | Unset | None = UNSET,
        is_bot: bool | Unset = UNSET,
        has_blocked: bool | Unset = UNSET,
        data: dict[str, Any] | Unset = UNSET,
    ) -> User:
        """The user after what is given was stored; what is not given stays. They count as seen
        now. The keys of `data` are taken into those that are there."""
        values = given(
            {
                "username": username,
                "first_name": first_name,
                "last_name": last_name,
                "language": language,
                "is_bot": is_bot,
                "has_blocked": has_blocked,
                "data": UNSET if data is UNSET else as_json(data, "data"),
            }
        )
        saved = await self._changed(saving(tuple(values)), user_id, *values.values())
        assert saved is not None  # noqa: S101 (an upsert always returns its row)
        return saved

    async def seen(self, source: Any) -> int | None:
        """Stores who is behind a Telethon event, message or user, as far as it says, and returns
        their id; None when it is no person (a channel, say). Asks Telegram nothing.

        Writes when something is new, else once a minute."""
        user: Any = source if hasattr(source, "first_name") else getattr(source, "sender", None)
        if hasattr(user, "first_name"):
            values = (
                _username(user),
                as_text(user.first_name or ""),
                as_text(user.last_name) if user.last_name else None,
                getattr(user, "lang_code", None),
                bool(getattr(user, "bot", False)),
            )
            await self._done(_SEEN, user.id, *values)
            return int(user.id)
        user_id = getattr(source, "sender_id", None)
        if user_id is None or user_id <= 0:
            return None
        await self._done(_SEEN_ID, user_id)
        return int(user_id)

    async def delete(self, user_id: int) -> bool:
        """Forgets the user; False when there was none. Messages stay."""
        return await self._done(_DELETE, user_id) > 0


def _username(user: Any) -> str | None:
    # Who has several names has them in a list, and the old field is empty.
    names = [user.username, *(name.username for name in getattr(user, "usernames", None) or ())]
    return next((name for name in names if name), None)
