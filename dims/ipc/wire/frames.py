"""Frames on a byte stream: where one payload ends and the next begins. Pure.

A frame is `b"DM"`, the payload's length as an unsigned 32-bit big-endian number, and the payload:
a JSON object in UTF-8. The magic makes garbage show at once instead of as an absurd length.
What is in a payload is known by `framing` and, for processes that must start at once, by `plain`.
"""

from __future__ import annotations

import struct

from dims.errors import ProtocolError

MAGIC = b"DM"
HEADER = struct.Struct(">2sI")
FRAME_LIMIT_BYTES = 4 * 1024 * 1024
"""Largest payload. A status of 10,000 bots is about 3 MB; nothing else comes near."""

_HEADER_BYTES = HEADER.size
_unpack_header = HEADER.unpack_from


def frame(payload: bytes) -> bytes:
    """One frame that holds a payload, whose length was checked before."""
    return HEADER.pack(MAGIC, len(payload)) + payload


class FrameSplitter:
    """Turns any split of a byte stream into payloads, in order.

    After the first error it is broken for good: a stream that lost its frame borders has no
    trustworthy rest. Holds at most one unfinished frame plus the last fed chunk.
    """

    __slots__ = ("_broken", "_limit_bytes", "_rest")

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()
        self._broken = False

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; 0 between frames."""
        return len(self._rest)

    def break_off(self) -> None:
        """Believes nothing more of this stream."""
        self._broken = True
        self._rest.clear()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes.

        Raises ProtocolError on a wrong magic or a length over the limit.
        """
        rest = self._rest
        if not rest and len(data) >= _HEADER_BYTES:
            magic, length = _unpack_header(data, 0)
            if length == len(data) - _HEADER_BYTES and magic == MAGIC and self._is_sound(length):
                # One frame and nothing else: a question or an answer by itself.
                return [data[_HEADER_BYTES:]]
        if self._broken:
            raise ProtocolError("the stream broke the protocol earlier")
        if rest:
            rest += data
            if len(rest) < self._needed():
                return []
            # Once per frame that came in pieces, and not once per piece.
            data = bytes(rest)
            rest.clear()
        payloads: list[bytes] = []
        position, size = 0, len(data)
        while size - position >= _HEADER_BYTES:
            magic, length = _unpack_header(data, position)
            if magic != MAGIC or length > self._limit_bytes:
                self._refuse(data[position : position + _HEADER_BYTES])
            end = position + _HEADER_BYTES + length
            if end > size:
                break
            payloads.append(data[position + _HEADER_BYTES : end])
            position = end
        if position < size:
            if not MAGIC.startswith(data[position : position + len(MAGIC)]):
                self._refuse(data[position : position + _HEADER_BYTES])
            rest += data[position:]
        return payloads

    def _is_sound(self, length: int) -> bool:
        return not self._broken and length <= self._limit_bytes

    def finish(self) -> None:
        """Says that the stream ended; raises ProtocolError if it ended inside a frame."""
        if self._rest:
            raise ProtocolError(f"the stream ended inside a frame, {len(self._rest)} bytes in")

    def _needed(self) -> int:
        """Bytes that the unfinished frame has in all; what is too long is seen in `feed`."""
        if len(self._rest) < _HEADER_BYTES:
            return 0
        length = int(_unpack_header(self._rest, 0)[1])
        return 0 if length > self._limit_bytes else _HEADER_BYTES + length

    def _refuse(self, head: bytes) -> None:
        self.break_off()
        if not MAGIC.startswith(head[: len(MAGIC)]):
            raise ProtocolError(f"garbage where a frame should start: {head[: len(MAGIC)]!r}")
        length = _unpack_header(head, 0)[1]
        raise ProtocolError(f"a frame of {length} bytes, the limit is {self._limit_bytes}")
