"""Request/reply and one-way messages between two processes: Channel, bare sockets, peers.

Every function is one turn of one contender and returns its figures. The bare ones are asyncio
protocols on the same kind of socket and loop, and do nothing else.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import redis
import zmq
from ipc_pairs import BODY, Figures, Queue, Ready, latencies, pair, rate

from dims.ipc.links.channel import Channel, dial
from dims.ipc.mailbox.handing.deliveries import Deliveries
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Address, Envelope
from dims.system.clock import SYSTEM

CLIENT, SERVER = Address("shop"), Address("store")
WARM_UP = 200
"""Requests before the first that counts."""
ENOUGH_WAITING = 5_000
"""A sender of one-way messages waits while more than this wait for the socket."""
RETRY = RetryPolicy(attempts=5, first_s=0.2, max_s=30.0)
SLOTS = 16
_LENGTH = struct.Struct(">I")


class Clerk:
    """An office whose handler does nothing; see `Office` in dims.ipc.mailbox.deliveries."""

    def knows(self, kind: str) -> bool:
        """All kinds."""
        return bool(kind)

    def permits(self, sender: str, kind: str) -> bool:
        """All senders."""
        return bool(sender and kind)

    def may_send(self, recipient: str, kind: str) -> None:
        """Everything."""

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """Gives back what came."""
        return delivery.message.body

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        """Nowhere."""


def _encode() -> bytes:
    return json.dumps(BODY).encode()


async def serve_until(
    ready: Ready, path: Path, make: Callable[[], asyncio.Protocol], over: Awaitable[Any]
) -> Any:
    """Listens at `path` until `over` is done; its result."""
    server = await asyncio.get_running_loop().create_unix_server(make, str(path))
    ready()
    try:
        return await over
    finally:
        server.close()
        path.unlink()  # noqa: ASYNC240 (everything is measured by now)


async def have_room(channel: Channel) -> None:
    """Returns when not too much waits for the socket; at once if so."""
    while channel.waiting > ENOUGH_WAITING:  # noqa: ASYNC110 (a channel has no event for it)
        await asyncio.sleep(0)


def _end(over: asyncio.Future[Any], value: Any = None) -> None:
    if not over.done():
        over.set_result(value)


# Request and reply


async def _timed(ask: Callable[[], Awaitable[Any]], count: int) -> Figures:
    for _ in range(WARM_UP):
        await ask()
    took_s = []
    for _ in range(count):
        began_s = time.perf_counter()
        await ask()
        took_s.append(time.perf_counter() - began_s)
    return latencies(took_s)


def _timed_blocking(ask: Callable[[], Any], count: int) -> Figures:
    for _ in range(WARM_UP):
        ask()
    took_s = []
    for _ in range(count):
        began_s = time.perf_counter()
        ask()
        took_s.append(time.perf_counter() - began_s)
    return latencies(took_s)


def request_dims(work: Path, count: int) -> Figures:
    """`Channel.request`, answered by a task that `Deliveries` starts."""
    path = work / "s"

    async def serve(ready: Ready) -> None:
        over = asyncio.get_running_loop().create_future()
        deliveries = Deliveries(None, Clerk(), RETRY, SLOTS, clock=SYSTEM)

        def came(channel: Channel, envelope: Envelope) -> None:
            deliveries.ask(envelope, partial(channel.answer, envelope))

        def make() -> Channel:
            return Channel(came, lambda *_: _end(over), name=SERVER)

        await serve_until(ready, path, make, over)
        await deliveries.close()

    async def drive() -> Figures:
        made = partial(Channel, lambda *_: None, lambda *_: None, name=CLIENT)
        channel = await dial(str(path), made)
        try:
            return await _timed(
                lambda: channel.request("order", BODY, to=SERVER, timeout_s=30.0), count
            )
        finally:
            channel.close()

    return pair(lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive()))[1]


class Link(asyncio.Protocol):
    """A bare end of a socket: `came(data)` gets what arrives, `over` is done when it ends."""

    def __init__(self, came: Callable[[Link, bytes], None]) -> None:
        loop = asyncio.get_running_loop()
        self._came = came
        self.over: asyncio.Future[None] = loop.create_future()
        self.free = asyncio.Event()
        self.free.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self.transport = transport
        self.write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._came(self, data)

    def pause_writing(self) -> None:
        """Called by the event loop."""
        self.free.clear()

    def resume_writing(self) -> None:
        """Called by the event loop."""
        self.free.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Called by the event loop."""
        _end(self.over)


