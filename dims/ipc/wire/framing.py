"""Envelopes as payloads and frames: the one encoder and the one decoder. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from dims.errors import ProtocolError
from dims.ipc.wire.envelope import Envelope
from dims.ipc.wire.frames import FRAME_LIMIT_BYTES, HEADER, MAGIC, FrameSplitter, frame

__all__ = [
    "FRAME_LIMIT_BYTES",
    "HEADER",
    "MAGIC",
    "FrameDecoder",
    "decode_payload",
    "encode",
    "encode_payload",
]

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder(Envelope).decode


def encode(envelope: Envelope, limit_bytes: int = FRAME_LIMIT_BYTES) -> bytes:
    """One frame that holds `envelope`.

    Raises ProtocolError when the payload is larger than `limit_bytes` or no JSON.
    """
    return frame(encode_payload(envelope, limit_bytes))


def encode_payload(envelope: Envelope, limit_bytes: int = FRAME_LIMIT_BYTES) -> bytes:
    """The envelope as JSON in UTF-8, as frames and segments hold it.

    Raises ProtocolError when it is larger than `limit_bytes` or no JSON.
    """
    try:
        payload = _to_json(envelope)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"message {envelope.kind!r} is not JSON: {error}") from error
    if len(payload) > limit_bytes:
        raise ProtocolError(
            f"message {envelope.kind!r} has {len(payload)} bytes, the limit is {limit_bytes}"
        )
    # msgspec writes NaN and infinity as null, which would arrive as something else than was sent.
    if b"null" in payload and _has_no_number(envelope.body):
        raise ProtocolError(f"message {envelope.kind!r} is not JSON: it holds NaN or infinity")
    return payload


def decode_payload(payload: bytes) -> Envelope:
    """The envelope in a payload; raises ProtocolError when it is none."""
    try:
        return _from_json(payload)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"a message with a wrong field: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a message that is not JSON: {error}") from error


class FrameDecoder:
    """Turns any split of a byte stream into envelopes, in order.

    After the first error it is broken for good. Holds at most one unfinished frame plus the last
    fed chunk.
    """

    __slots__ = ("_splitter",)

    def __init__(self, limit_bytes: int = FRAME_LIMIT_BYTES) -> None:
        self._splitter = FrameSplitter(limit_bytes)

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; 0 between frames."""
        return self._splitter.pending_bytes

    def feed(self, data: bytes) -> list[Envelope]:
        """The envelopes that `data` completes.

        Raises ProtocolError on a wrong magic, a length over the limit, or an undecodable payload.
        """
        payloads = self._splitter.feed(data)
        try:
            return [decode_payload(payload) for payload in payloads]
        except ProtocolError:
            self._splitter.break_off()
            raise

    def finish(self) -> None:
        """Says that the stream ended; raises ProtocolError if it ended inside a frame."""
        self._splitter.finish()


def _has_no_number(value: Any) -> bool:
    """Whether there is a float in the value that JSON has no number for."""
    if isinstance(value, float):
        return value - value != 0
    if isinstance(value, dict):
        return any(map(_has_no_number, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_no_number, value))
    return False
