"""What was said, in and out. A message is known by its chat and its number in it, so that an update
that Telegram delivers again is the same row. Telethon itself is not known."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dims.errors import UsageError
from dims.storage.bot.repositories.repository import (
    MANY,
    Repository,
    as_json,
    as_text,
    aware,
    bounded,
    changed,
    columns,
    said,
)
from dims.storage.connections.storage_errors import ConflictError
from dims.system.clock import SYSTEM

log = logging.getLogger("dims.storage")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMessage:
    """A message to store. `sent_at` must have a time zone; None means now."""

    chat_id: int
    message_id: int
    text: str = ""
    sender_id: int | None = None
    is_outgoing: bool = False
    sent_at: datetime | None = None
    conversation_id: UUID | None = None
    reply_to_id: int | None = None
    media: dict[str, Any] | None = None

    def sent(self) -> datetime:
        """When it was sent, or now. Raises UsageError without a time zone."""
        return (
            datetime.fromtimestamp(SYSTEM.utc(), UTC)
            if self.sent_at is None
            else aware(self.sent_at, "sent_at")
        )

    def media_json(self) -> str | None:
        """`media` as text. Raises UsageError for what is no JSON."""
        return None if self.media is None else as_json(self.media, "media")


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is stored."""

    chat_id: int
    message_id: int
    conversation_id: UUID | None
    sender_id: int | None
    is_outgoing: bool
    text: str = field(repr=False)
    media: dict[str, Any] | None
    reply_to_id: int | None
    sent_at: datetime
    edited_at: datetime | None
    deleted_at: datetime | None


_ROW = columns(Message)
_GIVEN = (
    "chat_id, message_id, conversation_id, sender_id, is_outgoing, text, media, reply_to_id, "
    "sent_at"
)
_GET = f"SELECT {_ROW} FROM dims.messages WHERE bot_id = $1 AND chat_id = $2 AND message_id = $3"
_ADD = (
    f"INSERT INTO dims.messages (bot_id, {_GIVEN}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    " ON CONFLICT DO NOTHING"
)
# Seconds, for the driver takes four times as long to pack a moment as a number.
_ADD_NEW = (
    f"INSERT INTO dims.messages (bot_id, {_GIVEN}) "
    "SELECT $1, a, b, c, d, e, f, g, h, to_timestamp(i) FROM unnest($2::bigint[], $3::bigint[], "
    "$4::uuid[], $5::bigint[], $6::boolean[], $7::text[], $8::jsonb[], $9::bigint[], "
    "$10::float8[]) AS new (a, b, c, d, e, f, g, h, i)"
)
_ADD_MANY = f"{_ADD_NEW} ON CONFLICT DO NOTHING"
_WORTH_A_TRY = 100
"""From so many rows on, hoping that all are new costs less than having each looked up: ON CONFLICT
took 1.4 times as long with 10,000 rows."""
_RECENT = (
    f"SELECT {_ROW} FROM dims.messages WHERE bot_id = $1 AND chat_id = $2 "
    "ORDER BY sent_at DESC, message_id DESC LIMIT $3"
)
_BEFORE = (
    f"SELECT {_ROW} FROM dims.messages WHERE bot_id = $1 AND chat_id = $2 AND sent_at <= $4 "
    "AND (sent_at, message_id) < ($4, $5) ORDER BY sent_at DESC, message_id DESC LIMIT $3"
)
_OF_CONVERSATION = (
    f"SELECT {_ROW} FROM (SELECT * FROM dims.messages WHERE bot_id = $1 AND conversation_id = $2 "
    "ORDER BY sent_at DESC, message_id DESC LIMIT $3) AS last ORDER BY sent_at, message_id"
)
_COUNT = "SELECT count(*) FROM dims.messages WHERE bot_id = $1"
_COUNT_CHAT = "SELECT count(*) FROM dims.messages WHERE bot_id = $1 AND chat_id = $2"
_EDITED = (
    "UPDATE dims.messages SET text = $5, edited_at = $6 WHERE bot_id = $2 AND chat_id = $3 "
    "AND message_id = $4 AND (edited_at IS NULL OR edited_at < $6) "
    f"RETURNING {said()}"
)
_DELETED = (
    "UPDATE dims.messages SET deleted_at = now() WHERE bot_id = $2 AND chat_id = $3 "
    f"AND message_id = ANY ($4::bigint[]) AND deleted_at IS NULL RETURNING {said()}"
)
_ERASE = (
    "DELETE FROM dims.messages WHERE bot_id = $2 AND chat_id = $3 AND message_id = $4 "
    f"RETURNING {said()}"
)


