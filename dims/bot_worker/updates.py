"""Follows each update from Telethon through all of its handlers, and stores what is finished.

Telethon dispatches every update in a task of its own. A Raw handler registered first sees the
update at the start of that task; the end of the task is the end of the last handler.
Messages that come by getDifference carry no pts of their own: they are in hand from the moment the
answer came, all of them between the pts asked from and the pts of the answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from telethon import TelegramClient, events

from dims.bot_worker.session import FileSession
from dims.bot_worker.watermark import Ticket, Watermark


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
        self._missed: dict[int, tuple[Any, Ticket]] = {}
        """Messages of a difference that are not dispatched yet, by identity."""
        session.on_difference = self._caught_up
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
        ticket = self._ticket_for(update)
        # Telethon starts a task per update without bound; this is the bound on running handlers.
        await self._slots.acquire()
        task.add_done_callback(lambda ended: self._done(ended, ticket))

    def _caught_up(self, messages: list[Any], pts: int) -> None:
        """A difference came: `messages` lead from the pts so far to `pts`."""
        if self._mark is not None:
            before = self._mark.highest
            for message in messages:
                self._missed[id(message)] = (message, self._mark.begin(before, pts))

    def _ticket_for(self, update: Any) -> Ticket | None:
        """None for an update that does not count in the account's own pts."""
        missed = self._missed.pop(id(getattr(update, "message", None)), None)
        if missed is not None:
            return missed[1]
        if self._mark is None or not _has_pts(update):
            return None
        return self._mark.begin(update.pts - update.pts_count, update.pts)

    def _done(self, task: asyncio.Task[Any], ticket: Ticket | None) -> None:
        self._slots.release()
        self._busy.discard(task)
        if not self._busy:
            self._idle.set()
        if ticket is not None and self._mark is not None and not task.cancelled():
            self._mark.finish(ticket)
            self._store()

    def _store(self) -> None:
        if self._mark is not None:
            date = int(self._state.date.timestamp())
            self._session.updates.write(self._mark.pts, self._state.qts, date, self._state.seq)


def _has_pts(update: Any) -> bool:
    """Whether the update counts in the account's own pts; each channel has a pts of its own.

    0 is Telethon's mark for "none" (`NO_SEQ`), on what came by getDifference.
    """
    is_of_channel = "Channel" in type(update).__name__
    return bool(getattr(update, "pts", 0)) and hasattr(update, "pts_count") and not is_of_channel
