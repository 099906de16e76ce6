"""Any split of a stream gives the same messages, and no bytes whatever do harm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dims.errors import ProtocolError
from dims.ipc.wire.envelope import Address, Envelope, MessageId, Priority
from dims.ipc.wire.framing import HEADER, FrameDecoder, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
envelopes = st.builds(
    Envelope,
    names.map(MessageId),
    names,
    names.map(Address),
    names.map(Address),
    st.sampled_from(Priority),
    st.none() | names.map(MessageId),
    st.dictionaries(texts, values, max_size=3),
)
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


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_do_harm_and_little_is_held_of_them(chunks: list[bytes]) -> None:
    decoder = FrameDecoder(LIMIT_BYTES)
    broken = False
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except ProtocolError:
            broken = True
            assert decoder.pending_bytes == 0
        else:
            assert not broken, "it came to trust a broken stream again"
        assert decoder.pending_bytes <= HEADER.size + LIMIT_BYTES + max(map(len, chunks))


@given(envelopes, st.data())
def test_one_changed_byte_is_refused_or_changes_only_this_message(
    sent: Envelope, data: st.DataObject
) -> None:
    frame = bytearray(encode(sent))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    decoder = FrameDecoder(LIMIT_BYTES)
    try:
        got = decoder.feed(bytes(frame))
    except ProtocolError:
        return
    assert len(got) <= 1
