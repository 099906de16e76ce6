"""MTProto packets on a byte stream: full, abridged, intermediate. Refuses all I/O.

Source: https://core.telegram.org/mtproto/mtproto-transports. The client shows by its first bytes
which of them it speaks; the server answers in the same.
"""

from __future__ import annotations

import struct
from typing import Protocol
from zlib import crc32

from dims.errors import ProtocolError

PACKET_LIMIT_BYTES = 2 * 1024 * 1024
"""Telegram closes above 1,044,456 bytes (Telethon's container limit); twice that is garbage."""

_FULL_HEAD = struct.Struct("<ii")
_LENGTH = struct.Struct("<i")


class Codec(Protocol):
    """One transport: splits a buffer into packets and frames packets."""

    name: str

    def take(self, buffer: bytearray) -> bytes | None:
        """The first whole packet, cut off `buffer`, or None; raises ProtocolError."""
        ...

    def frame(self, packet: bytes) -> bytes:
        """`packet` as it goes on the wire; its length must be a multiple of 4."""
        ...


class Full:
    """Length, sequence number, packet, CRC32."""

    name = "full"

    def __init__(self) -> None:
        self._received = 0
        self._sent = 0

    def take(self, buffer: bytearray) -> bytes | None:
        if len(buffer) < 8:
            return None
        length, number = _FULL_HEAD.unpack_from(buffer)
        _check_length(length - 12)
        if len(buffer) < length:
            return None
        packet = bytes(buffer[8 : length - 4])
        if crc32(memoryview(buffer)[: length - 4]) != int.from_bytes(
            buffer[length - 4 : length], "little"
        ):
            raise ProtocolError("a packet with a wrong checksum")
        if number != self._received:
            raise ProtocolError(f"packet number {number}, expected {self._received}")
        self._received += 1
        del buffer[:length]
        return packet

    def frame(self, packet: bytes) -> bytes:
        body = _FULL_HEAD.pack(len(packet) + 12, self._sent) + packet
        self._sent += 1
        return body + crc32(body).to_bytes(4, "little")


class Abridged:
    """The length in words, in one byte or in 0x7f and three."""

    name = "abridged"

    def take(self, buffer: bytearray) -> bytes | None:
        if not buffer:
            return None
        start, words = 1, buffer[0]
        if words > 0x7F:
            raise ProtocolError("quick acknowledgements are not supported")
        if words == 0x7F:
            if len(buffer) < 4:
                return None
            start, words = 4, int.from_bytes(buffer[1:4], "little")
        return _cut(buffer, start, words * 4)

    def frame(self, packet: bytes) -> bytes:
        words = len(packet) // 4
        head = bytes([words]) if words < 0x7F else b"\x7f" + words.to_bytes(3, "little")
        return head + packet


class Intermediate:
    """The length in four bytes."""

    name = "intermediate"

    def take(self, buffer: bytearray) -> bytes | None:
        if len(buffer) < 4:
            return None
        return _cut(buffer, 4, _LENGTH.unpack_from(buffer)[0])

    def frame(self, packet: bytes) -> bytes:
        return _LENGTH.pack(len(packet)) + packet


class Transport:
    """A connection's byte stream; finds out which codec the client speaks.

    After the first ProtocolError the stream has no trustworthy rest and must be closed.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.codec: Codec | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The packets that `data` completes; raises ProtocolError on garbage."""
        self._buffer += data
        if self.codec is None:
            self.codec = _detect(self._buffer)
        packets: list[bytes] = []
        if self.codec is not None:
            while (packet := self.codec.take(self._buffer)) is not None:
                packets.append(packet)
        return packets

    def frame(self, packet: bytes) -> bytes:
        """`packet` framed for this client; raises ProtocolError before the client has spoken."""
        if self.codec is None:
            raise ProtocolError("the client has not shown its transport yet")
        return self.codec.frame(packet)


def _detect(buffer: bytearray) -> Codec | None:
    if buffer[:1] == b"\xef":
        del buffer[:1]
        return Abridged()
    if len(buffer) < 4:
        return None
    if buffer[:4] == b"\xee\xee\xee\xee":
        del buffer[:4]
        return Intermediate()
    return Full()


def _cut(buffer: bytearray, start: int, length: int) -> bytes | None:
    _check_length(length)
    if len(buffer) < start + length:
        return None
    packet = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return packet


def _check_length(length: int) -> None:
    if not 0 < length <= PACKET_LIMIT_BYTES or length % 4:
        raise ProtocolError(f"a packet of {length} bytes")
