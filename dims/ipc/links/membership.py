"""A process's lasting bond with the brain: hello, welcome, heartbeats, orders, requests, reconnect.

Used by workers and services alike. Knows how to stay connected; refuses to know what is done
with an order or why a heartbeat says what it says. The process goes on while no brain is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dims.errors import DimsError, NotRunningError, RefusedError
from dims.ipc.links.channel import Channel, dial
from dims.ipc.wire.envelope import CANCEL, ERROR, Address, Envelope, Priority
from dims.ipc.wire.sentences import Sentence, Vocabulary, written
from dims.ipc.words.fleet import WELCOME, Beat, Hello, MayServe, Will

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0
"""Waits between two tries to reach a brain: doubled from the first to the last."""

LEAVE_WITHIN_S = 5.0
"""How long the last words may take to reach a busy brain."""

OnRequest = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

_log = logging.getLogger(__name__)


class Membership:
    """One process's place in the fleet.

    `on_order` gets whatever the brain says, as a sentence of `orders`; for what is not among them,
    and for a DimsError that `on_order` raises, the brain is told so. What the brain asks (messages
    that want a reply) goes to `on_request(kind, body)`, whose result or DimsError is the answer;
    without it every request is answered as unknown.
    """

    def __init__(
        self,
        path: str,
        unit: str,
        incarnation: int,
        *,
        on_order: Callable[[Any], None],
        orders: Vocabulary,
        on_request: OnRequest | None = None,
    ) -> None:
        self._path = path
        self._hello = Hello(unit, incarnation)
        self._orders = orders
        self._name = Address(f"unit/{unit}")
        self._on_order = on_order
        self._on_request = on_request or self._know_nothing
        self._answering: set[asyncio.Task[None]] = set()
        self._channel: Channel | None = None
        self._welcome: asyncio.Future[Mapping[str, Any]] | None = None
        self._ready: MayServe | None = None
        self._rejoining: asyncio.Task[None] | None = None
        self._closed = False
        self.on_rejoined: Callable[[], None] | None = None
        """Called after each hello to another brain but the first."""
        self._parted = asyncio.Event()
        self.alone_since_s: float | None = None
        """Loop time since when no brain is there; None while one is."""

    async def join(self) -> Mapping[str, Any]:
        """Connects, says hello, and returns the body of the welcome. Tries until it succeeds."""
        self._welcome = asyncio.get_running_loop().create_future()
        await self._connect()
        return await self._welcome

    def ready(self, about: object | None = None) -> None:
        """Says that this process may serve, and `about` itself; said again to every new brain."""
        self._ready = MayServe() if about is None else MayServe(written(about))
        self._say(self._ready, Priority.HIGH)

    def say(self, sentence: Sentence) -> None:
        """Says something that needs no answer; nothing while no brain is there."""
        self._say(sentence, Priority.HIGH)

    def heartbeat(self, beat: Beat) -> None:
        """Says that this process lives, with its readings."""
        with contextlib.suppress(RefusedError):
            # The brain does not read: it will not miss one of the many that wait already.
            self._say(beat, Priority.NORMAL)

    def last_will(self, will: Will) -> None:
        """Says why this process is about to leave."""
        self._say(will, Priority.URGENT)

    async def request(self, sentence: Sentence, timeout_s: float) -> Mapping[str, Any]:
        """What the brain answers. Raises NotRunningError when no brain is there, TimedOutError,
        or whatever DimsError it answers."""
        if self._channel is None:
            raise NotRunningError("the supervisor is away", hint="it comes back by itself")
        body, priority = written(sentence), Priority.HIGH
        reply = await self._channel.request(
            sentence.kind, body, priority=priority, timeout_s=timeout_s
        )
        return reply.body

    async def leave(self) -> None:
        """Ends the bond; what was said before is given to the kernel first."""
        self._closed = True
        for task in self._answering:
            task.cancel()
        if self._rejoining is not None:
            self._rejoining.cancel()
            await asyncio.gather(self._rejoining, return_exceptions=True)
        if self._channel is not None:
            self._channel.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_WITHIN_S):
                    await self._parted.wait()

    def _say(self, sentence: Sentence, priority: Priority) -> None:
        if self._channel is not None:
            self._channel.say(sentence.kind, written(sentence), priority=priority)

    async def _connect(self) -> None:
        delay_s = FIRST_RETRY_S
        while True:
            try:
                self._channel = await dial(self._path, self._make)
                break
            except OSError:
                await asyncio.sleep(delay_s)
                delay_s = min(LAST_RETRY_S, delay_s * 2)
        self.alone_since_s = None
        self._parted.clear()
        self._say(self._hello, Priority.URGENT)
        if self._ready is not None:
            self._say(self._ready, Priority.HIGH)
        if self.on_rejoined is not None and self._welcome is not None and self._welcome.done():
            self.on_rejoined()

    def _make(self) -> Channel:
        return Channel(self._heard, self._lost, name=self._name)

    def _heard(self, channel: Channel, message: Envelope) -> None:
        if message.kind == WELCOME:
            if self._welcome is not None and not self._welcome.done():
                self._welcome.set_result(message.body)
        elif message.wants_reply:
            answering = asyncio.get_running_loop().create_task(self._answer(channel, message))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)
        elif message.kind == ERROR:
            _log.warning("the brain did not take what we said: %s", message.body.get("message"))
        elif message.kind != CANCEL:
            # What the brain gives up asking is answered all the same: nobody reads it.
            self._heed(channel, message)

    def _heed(self, channel: Channel, order: Envelope) -> None:
        try:
            self._on_order(self._orders.read(order.kind, order.body, self._name))
        except DimsError as error:
            channel.answer(order, error)

    async def _know_nothing(self, kind: str, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RefusedError(f"{self._name} does not know {kind!r}")

    async def _answer(self, channel: Channel, request: Envelope) -> None:
        try:
            channel.answer(request, await self._on_request(request.kind, request.body))
        except DimsError as error:
            channel.answer(request, error)
        except Exception as error:
            # A worker runs foreign code; whatever it raises, the asker must not wait for ever.
            _log.exception("no answer to %r", request.kind)
            channel.answer(request, RefusedError(f"{type(error).__name__}: {error}"))

    def _lost(self, channel: Channel, reason: str) -> None:
        self._parted.set()
        if channel is not self._channel or self._closed:
            return
        self._channel = None
        loop = asyncio.get_running_loop()
        self.alone_since_s = loop.time()
        _log.warning("the brain is gone%s", f": {reason}" if reason else "")
        self._rejoining = loop.create_task(self._connect(), name="rejoin the brain")
