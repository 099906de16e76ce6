"""Who is at the other end of a Unix socket, as the kernel says it."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("3i")
"""`struct ucred` of unix(7): pid, uid, gid."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Credentials of a process at the moment it connected; they cannot be forged."""

    pid: int
    uid: int
    gid: int

    def is_trusted(self) -> bool:
        """Whether the peer may steer us: the same user, or root."""
        return self.uid in (os.geteuid(), 0)


def peer_of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix stream socket; raises OSError on any other socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))
