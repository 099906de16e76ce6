"""Doorbells: a datagram that wakes the reader of a mailbox. It carries a file's name, no message.

A bell that is lost costs nothing but time: readers look by themselves every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

MOST_NAMES = 8
"""Linux keeps 10 datagrams at least (net.unix.max_dgram_qlen); of this many, some may be lost."""
_NAME_BYTES = 256
_NOBODY = (errno.ECONNREFUSED, errno.ENOENT, errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOTDIR)
_log = logging.getLogger(__name__)


class Doorbell:
    """The reader's end. `on_ring(names)` gets the files that have something new, or None when
    there may be more than it was told of."""

    def __init__(self, path: Path, on_ring: Callable[[set[str] | None], None]) -> None:
        self._path = path
        self._on_ring = on_ring
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Can be rung from now on; a bell that a killed reader left is replaced."""
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bell.setblocking(False)
        self._path.unlink(missing_ok=True)
        bell.bind(str(self._path))
        asyncio.get_running_loop().add_reader(bell, self._rung)
        self._socket = bell

    def close(self) -> None:
        """Cannot be rung any more; closing twice is fine."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)

    def _rung(self) -> None:
        names: set[str] = set()
        rings = 0
        while self._socket is not None:
            try:
                raw = self._socket.recv(_NAME_BYTES)
            except BlockingIOError:
                break
            rings += 1
            with contextlib.suppress(UnicodeDecodeError):
                names.add(raw.decode("ascii"))
        self._on_ring(names if rings < MOST_NAMES else None)


class Ringer:
    """The writers' end: one socket for all bells."""

    def __init__(self, bell_of: Callable[[str], Path]) -> None:
        self._bell_of = bell_of
        self._socket: socket.socket | None = None

    def ring(self, recipient: str, name: str) -> None:
        """Wakes the recipient, if it runs; never waits and never fails."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        try:
            self._socket.sendto(name.encode("ascii"), os.fspath(self._bell_of(recipient)))
        except OSError as error:
            # Nobody there, or rung already: the mail is in its file, and will be found.
            if error.errno not in _NOBODY:
                _log.warning("cannot ring for %s: %s", recipient, error)

    def close(self) -> None:
        """Gives up the socket; closing twice is fine."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