def request_bare(work: Path, count: int, *, with_json: bool = False) -> Figures:
    """An echo: a future per message, and with JSON if wanted, but no frames and no tasks."""
    path = work / "s"
    loads, dumps = json.loads, json.dumps

    def echo(link: Link, data: bytes) -> None:
        link.write(dumps(loads(data)).encode() if with_json else data)

    async def serve(ready: Ready) -> None:
        over = asyncio.get_running_loop().create_future()

        def make() -> Link:
            link = Link(echo)
            link.over.add_done_callback(lambda _: _end(over))
            return link

        await serve_until(ready, path, make, over)

    async def drive() -> Figures:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        _, link = await loop.create_unix_connection(
            lambda: Link(lambda _, data: answer.set_result(data)), str(path)
        )
        payload = _encode()

        async def ask() -> Any:
            nonlocal answer
            answer = loop.create_future()
            link.write(dumps(BODY).encode() if with_json else payload)
            data = await answer
            return loads(data) if with_json else data

        try:
            return await _timed(ask, count)
        finally:
            link.transport.close()

    return pair(lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive()))[1]


def request_streams(work: Path, count: int) -> Figures:
    """An echo by asyncio's streams, as its documentation writes one: a length before each."""
    path = work / "s"

    async def serve(ready: Ready) -> None:
        over = asyncio.get_running_loop().create_future()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = await reader.readexactly(_LENGTH.size)
                    writer.write(head + await reader.readexactly(_LENGTH.unpack(head)[0]))
                    await writer.drain()
            except asyncio.IncompleteReadError:
                writer.close()
                _end(over)

        server = await asyncio.start_unix_server(echo, str(path))
        ready()
        await over
        server.close()
        path.unlink()

    async def drive() -> Figures:
        reader, writer = await asyncio.open_unix_connection(str(path))
        payload = _encode()
        frame = _LENGTH.pack(len(payload)) + payload

        async def ask() -> bytes:
            writer.write(frame)
            await writer.drain()
            head = await reader.readexactly(_LENGTH.size)
            return await reader.readexactly(_LENGTH.unpack(head)[0])

        try:
            return await _timed(ask, count)
        finally:
            writer.close()

    return pair(lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive()))[1]


def request_zmq(work: Path, count: int) -> Figures:
    """REQ/REP with blocking sockets and JSON, as circus talks to its daemon."""
    address = f"ipc://{work}/z"

    def serve(ready: Ready) -> None:
        with zmq.Context() as context, context.socket(zmq.REP) as socket:
            socket.bind(address)
            ready()
            for _ in range(count + WARM_UP):
                socket.send(json.dumps(json.loads(socket.recv())).encode())

    def drive() -> Figures:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.connect(address)

            def ask() -> Any:
                socket.send(_encode())
                return json.loads(socket.recv())

            return _timed_blocking(ask, count)

    return pair(serve, drive)[1]


def request_queues(count: int) -> Figures:
    """A pair of `multiprocessing.Queue`."""
    there, back = Queue(), Queue()

    def serve(ready: Ready) -> None:
        ready()
        for _ in range(count + WARM_UP):
            back.put(there.get())

    def drive() -> Figures:
        def ask() -> Any:
            there.put(BODY)
            return back.get()

        return _timed_blocking(ask, count)

    return pair(serve, drive)[1]


def request_redis(socket: Path, count: int) -> Figures:
    """A list for requests and one for replies: LPUSH and BRPOP."""

    def serve(ready: Ready) -> None:
        client = redis.Redis(unix_socket_path=str(socket))
        client.delete("there", "back")
        ready()
        for _ in range(count + WARM_UP):
            _, payload = client.brpop("there")
            client.lpush("back", json.dumps(json.loads(payload)))

    def drive() -> Figures:
        client = redis.Redis(unix_socket_path=str(socket))

        def ask() -> Any:
            client.lpush("there", _encode())
            return json.loads(client.brpop("back")[1])

        return _timed_blocking(ask, count)

    return pair(serve, drive)[1]


