"""Any split of a stream gives the same messages, and no bytes whatever do harm."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from envelopes import envelopes
from hypothesis import given
from hypothesis import strategies as st

from dims.errors import ProtocolError
from dims.ipc.wire.envelope import Envelope
from dims.ipc.wire.frames import HEADER, MAGIC, frame
from dims.ipc.wire.framing import FrameDecoder, decode_payload, encode

LIMIT_BYTES = 4_096


@given(st.lists(envelopes, max_size=5), st.lists(st.integers(1, 40), max_size=60))
def test_any_split_gives_the_same_messages_in_order(sent: list[Envelope], cuts: list[int]) -> None:
    stream = b"".join(map(encode, sent))
    decoder, got, position = FrameDecoder(), [], 0
    for cut in cuts:
        got += decoder.feed(stream[position : position + cut])
        position += cut
    got += decoder.feed(stream[position:])
    assert got == sent
    decoder.finish()


# Bytes that look like frames more often than chance would have it.
frames = st.one_of(
    envelopes.map(encode),
    envelopes.map(encode),
    st.binary(max_size=20).map(frame),
    st.binary(max_size=20),
    st.integers(0, 2**32 - 1).map(lambda size: HEADER.pack(MAGIC, size)),
)
streams = st.tuples(st.lists(envelopes.map(encode), max_size=4), st.lists(frames, max_size=3)).map(
    lambda parts: b"".join(parts[0] + parts[1])
)


def read(stream: bytes) -> tuple[list[Envelope], int | None]:
    """What is in a whole stream, and how many bytes are left of an unfinished frame; None for
    those that make it broken."""
    found: list[Envelope] = []
    while stream:
        if stream[: len(MAGIC)] != MAGIC[: len(stream)]:
            return found, None
        if len(stream) < HEADER.size:
            break
        _, size = HEADER.unpack_from(stream)
        if size > LIMIT_BYTES:
            return found, None
        payload, stream = stream[HEADER.size :][:size], stream[HEADER.size + size :]
        if len(payload) < size:
            return found, HEADER.size + len(payload)
        try:
            found.append(decode_payload(payload))
        except ProtocolError:
            return found, None
    return found, len(stream)


@given(streams, st.lists(st.integers(1, 300), max_size=20))
def test_any_bytes_in_any_pieces_give_what_stands_there_or_break_the_stream_for_good(
    stream: bytes, cuts: list[int]
) -> None:
    decoder, got = FrameDecoder(LIMIT_BYTES), []
    borders = [0, *accumulate(cuts), len(stream)]
    for begin, end in pairwise(borders):
        expected, left = read(stream[:end])
        if left is None:
            with pytest.raises(ProtocolError):
                decoder.feed(stream[begin:end])
            assert decoder.pending_bytes == 0
            with pytest.raises(ProtocolError, match="earlier"):
                decoder.feed(encode(expected[0]) if expected else b"")
            return
        got += decoder.feed(stream[begin:end])
        assert got == expected
        assert decoder.pending_bytes == left


@given(envelopes, envelopes, envelopes, st.data())
def test_one_changed_byte_is_refused_or_changes_only_this_message(
    first: Envelope, sent: Envelope, last: Envelope, data: st.DataObject
) -> None:
    changed = bytearray(encode(sent))
    where = data.draw(st.integers(0, len(changed) - 1))
    changed[where] ^= data.draw(st.integers(1, 255))
    decoder = FrameDecoder(LIMIT_BYTES)
    assert decoder.feed(encode(first)) == [first]
    rest = bytes(changed) + encode(last)
    try:
        got = decoder.feed(rest)
    except ProtocolError:
        assert decoder.pending_bytes == 0
        with pytest.raises(ProtocolError, match="earlier"):
            decoder.feed(encode(last))
        return
    if where < HEADER.size:
        assert got == [], "a length that was changed and believed"
        assert decoder.pending_bytes == len(rest), "the rest of a longer frame is waited for"
    else:
        _, after = got
        assert after == last
