"""Frames: what is refused, and that a broken stream stays broken."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from dims.errors import ProtocolError
from dims.ipc.wire.envelope import Address, Envelope, MessageId, Priority
from dims.ipc.wire.framing import HEADER, MAGIC, FrameDecoder, encode, encode_payload


def message(**body: object) -> Envelope:
    return Envelope(MessageId("1"), "status", Address("cli"), Address("brain"), body=body)


def framed(payload: bytes) -> bytes:
    return struct.pack(">2sI", b"DM", len(payload)) + payload


def test_a_frame_is_its_magic_its_length_and_a_json_object() -> None:
    frame = encode(message(a="ä"))
    magic, length = HEADER.unpack_from(frame)
    assert magic == MAGIC
    assert length == len(frame) - HEADER.size
    assert '"a":"ä"'.encode() in frame


def test_what_was_encoded_is_decoded() -> None:
    sent = Envelope(
        *(MessageId("7"), "reply", Address("brain"), Address("cli"), Priority.URGENT),
        reply_to=MessageId("1"),
        body={"n": [1, 2.5, None, True, "x"]},
    )
    decoder = FrameDecoder()
    assert decoder.feed(encode(sent)) == [sent]
    assert decoder.pending_bytes == 0
    decoder.finish()


@pytest.mark.parametrize("body", [{"a": float("nan")}, {"a": object()}, {"a": "\ud800"}])
def test_what_is_no_json_is_refused_before_it_is_sent(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="'status' is not JSON"):
        encode(message(**body))


def test_a_message_of_just_the_limit_is_sent() -> None:
    message = Envelope(MessageId("1" * 32), "n", Address("a"), Address("b"))
    size = len(encode_payload(message))
    assert encode_payload(message, size)
    with pytest.raises(ProtocolError, match=f"has {size} bytes, the limit is {size - 1}"):
        encode_payload(message, size - 1)


def test_a_message_over_the_limit_is_refused_on_both_sides() -> None:
    big = message(a="x" * 100)
    with pytest.raises(ProtocolError, match="the limit is 100"):
        encode(big, limit_bytes=100)
    with pytest.raises(ProtocolError, match="the limit is 100"):
        FrameDecoder(100).feed(encode(big)[:6])


@pytest.mark.parametrize("start", [b"X", b"DX", b"\x00", b"GET /"])
def test_garbage_shows_at_its_first_wrong_byte(start: bytes) -> None:
    with pytest.raises(ProtocolError, match="garbage"):
        FrameDecoder().feed(start)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"\xff", b"[1]", b"null", b'"x"', b"[" * 50_000, b"NaN", b'{"v": Infinity}'],
)
def test_a_payload_that_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameDecoder().feed(framed(payload))


def test_a_stream_that_broke_once_is_never_trusted_again() -> None:
    decoder = FrameDecoder()
    with pytest.raises(ProtocolError):
        decoder.feed(b"garbage")
    with pytest.raises(ProtocolError, match="earlier"):
        decoder.feed(encode(message()))


@pytest.mark.parametrize("cut", [1, 3, 6, 7, 30])
def test_an_end_inside_a_frame_is_no_clean_end(cut: int) -> None:
    decoder = FrameDecoder()
    assert decoder.feed(encode(message())[:cut]) == []
    assert decoder.pending_bytes == cut
    with pytest.raises(ProtocolError, match=f"{cut} bytes in"):
        decoder.finish()
