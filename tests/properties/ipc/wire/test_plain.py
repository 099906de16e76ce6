"""Two codecs, one format: what either writes, the other reads alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envelopes import envelopes, names, texts, values
from hypothesis import given
from hypothesis import strategies as st

from dims.errors import ProtocolError
from dims.ipc.wire.envelope import VERSION, Envelope
from dims.ipc.wire.frames import FrameSplitter
from dims.ipc.wire.framing import FrameDecoder, decode_payload, encode
from dims.ipc.wire.plain import VERSION as PLAIN_VERSION
from dims.ipc.wire.plain import PlainDecoder, encode_plain

bodies = st.dictionaries(texts, values, max_size=3)


def test_both_write_the_same_version() -> None:
    assert PLAIN_VERSION == VERSION


@given(st.lists(envelopes, max_size=4))
def test_what_the_fast_one_writes_the_plain_one_reads(sent: list[Envelope]) -> None:
    got = PlainDecoder().feed(b"".join(map(encode, sent)))
    assert [(m.id, m.kind, m.reply_to, m.body) for m in got] == [
        (e.id, e.kind, e.reply_to, e.body) for e in sent
    ]


@given(names, bodies, names, names, st.booleans())
def test_what_the_plain_one_writes_the_fast_one_reads(
    kind: str, body: dict[str, Any], sender: str, to: str, asks: bool
) -> None:
    id_, frame = encode_plain(kind, body, sender=sender, to=to, wants_reply=asks)
    [got] = FrameDecoder().feed(frame)
    assert (got.id, got.kind, got.sender, got.recipient) == (id_, kind, sender, to)
    assert (got.body, got.wants_reply, got.version) == (body, asks, VERSION)


@given(st.binary(max_size=60) | st.recursive(st.none(), st.lists).map(json.dumps).map(str.encode))
def test_no_payload_harms_the_plain_one_and_it_trusts_no_stream_that_broke(payload: bytes) -> None:
    decoder = PlainDecoder()
    frame = b"DM" + len(payload).to_bytes(4, "big") + payload
    with pytest.raises(ProtocolError):
        decoder.feed(frame)
    with pytest.raises(ProtocolError, match="earlier"):
        decoder.feed(b"")


@given(st.floats(allow_nan=True), st.booleans())
def test_a_number_that_json_has_not_is_refused_and_null_is_not(number: float, deep: bool) -> None:
    body = {"n": [number, None]} if deep else {"n": number, "none": None}
    envelope = Envelope.from_wire({"v": 1, "id": "1", "kind": "k", "from": "a", "to": "b"})
    envelope = Envelope(envelope.id, "k", envelope.sender, envelope.recipient, body=body)
    if number - number == 0:
        [payload] = FrameSplitter().feed(encode(envelope))
        assert decode_payload(payload).body == body
    else:
        with pytest.raises(ProtocolError, match="NaN"):
            encode(envelope)
