"""What happened, for counting: written once, never changed."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from dims.storage.bot.repositories.repository import (
    Repository,
    as_json,
    aware,
    bounded,
    columns,
    one_of,
)


class Level(StrEnum):
    """How much an event matters; operators see errors."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Operators read `data["error"]` of errors."""

    event_id: UUID
    occurred_at: datetime
    kind: str
    level: str
    user_id: int | None
    chat_id: int | None
    data: dict[str, Any] = field(repr=False)
    correlation_id: str | None
    """What was being worked on, as in the log and in messages."""


_ROW = columns(Event)
_ADD = (
    "INSERT INTO dims.analytics_events (bot_id, kind, level, user_id, chat_id, data, "
    "correlation_id) VALUES ($1, $2, $3, $4, $5, $6, nullif($7, ''))"
)
_RECENT = (
    f"SELECT {_ROW} FROM dims.analytics_events WHERE bot_id = $1 ORDER BY occurred_at DESC LIMIT $2"
)
_RECENT_OF = (
    f"SELECT {_ROW} FROM dims.analytics_events WHERE bot_id = $1 AND kind = $3 "
    "ORDER BY occurred_at DESC LIMIT $2"
)
_COUNT = "SELECT count(*) FROM dims.analytics_events WHERE bot_id = $1 AND kind = $2"
_COUNT_SINCE = f"{_COUNT} AND occurred_at >= $3"


class Events(Repository[Event]):
    """`bot.db.events`."""

    __slots__ = ()
    row = Event

    async def add(
        self,
        kind: str,
        data: dict[str, Any] | None = None,
        *,
        level: Level | str = Level.INFO,
        user_id: int | None = None,
        chat_id: int | None = None,
    ) -> None:
        """Writes one down, with what is being worked on."""
        text = as_json(data or {}, "data")
        args = (
            kind,
            one_of(Level, level, "level").value,
            user_id,
            chat_id,
            text,
            self._on.correlation_id(),
        )
        await self._on.write("execute", _ADD, self._bot_id, *args)

    async def recent(self, kind: str | None = None, limit: int = 50) -> list[Event]:
        """The last ones, of one kind or of all, the last one first; at most 1,000."""
        if kind is None:
            return await self._all(_RECENT, bounded(limit))
        return await self._all(_RECENT_OF, bounded(limit), kind)

    async def count(self, kind: str, since: datetime | None = None) -> int:
        """How many of a kind there were, ever or since a moment (with a time zone)."""
        if since is None:
            return await self._number(_COUNT, kind)
        return await self._number(_COUNT_SINCE, kind, aware(since, "since"))
