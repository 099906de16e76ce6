"""Who answers at an address: asked after connecting failed, to say why. Knows 8 bytes of protocol.

A driver that is answered by something else waits for the rest of a message that never comes.
"""

from __future__ import annotations

import asyncio
import struct
from enum import StrEnum

from dims.addresses import PostgresAddress

WITHIN_S = 1.0
_TLS_REQUEST = struct.pack("!ii", 8, 80877103)
"""SSLRequest (PostgreSQL manual 55.7): answered by one byte, and before any authentication."""
_ANSWERS = (b"S", b"N", b"E")


class Greeting(StrEnum):
    """What came back."""

    POSTGRES = "postgres"
    STRANGER = "stranger"
    """It answers, in another protocol."""
    SILENCE = "silence"


async def greet(address: PostgresAddress) -> Greeting:
    """Asks for TLS and leaves. Raises nothing; takes at most 1 s."""
    try:
        async with asyncio.timeout(WITHIN_S):
            if address.is_local:
                reader, writer = await asyncio.open_unix_connection(address.socket)
            else:
                reader, writer = await asyncio.open_connection(address.host, address.port)
            try:
                writer.write(_TLS_REQUEST)
                answer = await reader.read(2)
            finally:
                writer.close()
    except OSError:  # TimeoutError is one.
        return Greeting.SILENCE
    if not answer:
        return Greeting.SILENCE
    # An error is a whole message; S and N come alone, which tells SSH's greeting from them.
    is_ours = answer in _ANSWERS or answer.startswith(b"E\0")
    return Greeting.POSTGRES if is_ours else Greeting.STRANGER
