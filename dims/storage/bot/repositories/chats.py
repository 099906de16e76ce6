"""Where a bot speaks. Ids are marked as Telethon's: users positive, groups negative, channels and
supergroups -100... Telethon itself is not known."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from dims.storage.bot.repositories.repository import (
    UNSET,
    Repository,
    Unset,
    as_json,
    as_text,
    bounded,
    columns,
    given,
    one_of,
    said,
    save_statement,
)
from dims.storage.bot.repositories.users import SEEN_EVERY

CHANNEL_BASE = 10**12
"""Marked ids of channels are -(10^12 + id), https://core.telegram.org/api/bots/ids."""


class ChatKind(StrEnum):
    """What a chat is."""

    PRIVATE = "private"
    GROUP = "group"
    SUPERGROUP = "supergroup"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True)
class Chat:
    """One chat, as this bot knows it. `data` is the bot author's own."""

    chat_id: int
    kind: ChatKind
    title: str | None
    username: str | None
    has_left: bool
    data: dict[str, Any] = field(repr=False)
    first_seen_at: datetime
    last_seen_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", ChatKind(self.kind))


_ROW = columns(Chat)
_GET = f"SELECT {_ROW} FROM dims.chats WHERE bot_id = $1 AND chat_id = $2"
_RECENT = f"SELECT {_ROW} FROM dims.chats WHERE bot_id = $1 ORDER BY last_seen_at DESC LIMIT $2"
_COUNT = "SELECT count(*) FROM dims.chats WHERE bot_id = $1"
_DELETE = f"DELETE FROM dims.chats WHERE bot_id = $2 AND chat_id = $3 RETURNING {said()}"
_SEEN = (
    "INSERT INTO dims.chats (bot_id, chat_id, kind, title, username, has_left) "
    "VALUES ($2, $3, $4, $5, $6, $7) ON CONFLICT (bot_id, chat_id) DO UPDATE SET "
    "kind = EXCLUDED.kind, title = EXCLUDED.title, username = EXCLUDED.username, "
    "has_left = EXCLUDED.has_left, last_seen_at = now() "
    f"WHERE chats.last_seen_at < now() - interval '{SEEN_EVERY}' OR "
    "(chats.kind, chats.title, chats.username, chats.has_left) IS DISTINCT FROM "
    "(EXCLUDED.kind, EXCLUDED.title, EXCLUDED.username, EXCLUDED.has_left) "
    f"RETURNING {said()}"
)
_SEEN_ID = (
    "INSERT INTO dims.chats (bot_id, chat_id, kind) VALUES ($2, $3, $4) "
    "ON CONFLICT (bot_id, chat_id) DO UPDATE SET last_seen_at = now() "
    f"WHERE chats.last_seen_at < now() - interval '{SEEN_EVERY}' RETURNING {said()}"
)


@cache
def saving(names: tuple[str, ...]) -> str:
    """The statement that saves these columns; a new row needs a kind, an old one keeps its own."""
    first = () if "kind" in names else ("kind",)
    return save_statement("chats", "chat_id", Chat, names, first)


class Chats(Repository[Chat]):
    """`bot.db.chats`."""

    __slots__ = ()
    row = Chat

    async def get(self, chat_id: int) -> Chat | None:
        """The chat, None when this bot does not know it."""
        return await self._one(_GET, chat_id)

    async def recent(self, limit: int = 50) -> list[Chat]:
        """Where something happened last, the last one first; at most 1,000."""
        return await self._all(_RECENT, bounded(limit))

    async def count(self) -> int:
        """How many chats there are."""
        return await self._number(_COUNT)

    async def save(
        self,
        chat_id: int,
        *,
        kind: ChatKind | str | Unset = UNSET,
        title: str | Unset | None = UNSET,
        username: str | Unset | None = UNSET,
        has_left: bool | Unset = UNSET,
        data: dict[str, Any] | Unset = UNSET,
    ) -> Chat:
        """The chat after what is given was stored; what is not given stays. It counts as seen now.
        The keys of `data` are taken into those that are there. A chat that is new and whose `kind`
        is not given is what its id says."""
        values = given(
            {
                "kind": UNSET if kind is UNSET else one_of(ChatKind, kind, "kind").value,
                "title": title,
                "username": username,
                "has_left": has_left,
                "data": UNSET if data is UNSET else as_json(data, "data"),
            }
        )
        args = list(values.values())
        if kind is UNSET:
            args.append(kind_of(chat_id).value)
        saved = await self._changed(saving(tuple(values)), chat_id, *args)
        assert saved is not None  # noqa: S101 (an upsert always returns its row)
        return saved

    async def seen(self, source: Any) -> int | None:
        """Stores the chat of a Telethon event or message, or a chat itself, as far as it says, and
        returns its marked id; None when there is none. Asks Telegram nothing.

        Writes when something is new, else once a minute."""
        chat = source if _is_entity(source) else getattr(source, "chat", None)
        if chat is None or not _is_entity(chat):
            chat_id = getattr(source, "chat_id", None)
            if chat_id is None:
                return None
            kind = kind_of(chat_id, is_group=getattr(source, "is_group", None))
            await self._done(_SEEN_ID, chat_id, kind.value)
            return int(chat_id)
        chat_id, kind = _marked(chat)
        title = getattr(chat, "title", None)
        has_left = bool(getattr(chat, "left", False))
        await self._done(
            _SEEN,
            chat_id,
            kind.value,
            as_text(title) if title else None,
            getattr(chat, "username", None),
            has_left,
        )
        return chat_id

    async def delete(self, chat_id: int) -> bool:
        """Forgets the chat; False when there was none. Messages stay."""
        return await self._done(_DELETE, chat_id) > 0


def kind_of(chat_id: int, *, is_group: bool | None = None) -> ChatKind:
    """What the marked id says; without `is_group` a channel's id counts as a supergroup's."""
    if chat_id > 0:
        return ChatKind.PRIVATE
    if chat_id > -CHANNEL_BASE:
        return ChatKind.GROUP
    return ChatKind.CHANNEL if is_group is False else ChatKind.SUPERGROUP


def _is_entity(source: Any) -> bool:
    return hasattr(source, "first_name") or (hasattr(source, "title") and hasattr(source, "id"))


def _marked(chat: Any) -> tuple[int, ChatKind]:
    if hasattr(chat, "first_name"):
        return int(chat.id), ChatKind.PRIVATE
    if not hasattr(chat, "broadcast"):
        return -int(chat.id), ChatKind.GROUP
    kind = ChatKind.CHANNEL if chat.broadcast else ChatKind.SUPERGROUP
    return -(CHANNEL_BASE + int(chat.id)), kind
