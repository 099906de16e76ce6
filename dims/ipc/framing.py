"""Frames on a byte stream: the one encoder and the one decoder. Refuses all I/O.

A frame is `b"DM"`, the payload's length as an unsigned 32-bit big-endian number, and the payload:
a JSON object in UTF-8. The magic makes garbage show at once instead of as an absurd length.
"""

from __future__ import annotations

import json
import struct

from dims.errors import ProtocolError
from dims.ipc.envelope import Envelope

MAGIC = b"DM"
HEADER = struct.Struct(">2sI")
FRAME_LIMIT_BYTES = 4 * 1024 * 1024
"""Largest payload. A status of 10,000 bots is about 3 MB; nothing else comes near."""

_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _refuse_constant(name: str) -> None:
    """NaN and Infinity: Python's reader takes them, but JSON has no such numbers."""
    raise ValueError(f"{name} is no JSON number")


_decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode


def encode(envelope: Envelope, limit_bytes: int = FRAME_LIMIT_BYTES) -> bytes:
    """One frame that holds `envelope`.

    Raises ProtocolError when the payload is larger than `limit_bytes` or no JSON.
    """
    payload = encode_payload(envelope, limit_bytes)
    return HEADER.pack(MAGIC, len(payload)) + payload


def encode_payload(envelope: Envelope, limit_bytes: int = FRAME_LIMIT_BYTES) -> bytes:
    """The envelope as JSON in UTF-8, as frames and segments hold it.

    Raises ProtocolError when it is larger than `limit_bytes` or no JSON.
    """
    try:
        payload = _encode_json(envelope.to_wire()).encode("utf-8")
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError) as error:
        raise ProtocolError(f"message {envelope.kind!r} is not JSON: {error}") from error
    if len(payload) > limit_bytes:
        raise ProtocolError(
            f"message {envelope.kind!r} has {len(payload)} bytes, the limit is {limit_bytes}"
        )
    return payload


def decode_payload(payload: bytes) -> Envelope:
    """The envelope in a payload; raises ProtocolError when it is none."""
    try:
        wire = _decode_json(payload.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message that is not JSON: {error}") from error
    return Envelope.from_wire(wire)


class FrameDecoder:
    """Turns any split of a byte stream into envelopes, in order.

    After the first error it is broken for good: a stream that lost its frame borders has no
    trustworthy rest. Holds at most one unfinished frame plus the last fed chunk.
    """

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._broken = False

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; 0 between frames."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Envelope]:
        """The envelopes that `data` completes.

        Raises ProtocolError on a wrong magic, a length over the limit, or an undecodable payload.
        """
        if self._broken:
            raise ProtocolError("the stream broke the protocol earlier")
        self._buffer += data
        try:
            return self._take()
        except ProtocolError:
            self._broken = True
            self._buffer.clear()
            raise

    def finish(self) -> None:
        """Says that the stream ended; raises ProtocolError if it ended inside a frame."""
        if self._buffer:
            raise ProtocolError(f"the stream ended inside a frame, {len(self._buffer)} bytes in")

    def _take(self) -> list[Envelope]:
        envelopes: list[Envelope] = []
        start = 0
        buffer = self._buffer
        while True:
            known = bytes(buffer[start : start + len(MAGIC)])
            if not MAGIC.startswith(known):
                raise ProtocolError(f"garbage where a frame should start: {known!r}")
            if len(buffer) - start < HEADER.size:
                break
            length = HEADER.unpack_from(buffer, start)[1]
            if length > self._limit_bytes:
                raise ProtocolError(f"a frame of {length} bytes, the limit is {self._limit_bytes}")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            envelopes.append(decode_payload(bytes(buffer[start + HEADER.size : end])))
            start = end
        del buffer[:start]
        return envelopes
