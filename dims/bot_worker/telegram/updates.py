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

from dims import correlation
from dims.bot_worker.telegram.file_session import FileSession, has_pts
from dims.bot_worker.telegram.watermark import Ticket, Watermark
from dims.ipc.wire.ids import new_id


class UpdateTracker:
    """Counts updates and keeps the stored update state behind the handlers."""

    def __init__(self, client: TelegramClient, session: FileSession, handlers_at_once: int) -> None:
        self._session = session
        self._mark: Watermark | None = None
        self._state: Any = None
        self._busy: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._slots = asyncio.Semaphore(handlers_at_once)
        self._serving = asyncio.Event()
        self.seen = 0
        """Updates received since the start of the process."""
        self._missed: dict[int, tuple[Any, Ticket]] = {}
        """Messages of a difference that are not dispatched yet, by identity."""
        self._closing = False
        session.on_state = self._logged_in
        session.on_own = self._did_itself
        session.on_difference = self._caught_up
        client.add_event_handler(self._arrived, events.Raw)

    @property
    def has_begun(self) -> bool:
        """Whether it is known from which state this process begins."""
        return self._mark is not None

    @property
    def in_hand(self) -> int:
        """Updates whose handlers have not ended, those that wait for a free slot included."""
        return len(self._busy)

    def start_from(self, state: Any) -> None:
        """`state` (updates.State) is where this process begins: what is stored, or the present."""
        self._state = state
        self._mark = Watermark(state.pts)
        self._store()

    def serve(self) -> None:
        """Handlers run from now on; what came before now, from the login on, has waited."""
        self._serving.set()

    async def drain(self) -> None:
        """Takes no update any more, and returns when no handler is in hand.

        What is refused from now on stays unfinished, so that the next incarnation gets it.
        """
        self._closing = True
        self._serving.set()
        await self._idle.wait()

    def close(self) -> None:
        """Stores the last state; what ends later is not stored."""
        self._store()
        self._mark = None

    async def _arrived(self, update: Any) -> None:
        task = asyncio.current_task()
        if task is None or self._closing:
            raise events.StopPropagation
        self.seen += 1
        ticket, is_missed = self._ticket_for(update)
        if is_missed and update.message.out and ticket is not None:
            # Live, Telethon shows nobody what this session sent; a difference has it again.
            self._finish(ticket)
            raise events.StopPropagation
        self._busy.add(task)
        self._idle.clear()
        # The task is this update's own: all its handlers run in it.
        correlation.begin(new_id())
        # Telethon dispatches from the login on, when the bot's own setup has not run yet.
        await self._serving.wait()
        # Telethon starts a task per update without bound; this is the bound on running handlers.
        await self._slots.acquire()
        task.add_done_callback(lambda ended: self._done(ended, ticket))
        if self._closing:
            # It waited until now and no handler has seen it: its ticket stays in hand.
            ticket = None
            raise events.StopPropagation

    def _logged_in(self, state: Any) -> None:
        if self._mark is None and not self._closing:
            self.start_from(state)

    def _did_itself(self, before: int, after: int) -> None:
        if self._mark is not None:
            self._mark.own(before, after)
            self._store()

    def _caught_up(self, messages: list[Any], pts: int) -> None:
        """A difference came: `messages` lead from the pts so far to `pts`."""
        if self._mark is None:
            return
        before = self._mark.highest
        for message in messages:
            self._missed[id(message)] = (message, self._mark.begin(before, pts))
        self._mark.own(before, pts)

    def _ticket_for(self, update: Any) -> tuple[Ticket | None, bool]:
        """The update's ticket, None if it does not count in the account's own pts; and whether it
        is a message of a difference."""
        missed = self._missed.pop(id(getattr(update, "message", None)), None)
        if missed is not None:
            return missed[1], True
        if self._mark is None or not has_pts(update):
            return None, False
        return self._mark.begin(update.pts - update.pts_count, update.pts), False

    def _done(self, task: asyncio.Task[Any], ticket: Ticket | None) -> None:
        self._slots.release()
        self._busy.discard(task)
        if not self._busy:
            self._idle.set()
        if ticket is not None and not task.cancelled():
            self._finish(ticket)

    def _finish(self, ticket: Ticket) -> None:
        if self._mark is not None:
            self._mark.finish(ticket)
            self._store()

    def _store(self) -> None:
        if self._mark is None:
            return
        offered = self._session.offered
        if offered is not None and not self._busy:
            # qts, seq and date have no tickets: Telethon's own count holds while all is idle.
            self._state = offered
        date = int(self._state.date.timestamp())
        self._session.updates.write(self._mark.pts, self._state.qts, date, self._state.seq)
