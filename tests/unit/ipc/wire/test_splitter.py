"""Payloads on a byte stream, however it is cut into pieces."""

from __future__ import annotations

import pytest

from dims.errors import ProtocolError
from dims.ipc.wire.frames import HEADER, FrameSplitter, frame

PAYLOADS = [b"", b"x", b"hello", frame(b"inner"), b"DM"]
STREAM = b"".join(map(frame, PAYLOADS))


@pytest.mark.parametrize("size", [1, 2, 3, HEADER.size, HEADER.size + 1, len(STREAM)])
def test_any_pieces_of_a_stream_give_its_payloads(size: int) -> None:
    splitter = FrameSplitter()
    found = []
    for start in range(0, len(STREAM), size):
        found += splitter.feed(STREAM[start : start + size])
    assert found == PAYLOADS
    assert splitter.pending_bytes == 0


def test_garbage_of_just_the_length_of_a_frame_is_garbage() -> None:
    with pytest.raises(ProtocolError, match="garbage"):
        FrameSplitter().feed(b"XX" + frame(b"hello")[2:])


def test_a_frame_inside_an_unfinished_frame_is_none() -> None:
    inner = frame(b"inner")
    outer = frame(inner)
    splitter = FrameSplitter()
    assert splitter.feed(outer[: HEADER.size]) == []
    assert splitter.feed(inner) == [inner]


@pytest.mark.parametrize("pieces", [1, 2])
def test_the_longest_payload_comes_and_a_longer_one_is_refused(pieces: int) -> None:
    whole, over = frame(b"12345"), frame(b"123456")
    cut = HEADER.size + 1 if pieces == 2 else len(over)
    splitter = FrameSplitter(limit_bytes=5)
    found = [*splitter.feed(whole[:cut]), *splitter.feed(whole[cut:])]
    assert found == [b"12345"]
    with pytest.raises(ProtocolError, match="a frame of 6 bytes, the limit is 5"):
        splitter.feed(over[:cut])
    with pytest.raises(ProtocolError, match="broke the protocol earlier"):
        splitter.feed(whole)


@pytest.mark.parametrize(
    ("data", "refused_at"), [(frame(b"123456"), HEADER.size), (b"DX", 2), (b"XD", 1)]
)
def test_what_is_no_frame_is_refused_at_the_byte_that_shows_it(
    data: bytes, refused_at: int
) -> None:
    splitter = FrameSplitter(limit_bytes=5)
    for number in range(refused_at - 1):
        assert splitter.feed(data[number : number + 1]) == []
    with pytest.raises(ProtocolError):
        splitter.feed(data[refused_at - 1 : refused_at])
