"""What a server answers on its socket, asked without a driver. Knows bytes, decides nothing.

A driver would cost the service process 15 MB and start-up time for a single question.
"""

from __future__ import annotations

import asyncio
import struct
from enum import StrEnum
from pathlib import Path

PROTOCOL = 3 << 16
"""Version 3.0 of the PostgreSQL protocol, which every server since 7.4 speaks."""
_STARTING = b"57P03"
"""cannot_connect_now: starting, recovering or stopping."""
_LONGEST_ANSWER_BYTES = 30_000


class Health(StrEnum):
    """What a server says of itself."""

    SERVES = "serves"
    """It takes connections, or would if it had not too many of them."""
    STARTING = "starting"
    """It lives but does not serve yet: it recovers or loads."""
    SILENT = "silent"
    """Nobody answers."""


async def probe_postgres(socket: Path, user: str, timeout_s: float) -> Health:
    """Asks to come in and leaves when asked for a password, as pg_isready does."""
    words = b"".join(word.encode() + b"\0" for word in ("user", user, "database", "postgres", ""))
    packet = struct.pack(">II", len(words) + 8, PROTOCOL) + words
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(packet)
                kind = await reader.readexactly(1)
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                body = await reader.readexactly(min(length - 4, _LONGEST_ANSWER_BYTES))
            finally:
                writer.close()
    except (OSError, EOFError, TimeoutError):
        return Health.SILENT
    return read_postgres(kind, body)


def read_postgres(kind: bytes, body: bytes) -> Health:
    """The first message of a PostgreSQL server: `R` asks for a password, `E` is an error."""
    if kind == b"E" and b"C" + _STARTING in body.split(b"\0"):
        return Health.STARTING
    # 53300, too many connections, is a sign of life as well.
    return Health.SERVES if kind in (b"R", b"E") else Health.SILENT


async def probe_valkey(socket: Path, password: str, timeout_s: float) -> Health:
    """Signs in and says PING."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(f"AUTH {password}\r\nPING\r\n".encode())
                lines = [await reader.readline(), await reader.readline()]
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError):
        return Health.SILENT
    return read_valkey(*lines)


def read_valkey(signed_in: bytes, pinged: bytes) -> Health:
    """The answers of a Valkey server to AUTH and PING."""
    if pinged.startswith(b"-LOADING"):
        return Health.STARTING
    # Any other error, such as too many clients or a full disk, is a sign of life.
    return Health.SERVES if pinged or signed_in.startswith(b"-") else Health.SILENT
