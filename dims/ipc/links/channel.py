"""A lasting link between two processes over a Unix socket: messages both ways, urgent ones first.

Knows frames, the order of sending, and which reply belongs to which request; refuses to know what
messages mean. An ephemeral message is given to the socket at once. Only what is said while the
socket is full, or more than once in one turn of the event loop, waits, by priority, and then goes
in batches: nothing ever waits for more to come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from dims.errors import DimsError, FullError, NotRunningError, ProtocolError, TimedOutError
from dims.ipc.queue import PriorityQueue
from dims.ipc.wire.answers import error_body, error_from
from dims.ipc.wire.envelope import CANCEL, ERROR, REPLY, Address, Envelope, MessageId, Priority
from dims.ipc.wire.framing import FRAME_LIMIT_BYTES, FrameDecoder, encode
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM
from dims.system.peer import Peer, peer_of

_log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
"""Messages that may wait for a full socket; one more is refused (backpressure)."""
BATCH_BYTES = 65_536
"""What is given to the socket at once when messages wait."""
LISTENING: Mapping[str, Any] = {
    "backlog": 4096,
    **({"cleanup_socket": False} if sys.version_info >= (3, 13) else {}),
}
"""How asyncio is to listen. Who made a socket removes its path: the brain's are the keeper's, which
hands them to the brain after it. From Python 3.13 on, asyncio would remove them at the close."""


class Channel(asyncio.Protocol):
    """One end. `on_message(channel, envelope)` is called for each message, in order of arrival,
    except for replies to this end's own requests; `on_lost(channel, reason)` once, when the link
    is gone (`reason` is empty at a normal end)."""

    def __init__(
        self,
        on_message: Callable[[Channel, Envelope], None],
        on_lost: Callable[[Channel, str], None],
        *,
        name: Address,
        on_made: Callable[[Channel], None] | None = None,
        limit_bytes: int = FRAME_LIMIT_BYTES,
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_made = on_made
        self._name = name
        self._decoder = FrameDecoder(limit_bytes)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._full = False
        self._said_this_turn = False
        self._queue: PriorityQueue[bytes] = PriorityQueue()
        self._asked: dict[MessageId, _Asked] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        """When the timer rings, in loop time."""
        self._in_burst = False
        """Whether the last chunk held more than one message."""
        self._why = ""
        self.peer: Peer | None = None
        """Who is at the other end; None before the connection is made."""

    @property
    def is_open(self) -> bool:
        """Whether the link is made and not ended."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def descriptor(self) -> int:
        """The socket's, or -1 when the link is gone."""
        if self._transport is None:
            return -1
        return int(self._transport.get_extra_info("socket").fileno())

    @property
    def waiting(self) -> int:
        """Messages that wait for the socket."""
        return len(self._queue)

    def say(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        to: Address = Address("brain"),  # noqa: B008 (a NewType is the text itself)
        priority: Priority = Priority.NORMAL,
        reply_to: MessageId | None = None,
    ) -> MessageId:
        """Sends one message and returns its id; silently nothing once the link is gone.

        Raises FullError when too many messages wait, ProtocolError when it cannot be encoded.
        """
        return self.post(Envelope(new_id(), kind, self._name, to, priority, reply_to, body))

    def post(self, envelope: Envelope) -> MessageId:
        """Sends a message that is made already; otherwise as `say`."""
        frame = encode(envelope)
        if self._transport is None or self._transport.is_closing():
            return envelope.id
        if not self._full and not self._said_this_turn:
            self._said_this_turn = True
            self._loop.call_soon(self._end_of_turn)
            self._transport.write(frame)
        elif len(self._queue) >= QUEUE_LIMIT:
            raise FullError(f"{QUEUE_LIMIT} messages wait for {envelope.recipient}")
        else:
            self._queue.push(envelope.priority, frame)
        return envelope.id

    def request(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        to: Address = Address("brain"),  # noqa: B008
        priority: Priority = Priority.NORMAL,
        timeout_s: float,
    ) -> Coroutine[Any, Any, Envelope]:
        """The reply to one message; see `ask`."""
        expires_s = SYSTEM.utc() + timeout_s
        envelope = Envelope(
            new_id(),
            kind,
            self._name,
            to,
            priority,
            None,
            body,
            wants_reply=True,
            expires_s=expires_s,
        )
        return self.ask(envelope, timeout_s)

    async def ask(self, envelope: Envelope, timeout_s: float) -> Envelope:
        """Sends a request and waits for its reply.

        Raises TimedOutError after `timeout_s`, NotRunningError when the link is gone, and whatever
        DimsError the other side answers. When the caller gives up, the other side is told so.
        """
        if not self.is_open:
            raise NotRunningError(f"no link to {envelope.recipient}")
        asked = _Asked(envelope, timeout_s, self._loop)
        self._asked[envelope.id] = asked
        if self._timer is None or asked.due_s < self._due_s:
            self._ring_at(asked.due_s)
        try:
            if len(self._asked) == 1:
                self._post_at_once(envelope)
            else:
                self.post(envelope)
            reply = await asked.answer
        except asyncio.CancelledError:
            self._cancel(envelope)
            raise
        finally:
            del self._asked[envelope.id]
        if reply.kind == ERROR:
            raise error_from(reply.body)
        return reply

    def answer(self, request: Envelope, body: Mapping[str, Any] | DimsError) -> None:
        """Answers a request with a body, or with an error."""
        if isinstance(body, DimsError):
            kind, body = ERROR, error_body(body)
        else:
            kind = REPLY
        to, priority = request.sender, request.priority
        reply = Envelope(new_id(), kind, self._name, to, priority, request.id, body)
        if self._in_burst:
            self.post(reply)
        else:
            self._post_at_once(reply)

    def close(self) -> None:
        """Ends the link after all that was said before; closing twice is fine."""
        if self._transport is not None:
            while self._queue and not self._transport.is_closing():
                self._transport.write(self._queue.pop())
            self._transport.close()

    def abort(self) -> None:
        """Ends the link at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (narrows the type)
        self._transport = transport
        self.peer = peer_of(transport.get_extra_info("socket"))
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            envelopes = self._decoder.feed(data)
        except ProtocolError as error:
            self._why = str(error)
            self.abort()
            return
        self._in_burst = len(envelopes) > 1
        for envelope in envelopes:
            if envelope.reply_to is not None and self._is_awaited(envelope):
                continue
            try:
                self._on_message(self, envelope)
            except Exception:
                # asyncio would end the link and drop the rest of what came: one message that
                # cannot be handled must cost only itself.
                _log.exception("no answer to %r of %s", envelope.kind, envelope.sender)

    def pause_writing(self) -> None:
        """Called by the event loop: the socket is full."""
        self._full = True

    def resume_writing(self) -> None:
        """Called by the event loop: the socket takes more; waiting messages go, urgent first."""
        self._full = False
        self._send_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        if not self._why and exc is not None:
            self._why = str(exc)
        if not self._why and self._decoder.pending_bytes:
            self._why = "the stream ended inside a frame"
        if self._timer is not None:
            self._timer.cancel()
        for asked in self._asked.values():
            if not asked.answer.done():
                why = f": {self._why}" if self._why else ""
                lost = NotRunningError(f"the link ended before the answer{why}")
                asked.answer.set_exception(lost)
        self._on_lost(self, self._why)

    # Sending

    def _post_at_once(self, envelope: Envelope) -> None:
        """As `post`, without a look at what else this turn may bring: for a lone question or
        answer, whose other end waits."""
        if self._full or self._queue or self._said_this_turn:
            self.post(envelope)
        elif self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(envelope))

    def _end_of_turn(self) -> None:
        self._said_this_turn = False
        if self._queue:
            self._send_waiting()

    def _send_waiting(self) -> None:
        transport = self._transport
        while (
            self._queue and not self._full and transport is not None and not transport.is_closing()
        ):
            batch = [self._queue.pop()]
            size_bytes = len(batch[0])
            while self._queue and size_bytes < BATCH_BYTES:
                batch.append(self._queue.pop())
                size_bytes += len(batch[-1])
            transport.write(b"".join(batch))

    # Requests

    def _is_awaited(self, reply: Envelope) -> bool:
        asked = self._asked.get(reply.reply_to) if reply.reply_to is not None else None
        if asked is None or reply.kind not in (REPLY, ERROR):
            return False
        if not asked.answer.done():
            asked.answer.set_result(reply)
        return True

    def _ring_at(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._rang)

    def _rang(self) -> None:
        """Gives up what is due. One timer for all requests: arming one for each would cost as much
        as all of our own work in a request, and nearly none ever rings."""
        self._timer = None
        now_s = self._loop.time()
        for asked in tuple(self._asked.values()):
            if asked.due_s <= now_s and not asked.answer.done():
                request = asked.request
                what = f"no answer to {request.kind!r} from {request.recipient}"
                late = TimedOutError(f"{what} within {asked.timeout_s:.3g} s")
                asked.answer.set_exception(late)
                self._cancel(request)
        waiting = [asked.due_s for asked in self._asked.values() if not asked.answer.done()]
        if waiting:
            self._ring_at(min(waiting))

    def _cancel(self, request: Envelope) -> None:
        # Where too much waits to be said this is not: the deadline that they know does the same.
        with contextlib.suppress(FullError):
            self.say(
                CANCEL, {}, to=request.recipient, priority=Priority.URGENT, reply_to=request.id
            )


class _Asked:
    """A request under way."""

    __slots__ = ("answer", "due_s", "request", "timeout_s")

    def __init__(
        self, request: Envelope, timeout_s: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.request = request
        self.timeout_s = timeout_s
        self.due_s = loop.time() + timeout_s
        self.answer: asyncio.Future[Envelope] = loop.create_future()


async def dial(path: str, make: Callable[[], Channel]) -> Channel:
    """A channel to whoever listens at `path`; raises OSError when nobody does."""
    _, channel = await asyncio.get_running_loop().create_unix_connection(make, path)
    return channel


async def listen(sock: socket.socket, make: Callable[[], Channel]) -> asyncio.Server:
    """Accepts channels on a listening Unix socket until the returned server is closed."""
    return await asyncio.get_running_loop().create_unix_server(make, sock=sock, **LISTENING)
