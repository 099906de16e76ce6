"""Follows each update from Telethon through all of its handlers, and stores what is finished.

Telethon dispatches every update in a task of its own. A Raw handler registered first sees the
update at the start of that task; the end of the task is the end of the last handler.
"""

from __future__ import annotations

import asyncio
from typing import Any

from telethon import TelegramClient, events

from dims.bot_worker.session import FileSession
from dims.bot_worker.watermark import Watermark


class UpdateTracker:
    """Counts updates and keeps the stored update state behind the handlers."""

    def __init__(self, client: TelegramClient, session: FileSession, handlers_at_once: int) -> None:
        self._client = client
        self._session = session
        self._mark: Watermark | None = None
        self._state: Any = None
        self._busy: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._slots = asyncio.Semaphore(handlers_at_once)
        self.seen = 0
        """Updates received since the start of the process."""
        client.add_event_handler(self._arrived, events.Raw)

    def start_from(self, state: Any) -> None:
        """`state` (updates.State) is where this process begins: what is stored, or the present."""
        self._state = state
        self._mark = Watermark(state.pts)
        self._store()

    async def drained(self) -> None:
        """Returns when no handler is in hand."""
        await self._idle.wait()

    def close(self) -> None:
        """Stores the last state."""
        self._store()

    async def _arrived(self, update: Any) -> None:
        self.seen += 1
        task = asyncio.current_task()
        if task is None:
            return
        self._busy.add(task)
        self._idle.clear()
        pts = update.pts if _is_common(update) else None
        if pts is not None and self._mark is not None:
            self._mark.begin(pts, getattr(update, "pts_count", 1))
        # Telethon starts a task per update without bound; this is the bound on running handlers.
        await self._slots.acquire()
        task.add_done_callback(lambda ended: self._done(ended, pts))

    def _done(self, task: asyncio.Task[Any], pts: int | None) -> None:
        self._slots.release()
        self._busy.discard(task)
        if not self._busy:
            self._idle.set()
        if pts is not None and self._mark is not None and not task.cancelled():
            self._mark.finish(pts)
            self._store()

    def _store(self) -> None:
        if self._mark is not None:
            date = int(self._state.date.timestamp())
            self._session.updates.write(self._mark.pts, self._state.qts, date, self._state.seq)


def _is_common(update: Any) -> bool:
    """Whether the update counts in the account's own pts; each channel has a pts of its own."""
    return isinstance(getattr(update, "pts", None), int) and "Channel" not in type(update).__name__
