"""Records in a segment file: the one encoder and the one decoder. Pure.

A segment begins with `HEAD`. A record is `b"DR"`, the payload's length and a CRC-32 (as zlib has
it) of that length and the payload, both unsigned 32-bit big-endian, and the payload. A writer that
is killed leaves a record cut short at the end; anything else that does not check is damage.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

HEAD = b"DIMSEG1\n"
MAGIC = b"DR"
HEADER = struct.Struct(">2sII")
_LENGTH = struct.Struct(">I")
RECORD_LIMIT_BYTES = 1024 * 1024
"""Largest payload of a durable message."""


class Rest(Enum):
    """What stands where no further whole record was found."""

    NOTHING = "nothing"
    """The bytes end with a record."""
    CUT = "cut"
    """A record begins and the bytes end in it: more may come."""
    DAMAGED = "damaged"
    """No record can begin here, or its checksum is wrong."""


@dataclass(frozen=True, slots=True)
class Scan:
    """`payloads` with the position behind each; `position` behind the last; what stands there, and
    for a cut record the bytes that it needs in all, as far as known."""

    payloads: list[tuple[bytes, int]]
    position: int
    rest: Rest
    needs_bytes: int = 0


def pack(payload: bytes) -> bytes:
    """One record."""
    length = len(payload)
    crc = zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length)))
    return HEADER.pack(MAGIC, length, crc) + payload


def scan(data: bytes, position: int = 0, limit: int = 2**31) -> Scan:
    """The whole records in `data` from `position` on, at most `limit` of them."""
    payloads: list[tuple[bytes, int]] = []
    size = len(data)
    while len(payloads) < limit:
        left = size - position
        if not left:
            return Scan(payloads, position, Rest.NOTHING)
        if not MAGIC.startswith(data[position : position + 2]):
            return Scan(payloads, position, Rest.DAMAGED)
        if left < HEADER.size:
            return Scan(payloads, position, Rest.CUT, HEADER.size)
        _, length, crc = HEADER.unpack_from(data, position)
        if length > RECORD_LIMIT_BYTES:
            return Scan(payloads, position, Rest.DAMAGED)
        start = position + HEADER.size
        if left < HEADER.size + length:
            return Scan(payloads, position, Rest.CUT, HEADER.size + length)
        payload = data[start : start + length]
        if zlib.crc32(payload, zlib.crc32(_LENGTH.pack(length))) != crc:
            return Scan(payloads, position, Rest.DAMAGED)
        position = start + length
        payloads.append((payload, position))
    return Scan(payloads, position, Rest.NOTHING)


def resume(data: bytes, position: int) -> int | None:
    """The next position at or after `position` where a whole record checks; None if there is
    none."""
    while (position := data.find(MAGIC, position)) >= 0:
        if scan(data, position, 1).payloads:
            return position
        position += 1
    return None


def count(data: bytes, position: int) -> Iterator[int]:
    """The positions at which records begin, by their lengths alone: fast, and unchecked."""
    size = len(data)
    while size - position >= HEADER.size:
        magic, length, _ = HEADER.unpack_from(data, position)
        if magic != MAGIC or length > size - position - HEADER.size:
            return
        yield position
        position += HEADER.size + length