class Messages(Repository[Message]):
    """`bot.db.messages`."""

    __slots__ = ()
    row = Message

    async def get(self, chat_id: int, message_id: int) -> Message | None:
        """The message, None when it is not stored."""
        return await self._one(_GET, chat_id, message_id)

    async def record(self, source: Any, *, conversation_id: UUID | None = None) -> bool:
        """Stores a Telethon event's message, or a message such as `client.send_message` returns.
        False when it is stored already: Telegram may deliver an update again."""
        return await self.add(read_message(source, conversation_id))

    async def add(self, message: NewMessage) -> bool:
        """Stores the message; False when one of this chat and number is stored already."""
        tag = await self._on.write(
            "execute",
            _ADD,
            self._bot_id,
            message.chat_id,
            message.message_id,
            message.conversation_id,
            message.sender_id,
            message.is_outgoing,
            as_text(message.text),
            message.media_json(),
            message.reply_to_id,
            message.sent(),
        )
        return changed(tag) == 1

    async def add_many(self, messages: Iterable[NewMessage]) -> int:
        """Stores up to 10,000 messages with one statement, all or none, and returns how many were
        new. Raises UsageError for more."""
        rows = list(messages)
        if len(rows) > MANY:
            raise UsageError(f"{len(rows)} messages at once, at most {MANY}", hint="in parts")
        if not rows:
            return 0
        args = (self._bot_id, *_columns(rows))
        if len(rows) >= _WORTH_A_TRY:
            try:
                return changed(await self._on.attempt("execute", _ADD_NEW, *args))
            except ConflictError:
                log.debug("%s: some of %d messages are known", self._bot_id, len(rows))
        return changed(await self._on.write("execute", _ADD_MANY, *args))

    async def recent(
        self, chat_id: int, limit: int = 50, *, before: Message | None = None
    ) -> list[Message]:
        """The last messages of a chat, the last one first, at most 1,000; with `before`, the page
        that follows it."""
        if before is None:
            return await self._all(_RECENT, chat_id, bounded(limit))
        return await self._all(_BEFORE, chat_id, bounded(limit), before.sent_at, before.message_id)

    async def of_conversation(self, conversation_id: UUID, limit: int = 50) -> list[Message]:
        """The last messages of a conversation, in the order in which they were sent."""
        return await self._all(_OF_CONVERSATION, conversation_id, bounded(limit))

    async def count(self, chat_id: int | None = None) -> int:
        """How many messages there are, in one chat or in all. Reads each: for large numbers keep
        a counter of your own."""
        if chat_id is None:
            return await self._number(_COUNT)
        return await self._number(_COUNT_CHAT, chat_id)

    async def edited(self, source: Any) -> bool:
        """Takes the new text of a Telethon event or message; False when the message is not stored,
        or with this edit or a later one."""
        message = _message(source)
        edited_at = message.edit_date or datetime.fromtimestamp(SYSTEM.utc(), UTC)
        where = (message.chat_id, message.id)
        return await self._done(_EDITED, *where, as_text(message.message or ""), edited_at) > 0

    async def deleted(self, chat_id: int, message_ids: Iterable[int]) -> int:
        """Marks messages as deleted, text and all being kept; how many were not so yet."""
        listed = list(message_ids)
        bounded(len(listed) or 1, MANY)
        return await self._done(_DELETED, chat_id, listed)

    async def erase(self, chat_id: int, message_id: int) -> bool:
        """Removes the row of a message; False when there was none."""
        return await self._done(_ERASE, chat_id, message_id) > 0


def read_message(source: Any, conversation_id: UUID | None = None) -> NewMessage:
    """What is stored of a Telethon event or message. Raises UsageError for what is neither."""
    message = _message(source)
    return NewMessage(
        chat_id=message.chat_id,
        message_id=message.id,
        text=message.message or "",
        sender_id=message.sender_id,
        is_outgoing=bool(message.out),
        sent_at=message.date,
        conversation_id=conversation_id,
        reply_to_id=getattr(message, "reply_to_msg_id", None),
        media=_media(message),
    )


def _columns(rows: list[NewMessage]) -> Iterator[list[Any]]:
    columns: tuple[list[Any], ...] = (
        [row.chat_id for row in rows],
        [row.message_id for row in rows],
        [row.conversation_id for row in rows],
        [row.sender_id for row in rows],
        [row.is_outgoing for row in rows],
        [as_text(row.text) for row in rows],
        [row.media_json() for row in rows],
        [row.reply_to_id for row in rows],
        [row.sent().timestamp() for row in rows],
    )
    for column in columns:
        # unnest fills a short list up with NULL, which costs less than sending it.
        yield [] if column.count(None) == len(column) else column


def _message(source: Any) -> Any:
    # A message's own `message` is its text.
    inner = getattr(source, "message", None)
    message = source if inner is None or isinstance(inner, str) else inner
    if not hasattr(message, "message") or getattr(message, "chat_id", None) is None:
        raise UsageError(f"a {type(source).__name__} has no message", hint="give messages.add one")
    return message


def _media(message: Any) -> dict[str, Any] | None:
    media = getattr(message, "media", None)
    if media is None:
        return None
    told = {"kind": type(media).__name__.removeprefix("MessageMedia").lower()}
    file = getattr(message, "file", None)
    facts = {name: getattr(file, name, None) for name in ("mime_type", "size", "name")}
    facts["name"] = facts["name"] and as_text(facts["name"])
    return told | {name: value for name, value in facts.items() if value is not None}
