"""The right to run a bot's session: held exactly as long as the worker lives.

Two guards. The file in the state directory is locked with flock(2) after the worker's own fork and
closed in its children, so it ends with the worker and with nobody else. An abstract socket named
from server and bot guards against a second state directory on this host.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from pathlib import Path

from dims.errors import AlreadyRunningError
from dims.system.locks import FileLock

FORMER_LEAVES_S = 5.0
"""A former worker that was told to leave may take this long to be gone."""
RETRY_S = 0.05


class Lease:
    """Held from `take` until `release` or the end of the process."""

    def __init__(self, path: Path, server: str, bot_account: str) -> None:
        self._file = FileLock(path)
        digest = hashlib.blake2s(f"{server}/{bot_account}".encode(), digest_size=12).hexdigest()
        self._name = f"\0dims-lease-{digest}"
        self._socket: socket.socket | None = None

    async def take(self, bot: str, wait_s: float) -> None:
        """Takes both guards; waits so long for a former holder to be gone.

        Raises AlreadyRunningError, which names the holder.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while True:
            try:
                self._take_now(bot)
            except AlreadyRunningError:
                if loop.time() >= until_s:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                break
        _held.add(self)

    def release(self) -> None:
        """Gives both guards up."""
        _held.discard(self)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._file.release()

    def _take_now(self, bot: str) -> None:
        self._file.take(f"bot {bot!r}")
        guard = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            guard.bind(self._name)
        except OSError as error:
            guard.close()
            self._file.release()
            raise AlreadyRunningError(
                f"bot {bot!r} already runs from another state directory on this host",
                hint="end it there; one account must not run twice",
            ) from error
        self._socket = guard

    def leave_child(self) -> None:
        """Closes our copies in a forked child, without giving anything up."""
        self._file.forget()
        if self._socket is not None:
            self._socket.close()
            self._socket = None


_held: set[Lease] = set()


def _leave_children() -> None:
    """A child that the bot's code forks must not keep the lease after the worker."""
    for lease in _held:
        lease.leave_child()


# Once for the module: what is registered cannot be taken back, and runs at every fork.
os.register_at_fork(after_in_child=_leave_children)
