"""A lasting link between two processes over a Unix socket: messages both ways, urgent ones first.

Knows frames and the order of sending; refuses to know what messages mean. An ephemeral message is
given to the socket at once; only when the socket is full do messages queue, by priority.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from dims.errors import ProtocolError, RefusedError
from dims.ipc.envelope import Address, Envelope, MessageId, Priority
from dims.ipc.framing import FRAME_LIMIT_BYTES, FrameDecoder, encode
from dims.ipc.ids import new_id
from dims.ipc.peer import Peer, peer_of

_log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
"""Messages that may wait for a full socket; one more is refused (backpressure)."""


class Channel(asyncio.Protocol):
    """One end. `on_message(channel, envelope)` is called for each message, in order of arrival;
    `on_lost(channel, reason)` once, when the link is gone (`reason` is empty at a normal end)."""

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
        self._full = False
        self._queue: list[tuple[Priority, int, bytes]] = []
        self._numbers = count()
        self._why = ""
        self.peer: Peer | None = None
        """Who is at the other end; None before the connection is made."""

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

        Raises RefusedError when too many messages wait, ProtocolError when it cannot be encoded.
        """
        envelope = Envelope(new_id(), kind, self._name, to, priority, reply_to, body)
        frame = encode(envelope)
        if self._transport is None or self._transport.is_closing():
            return envelope.id
        if not self._full:
            self._transport.write(frame)
        elif len(self._queue) >= QUEUE_LIMIT:
            raise RefusedError(f"{QUEUE_LIMIT} messages wait for {to}", hint="try again later")
        else:
            heapq.heappush(self._queue, (priority, next(self._numbers), frame))
        return envelope.id

    def close(self) -> None:
        """Ends the link after what was already given to the socket; closing twice is fine."""
        if self._transport is not None:
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
        for envelope in envelopes:
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
        while self._queue and not self._full and self._transport is not None:
            self._transport.write(heapq.heappop(self._queue)[2])

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._transport = None
        if not self._why and exc is not None:
            self._why = str(exc)
        if not self._why and self._decoder.pending_bytes:
            self._why = "the stream ended inside a frame"
        self._on_lost(self, self._why)


async def dial(path: str, make: Callable[[], Channel]) -> Channel:
    """A channel to whoever listens at `path`; raises OSError when nobody does."""
    _, channel = await asyncio.get_running_loop().create_unix_connection(make, path)
    return channel


async def listen(sock: socket.socket, make: Callable[[], Channel]) -> asyncio.Server:
    """Accepts channels on a listening Unix socket until the returned server is closed."""
    return await asyncio.get_running_loop().create_unix_server(make, sock=sock, backlog=4096)
