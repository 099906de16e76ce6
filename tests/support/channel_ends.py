"""Two channels over a real socket, and what each end heard."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from dims.ipc.links.channel import Channel, dial, listen
from dims.ipc.wire.envelope import Address, Envelope

LIMIT_S = 10.0


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.setblocking(False)
    return sock


class End:
    """One end of a channel, and what it heard."""

    def __init__(self) -> None:
        self.heard: list[Envelope] = []
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.made: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self.on_message: Callable[[Envelope], None] = self.heard.append

    def channel(self) -> Channel:
        return Channel(
            lambda _channel, message: self.on_message(message),
            lambda _channel, reason: self.lost.set_result(reason),
            name=Address("end"),
            on_made=self.made.set_result,
        )


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[tuple[Channel, End, Channel, End]]:
    near, far = End(), End()
    path = directory / "s"
    server = await listen(listening(path), far.channel)
    channel = await dial(str(path), near.channel)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield channel, near, await far.made, far
    finally:
        channel.abort()
        far.made.result().abort()
        server.close()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(near.lost, far.lost)
