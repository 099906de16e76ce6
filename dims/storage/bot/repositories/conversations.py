"""Threads of messages with a state, which outlives the process that began them."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from dims.storage.bot.repositories.repository import Repository, as_json, bounded, columns, said


@dataclass(frozen=True, slots=True)
class Conversation:
    """One thread: open until `ended_at`. `state` is the bot author's own."""

    conversation_id: UUID
    chat_id: int
    user_id: int | None
    persona: str | None
    """The name of one, which may be gone."""
    status: str
    """`open` or `closed`."""
    state: dict[str, Any] = field(repr=False)
    started_at: datetime
    updated_at: datetime
    ended_at: datetime | None


_ROW = columns(Conversation)
_GET = f"SELECT {_ROW} FROM dims.conversations WHERE bot_id = $1 AND conversation_id = $2"
_CURRENT = (
    f"SELECT {_ROW} FROM dims.conversations WHERE bot_id = $1 AND chat_id = $2 "
    "AND status = 'open' ORDER BY updated_at DESC LIMIT 1"
)
_CURRENT_OF = (
    f"SELECT {_ROW} FROM dims.conversations WHERE bot_id = $1 AND chat_id = $2 AND user_id = $3 "
    "AND status = 'open' ORDER BY updated_at DESC LIMIT 1"
)
_RECENT = (
    f"SELECT {_ROW} FROM dims.conversations WHERE bot_id = $1 AND chat_id = $2 "
    "ORDER BY updated_at DESC LIMIT $3"
)
_OPEN = (
    "INSERT INTO dims.conversations (bot_id, chat_id, user_id, persona, state) "
    f"VALUES ($2, $3, $4, $5, $6) RETURNING {_ROW}, {said()}"
)
_MERGE = (
    "UPDATE dims.conversations SET state = state || $4, updated_at = now() "
    f"WHERE bot_id = $2 AND conversation_id = $3 AND status = 'open' RETURNING {_ROW}, {said()}"
)
_REPLACE = _MERGE.replace("state || $4", "$4")
_CLOSE = (
    "UPDATE dims.conversations SET status = 'closed', ended_at = now(), updated_at = now() "
    f"WHERE bot_id = $2 AND conversation_id = $3 AND status = 'open' RETURNING {said()}"
)
_DELETE = (
    f"DELETE FROM dims.conversations WHERE bot_id = $2 AND conversation_id = $3 RETURNING {said()}"
)


class Conversations(Repository[Conversation]):
    """`bot.db.conversations`."""

    __slots__ = ()
    row = Conversation

    async def get(self, conversation_id: UUID) -> Conversation | None:
        """The conversation, None when there is none of this id."""
        return await self._one(_GET, conversation_id)

    async def current(self, chat_id: int, user_id: int | None = None) -> Conversation | None:
        """The open one that was changed last in a chat, or of one user there; None without."""
        if user_id is None:
            return await self._one(_CURRENT, chat_id)
        return await self._one(_CURRENT_OF, chat_id, user_id)

    async def recent(self, chat_id: int, limit: int = 50) -> list[Conversation]:
        """Those of a chat, open or closed, the one changed last first; at most 1,000."""
        return await self._all(_RECENT, chat_id, bounded(limit))

    async def open(
        self,
        chat_id: int,
        *,
        user_id: int | None = None,
        persona: str | None = None,
        state: dict[str, Any] | None = None,
    ) -> Conversation:
        """A new one, beside those that are open."""
        text = as_json(state or {}, "state")
        opened = await self._changed(_OPEN, chat_id, user_id, persona, text)
        assert opened is not None  # noqa: S101 (an insert returns its row)
        return opened

    async def update_state(
        self, conversation_id: UUID, state: dict[str, Any], *, replace: bool = False
    ) -> Conversation | None:
        """Takes the keys of `state` into the state, or puts it in its place, and returns what came
        of it; None when it is closed or was never there."""
        statement = _REPLACE if replace else _MERGE
        return await self._changed(statement, conversation_id, as_json(state, "state"))

    async def close(self, conversation_id: UUID) -> bool:
        """Ends it; False when it is closed or was never there."""
        return await self._done(_CLOSE, conversation_id) > 0

    async def delete(self, conversation_id: UUID) -> bool:
        """Removes it; False when it was never there. Its messages stay."""
        return await self._done(_DELETE, conversation_id) > 0
