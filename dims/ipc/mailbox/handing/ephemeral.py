"""Messages that came over a socket, in the hands of handlers: kept by nobody, tried once.

One-way messages of a sender and priority are handled one after the other; requests are started in
order and run side by side.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from dims.errors import DimsError
from dims.ipc.mailbox.handing.delivery import Delivery, Desk
from dims.ipc.mailbox.handing.places import Places, Work
from dims.ipc.mailbox.handing.recipient import Office, remote, run_handler
from dims.ipc.wire.envelope import Envelope, MessageId, Priority
from dims.system.clock import Clock

Answer = Callable[[Mapping[str, Any] | DimsError], None]
Done = Callable[[], None]

_log = logging.getLogger(__name__)


class Ephemeral:
    """Hands them to the office's handlers, in the places that the pool has."""

    def __init__(self, pool: Places, office: Office, desk: Desk, clock: Clock) -> None:
        self._pool = pool
        self._office = office
        self._desk = desk
        self._clock = clock
        self._offers: dict[tuple[str, Priority], deque[tuple[Envelope, Done]]] = {}
        """One-way messages that wait; a key that is there is engaged."""
        self._requests: dict[MessageId, asyncio.Task[None] | None] = {}
        """Requests that wait (None) or are answered."""

    def offer(self, message: Envelope, done: Done) -> None:
        """A one-way message; `done` is called when it is handled."""
        key = (message.sender, message.priority)
        waiting = self._offers.get(key)
        if waiting is not None:
            waiting.append((message, done))
            return
        waiting = self._offers[key] = deque([(message, done)])
        self._pool.push(message.priority, lambda: self._work_off(key, waiting))
        self._pool.pump()

    def ask(self, request: Envelope, answer: Answer) -> None:
        """A request; `answer` is called once, unless it is cancelled or expires before."""
        self._requests[request.id] = None
        self._pool.begin_at_once(request.priority, lambda: self._start(request, answer))

    def cancel(self, request: MessageId) -> None:
        """The asker has given up: its handler is cancelled, or never begun."""
        task = self._requests.pop(request, None)
        if task is not None:
            task.cancel()

    async def _work_off(
        self, key: tuple[str, Priority], waiting: deque[tuple[Envelope, Done]]
    ) -> None:
        while waiting and not self._pool.is_closing:
            message, done = waiting.popleft()
            try:
                await self._handle(message)
            finally:
                self._pool.done(message.priority)
                done()
            if not waiting:
                break
            if self._pool.others_wait:
                self._pool.push(key[1], lambda: self._work_off(key, waiting))
                return
            await asyncio.sleep(0)
        del self._offers[key]

    async def _handle(self, message: Envelope) -> None:
        if message.expires_s is not None and message.expires_s <= self._clock.utc():
            return
        try:
            await run_handler(self._office, Delivery(self._desk, message))
        except Exception as error:
            # Nobody waits for it, and nobody keeps it: the log is the place to say so.
            _log.error("%r of %s failed", message.kind, message.sender, exc_info=error)

    def _start(self, request: Envelope, answer: Answer) -> Work | None:
        if request.id not in self._requests:
            return None
        if request.expires_s is not None and request.expires_s <= self._clock.utc():
            del self._requests[request.id]
            return None
        return self._answer(request, answer)

    async def _answer(self, request: Envelope, answer: Answer) -> None:
        self._requests[request.id] = asyncio.current_task()
        try:
            delivery = Delivery(self._desk, request)
            result = await run_handler(self._office, delivery)
            answer((result or {}) if delivery.reply is None else delivery.reply)
        except DimsError as error:
            answer(error)
        except Exception as error:
            _log.error("%r of %s failed", request.kind, request.sender, exc_info=error)
            answer(remote(error))
        finally:
            self._pool.done(request.priority)
            self._requests.pop(request.id, None)