# One way


def oneway_dims(work: Path, count: int) -> Figures:
    """`Channel.say`, counted where it arrives."""
    path = work / "s"

    async def serve(ready: Ready) -> float:
        over = asyncio.get_running_loop().create_future()
        left = count

        def came(_channel: Channel, _envelope: Envelope) -> None:
            nonlocal left
            left -= 1
            if not left:
                _end(over, time.monotonic())

        def make() -> Channel:
            return Channel(came, lambda *_: None, name=SERVER)

        return await serve_until(ready, path, make, over)

    async def drive() -> float:
        over = asyncio.get_running_loop().create_future()
        made = partial(Channel, lambda *_: None, lambda *_: _end(over), name=CLIENT)
        channel = await dial(str(path), made)
        began_s = time.monotonic()
        for _ in range(count):
            channel.say("order", BODY, to=SERVER)
            await have_room(channel)
        await over
        return began_s

    ended_s, began_s = pair(lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive()))
    return rate(count, began_s, ended_s)


def oneway_bare(work: Path, count: int, *, with_json: bool = False) -> Figures:
    """Frames of a length and a payload that is encoded already, one write for each; with JSON at
    both ends if wanted."""
    path = work / "s"

    async def serve(ready: Ready) -> float:
        over = asyncio.get_running_loop().create_future()
        left, buffer = count, bytearray()

        def came(_link: Link, data: bytes) -> None:
            nonlocal left
            buffer.extend(data)
            start, size = 0, len(buffer)
            while size - start >= _LENGTH.size:
                end = start + _LENGTH.size + _LENGTH.unpack_from(buffer, start)[0]
                if end > size:
                    break
                payload = bytes(buffer[start + _LENGTH.size : end])
                if with_json:
                    json.loads(payload)
                left -= 1
                start = end
            del buffer[:start]
            if not left:
                _end(over, time.monotonic())

        return await serve_until(ready, path, lambda: Link(came), over)

    async def drive() -> float:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: Link(lambda *_: None), str(path))
        payload = _encode()
        began_s = time.monotonic()
        for _ in range(count):
            if with_json:
                payload = _encode()
            link.write(_LENGTH.pack(len(payload)) + payload)
            if not link.free.is_set():
                await link.free.wait()
        await link.over
        return began_s

    ended_s, began_s = pair(lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive()))
    return rate(count, began_s, ended_s)


def _oneway(count: int, serve: Callable[[Ready], None], drive: Callable[[], None]) -> Figures:
    def timed_serve(ready: Ready) -> float:
        serve(ready)
        return time.monotonic()

    def timed_drive() -> float:
        began_s = time.monotonic()
        drive()
        return began_s

    ended_s, began_s = pair(timed_serve, timed_drive)
    return rate(count, began_s, ended_s)


def oneway_zmq(work: Path, count: int) -> Figures:
    """PUSH/PULL with blocking sockets and JSON."""
    address = f"ipc://{work}/z"

    def serve(ready: Ready) -> None:
        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.bind(address)
            ready()
            for _ in range(count):
                json.loads(socket.recv())

    def drive() -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.connect(address)
            for _ in range(count):
                socket.send(_encode())

    return _oneway(count, serve, drive)


def oneway_queue(count: int) -> Figures:
    """One `multiprocessing.Queue`."""
    queue = Queue()

    def serve(ready: Ready) -> None:
        ready()
        for _ in range(count):
            queue.get()

    def drive() -> None:
        for _ in range(count):
            queue.put(BODY)
        queue.close()
        queue.join_thread()

    return _oneway(count, serve, drive)


def oneway_redis(socket: Path, count: int) -> Figures:
    """LPUSH of one message at a time, and BRPOP."""

    def serve(ready: Ready) -> None:
        client = redis.Redis(unix_socket_path=str(socket))
        client.delete("there")
        client.ping()
        ready()
        for _ in range(count):
            json.loads(client.brpop("there")[1])

    def drive() -> None:
        client = redis.Redis(unix_socket_path=str(socket))
        for _ in range(count):
            client.lpush("there", _encode())

    return _oneway(count, serve, drive)
