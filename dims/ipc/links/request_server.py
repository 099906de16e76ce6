"""Answers requests on a Unix socket. Knows connections and replies, not what the requests mean.

A connection is served by one task: a client that hangs, floods or sends garbage costs its own
task and nothing else. Garbage is answered once with the reason, then the connection is closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from dims.errors import DimsError, ProtocolError, RefusedError
from dims.ipc.links.channel import LISTENING
from dims.ipc.wire.answers import error_body
from dims.ipc.wire.envelope import Address, Envelope, MessageId
from dims.ipc.wire.framing import FrameDecoder, encode
from dims.ipc.wire.ids import new_id
from dims.system.peer import Peer, peer_of

Answer = Awaitable[Mapping[str, Any]] | AsyncIterator[Mapping[str, Any]]
Handler = Callable[[Peer, Envelope], Answer]

READ_BYTES = 65_536
CONNECTION_LIMIT = 256
"""Open connections; more are told to come back, so that hanging clients leave us descriptors."""
WRITE_TIMEOUT_S = 30.0
"""A client that does not read its answer for this long is dropped."""
FRAME_TIMEOUT_S = 30.0
"""A client that starts a frame and does not end it for this long is dropped."""

_log = logging.getLogger(__name__)


class RequestServer:
    """Serves requests on a listening Unix socket until closed.

    `handle` gets the peer and the request. An awaitable answers once (kind `reply`); an async
    iterator answers many times (kind `item`) and then `end`. A DimsError becomes kind `error`.
    """

    def __init__(self, sock: socket.socket, handle: Handler, *, name: Address) -> None:
        self._sock = sock
        self._handle = handle
        self._name = name
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Accepts from now on."""
        self._server = await asyncio.start_unix_server(
            self._connected, sock=self._sock, **LISTENING
        )

    async def close(self) -> None:
        """Stops accepting, ends all connections, and waits for their tasks."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: one that asyncio.streams makes, and that is cancelled before its first
        # step as the process ends, is reported as a fault.
        connection = _Connection(reader, writer, self._handle, self._name)
        full = len(self._tasks) >= CONNECTION_LIMIT
        task = asyncio.get_running_loop().create_task(connection.run(full=full))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a connection failed", exc_info=task.exception())


class _Connection:
    """One client: reads its requests in order and answers them in order."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handle: Handler,
        name: Address,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._name = name
        self._peer = peer_of(writer.get_extra_info("socket"))

    async def run(self, *, full: bool) -> None:
        try:
            if not self._peer.is_trusted():
                raise RefusedError(
                    f"user {self._peer.uid} may not steer this process",
                    hint="use the user who started it, or root",
                )
            if full:
                raise RefusedError("too many open connections", hint="try again in a moment")
            await self._serve()
        except ProtocolError as error:
            _log.warning("connection of pid %d refused: %s", self._peer.pid, error)
            await self._say_error(None, error)
        except (ConnectionError, TimeoutError) as error:
            _log.info("connection of pid %d ended: %s", self._peer.pid, error or "timeout")
        finally:
            self._writer.close()

    async def _serve(self) -> None:
        decoder = FrameDecoder()
        while True:
            limit_s = FRAME_TIMEOUT_S if decoder.pending_bytes else None
            async with asyncio.timeout(limit_s):
                data = await self._reader.read(READ_BYTES)
            if not data:
                decoder.finish()
                return
            for request in decoder.feed(data):
                await self._answer(request)

    async def _answer(self, request: Envelope) -> None:
        try:
            answer = self._handle(self._peer, request)
            if isinstance(answer, AsyncIterator):
                await self._answer_stream(request, answer)
            else:
                await self._say(request.id, request.sender, "reply", await answer)
        except DimsError as error:
            await self._say_error(request, error)

    async def _answer_stream(
        self, request: Envelope, items: AsyncIterator[Mapping[str, Any]]
    ) -> None:
        # A client that leaves in the middle of a stream sends nothing: only end of file tells,
        # so it is watched while the next item is awaited.
        gone = asyncio.ensure_future(self._reader.read(1))
        try:
            while True:
                step = asyncio.ensure_future(anext(items, None))
                await asyncio.wait((step, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    step.cancel()
                    await asyncio.gather(step, return_exceptions=True)
                    raise ConnectionResetError("the client left the stream")
                item = step.result()
                if item is None:
                    break
                await self._say(request.id, request.sender, "item", item)
        finally:
            if not gone.done():
                gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
        await self._say(request.id, request.sender, "end", {})

    async def _say_error(self, request: Envelope | None, error: DimsError) -> None:
        body = error_body(error)
        sender = Address("unknown") if request is None else request.sender
        try:
            await self._say(None if request is None else request.id, sender, "error", body)
        except (ConnectionError, TimeoutError) as failure:
            _log.info("pid %d left before its answer: %s", self._peer.pid, failure)

    async def _say(
        self, reply_to: MessageId | None, recipient: Address, kind: str, body: Mapping[str, Any]
    ) -> None:
        envelope = Envelope(new_id(), kind, self._name, recipient, reply_to=reply_to, body=body)
        self._writer.write(encode(envelope))
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await self._writer.drain()
