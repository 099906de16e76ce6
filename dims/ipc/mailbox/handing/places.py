"""Places for handlers: who is ready waits here, by priority, until one is free.

Knows tasks and turns; refuses to know messages. Urgent work finds some places of its own when all
others are taken. Work inherits nothing of whoever made it ready: neither what that has in hand nor
the transaction it is in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from dims.ipc.links.eager import start_now
from dims.ipc.mailbox.handing.meter import Meter
from dims.ipc.queue import PriorityQueue
from dims.ipc.wire.envelope import Priority

URGENT_SLOTS = 4

Work = Coroutine[Any, Any, None]
Start = Callable[[], Work | None]
"""What is ready: its work, or None when there is nothing to do after all."""

_log = logging.getLogger(__name__)


class Places:
    """At most `slots` pieces of work at a time, and `URGENT_SLOTS` urgent ones more."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._ready: PriorityQueue[Start] = PriorityQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_closing = False
        """Whether nothing new is begun."""
        self.meters = {priority: Meter(self._loop.time()) for priority in Priority}
        """What was done, by priority."""

    @property
    def busy(self) -> int:
        """Pieces of work under way."""
        return len(self._tasks)

    @property
    def others_wait(self) -> bool:
        """Whether something else is ready."""
        return bool(self._ready)

    def push(self, priority: Priority, start: Start) -> None:
        """Something is ready; `pump` begins what there is a place for."""
        self._ready.push(priority, start)

    def pump(self) -> None:
        """Begins what is ready, as far as there are places."""
        while self._ready and not self.is_closing:
            if len(self._tasks) < self._slots:
                start = self._ready.pop()
            elif self._ready.has_urgent and len(self._tasks) < self._slots + URGENT_SLOTS:
                start = self._ready.pop_urgent()
            else:
                return
            work = start()
            if work is not None:
                self._watch(self._loop.create_task(work, context=Context()))

    def begin_at_once(self, priority: Priority, start: Start) -> None:
        """Begins this in the same turn of the loop if nothing waits and a place is free."""
        if self._ready or len(self._tasks) >= self._slots or self.is_closing:
            self._ready.push(priority, start)
            self.pump()
            return
        work = start()
        if work is not None:
            self._watch(start_now(self._loop, work))

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        """Calls `what` after a while, unless the pool is closed by then."""

        def ring() -> None:
            self._timers.discard(timer)
            what()

        timer = self._loop.call_later(delay_s, ring)
        self._timers.add(timer)

    def done(self, priority: Priority) -> None:
        """Counts a message that is done with."""
        self.meters[priority].add(self._loop.time())

    async def drain(self) -> None:
        """Begins nothing more; returns when nothing is under way."""
        self.is_closing = True
        for timer in self._timers:
            timer.cancel()
        await self._idle.wait()

    async def close(self) -> None:
        """Cancels what is under way, and returns when it has ended."""
        self.is_closing = True
        for timer in self._timers:
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _watch(self, task: asyncio.Task[None]) -> None:
        if task.done():
            _report(task)
            return
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        _report(task)
        self.pump()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("a delivery failed", exc_info=task.exception())
