"""The TCP port that clients come to: open, or held but closed, so that connections are refused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from dims.errors import ServiceError

HOST = "127.0.0.1"
"""Never another: what listens here has no secrets worth keeping and no limits worth trusting."""
BACKLOG = 4096


def bind(port: int) -> socket.socket:
    """A listening socket on a port (0: a free one); raises ServiceError."""
    listener = _hold(port)
    try:
        # SO_REUSEADDR lets several hold a port, but only one listen: so in use shows here.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _refused(port, error) from error
    return listener


class Door:
    """Listens on a port; while shut, the port stays ours and the kernel refuses connections."""

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._socket = listener
        self._port: int = listener.getsockname()[1]
        self._protocol = protocol
        self._server: asyncio.Server | None = None
        self._wants_open = True
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Accepts from now on."""
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol, sock=self._socket, backlog=BACKLOG
        )

    async def close(self) -> None:
        """Gives the port up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        self._socket.close()

    def want(self, *, is_open: bool) -> None:
        """Opens or shuts soon; the last wish counts."""
        self._wants_open = is_open
        if self._task is None:
            self._task = asyncio.create_task(self._change())

    async def _change(self) -> None:
        while self._wants_open != (self._server is not None):
            if self._server is None:
                await self.open()
            else:
                self._server.close()
                self._server = None
                self._socket = _hold(self._port)
        self._task = None


def _hold(port: int) -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((HOST, port))
    except OSError as error:
        holder.close()
        raise _refused(port, error) from error
    return holder


def _refused(port: int, error: OSError) -> ServiceError:
    return ServiceError(
        f"port {port} of {HOST} cannot be used: {error.strerror}",
        hint="choose another port, or leave it out to get a free one",
    )
