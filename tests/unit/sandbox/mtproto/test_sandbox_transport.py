"""The sandbox's packet codecs against Telethon's, for every split of the stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telethon.network.connection.tcpabridged import AbridgedPacketCodec
from telethon.network.connection.tcpfull import FullPacketCodec
from telethon.network.connection.tcpintermediate import IntermediatePacketCodec

from dims.errors import ProtocolError
from dims.sandbox.mtproto.transport import Transport

CODECS = [FullPacketCodec, AbridgedPacketCodec, IntermediatePacketCodec]
SIZES, WORDS = st.integers(0, 70), st.integers(0, 17)
packets = st.lists(
    st.integers(1, 200).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
    min_size=1,
    max_size=5,
)


def stream_of(codec_class: type, sent: list[bytes]) -> bytes:
    codec = codec_class(None)
    return (codec.tag or b"") + b"".join(codec.encode_packet(packet) for packet in sent)


@given(codec_class=st.sampled_from(CODECS), sent=packets, cuts=st.sets(st.integers(0, 4000)))
def test_any_split_of_what_telethon_sends_gives_its_packets(
    codec_class: type, sent: list[bytes], cuts: set[int]
) -> None:
    stream = stream_of(codec_class, sent)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    transport = Transport()
    received = [
        packet for start, end in pairwise(edges) for packet in transport.feed(stream[start:end])
    ]
    assert received == sent


@given(sent=packets)
def test_what_we_frame_in_full_is_read_as_a_client_wrote_it(sent: list[bytes]) -> None:
    ours, reader = Transport(), Transport()
    ours.feed(FullPacketCodec(None).encode_packet(b"hey!"))
    assert reader.feed(b"".join(ours.frame(packet) for packet in sent)) == sent


@given(
    codec_class=st.sampled_from(CODECS),
    sent=packets,
    garbage=st.binary(max_size=64)
    | st.builds(lambda size, rest: size.to_bytes(4, "little") + rest, SIZES, st.binary(max_size=64))
    | st.builds(lambda words, rest: bytes([words]) + rest, WORDS, st.binary(max_size=64)),
)
def test_garbage_after_packets_is_refused_or_holds_what_is_taken_out_of_it(
    codec_class: type, sent: list[bytes], garbage: bytes
) -> None:
    transport = Transport()
    assert transport.feed(stream_of(codec_class, sent)) == sent
    try:
        taken = transport.feed(garbage)
    except ProtocolError:
        return
    assert codec_class is not FullPacketCodec or not taken, "believed without a checksum"
    at = 0
    for packet in taken:
        at = garbage.index(packet, at + 1) + len(packet)


@pytest.mark.parametrize("place", [0, 4, 9, -1])
def test_one_flipped_bit_in_a_full_packet_is_noticed(place: int) -> None:
    stream = bytearray(stream_of(FullPacketCodec, [b"abcdefgh"]))
    stream[place] ^= 1
    with pytest.raises(ProtocolError):
        Transport().feed(bytes(stream))


def test_a_packet_out_of_order_is_refused() -> None:
    codec = FullPacketCodec(None)
    first, second = codec.encode_packet(b"1111"), codec.encode_packet(b"2222")
    with pytest.raises(ProtocolError, match="expected 0"):
        Transport().feed(second + first)


def test_nothing_can_be_framed_before_the_client_has_spoken() -> None:
    with pytest.raises(ProtocolError, match="not shown"):
        Transport().frame(b"1234")
