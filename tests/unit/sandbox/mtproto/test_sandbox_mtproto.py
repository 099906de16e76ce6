"""The encrypted session against Telethon's own client state; time is an argument."""

from __future__ import annotations

import logging
import struct
from collections import defaultdict
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telethon.crypto import AuthKey
from telethon.network.mtprotostate import MTProtoState
from telethon.tl import functions, types
from telethon.tl.core import GzipPacked, MessageContainer

from dims.errors import ProtocolError
from dims.sandbox.mtproto import crypto, wire
from dims.sandbox.mtproto import session as mtproto
from dims.sandbox.mtproto.session import SaltShaker, Session

KEY = bytes(range(255, -1, -1))
UNKNOWN = b"\1\2\3\4"
BEGINNINGS = [
    UNKNOWN,
    bytes(functions.PingRequest(7)),
    bytes(functions.PingRequest(7))[:4],
    bytes(functions.messages.ReceivedMessagesRequest(7))[:4],
    bytes(types.MsgsAck([1]))[:4],
    bytes(GzipPacked(b""))[:4],
]
"""What the body of a packet may begin with: known and unknown constructors, cut and whole."""
SALTS = SaltShaker(b"secret")


class Client:
    """Telethon's half of a session."""

    def __init__(self) -> None:
        self.state = MTProtoState(AuthKey(KEY), defaultdict(logging.getLogger))
        self.now_s = float(self.state._get_new_msg_id() >> 32) + 0.5
        self.state.salt = SALTS.salt(crypto.key_id_of(KEY), self.now_s)

    def packet(self, *requests: Any, content: bool = True) -> bytes:
        buffer = BytesIO()
        for request in requests:
            self.state.write_data_as_message(buffer, bytes(request), content)
        data = buffer.getvalue()
        if len(requests) > 1:
            body = struct.pack("<Ii", MessageContainer.CONSTRUCTOR_ID, len(requests)) + data
            buffer = BytesIO()
            self.state.write_data_as_message(buffer, body, content_related=False)
            data = buffer.getvalue()
        packet: bytes = self.state.encrypt_message_data(data)
        return packet

    def read(self, packet: bytes | None) -> list[Any]:
        assert packet is not None
        found = self.state.decrypt_message_data(packet).obj
        return [inner.obj for inner in getattr(found, "messages", [])] or [found]


def receive(client: Client, session: Session, packet: bytes) -> list[wire.PackedMessage]:
    return session.receive(mtproto.open_packet(KEY, packet), client.now_s)


def session_of(client: Client) -> Session:
    return Session(KEY, crypto.key_id_of(KEY), client.state.id, SALTS)


@given(pings=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
def test_what_telethon_packs_arrives_whole_and_in_order(pings: list[int]) -> None:
    client = Client()
    session = session_of(client)
    packet = client.packet(*(functions.PingRequest(ping) for ping in pings))
    found = receive(client, session, packet)
    assert [message.body.ping_id for message in found] == pings
    assert isinstance(client.read(session.flush(client.now_s))[0], types.NewSessionCreated)


def test_many_answers_travel_in_one_packet_that_telethon_reads() -> None:
    client = Client()
    session = session_of(client)
    for number in range(5):
        session.queue(bytes(types.Pong(number, number)), client.now_s, answers=True)
    assert [pong.ping_id for pong in client.read(session.flush(client.now_s))] == [0, 1, 2, 3, 4]
    assert session.flush(client.now_s) is None


def test_a_wrong_salt_is_corrected_and_nothing_is_executed() -> None:
    client = Client()
    session = session_of(client)
    client.state.salt = 0
    assert receive(client, session, client.packet(functions.PingRequest(1))) == []
    (notice,) = client.read(session.flush(client.now_s))
    assert isinstance(notice, types.BadServerSalt)
    client.state.salt = notice.new_server_salt
    assert len(receive(client, session, client.packet(functions.PingRequest(1)))) == 1


def test_the_salt_of_the_hour_before_is_still_good() -> None:
    client = Client()
    session = session_of(client)
    client.state.salt = SALTS.salt(session.key_id, client.now_s - mtproto.SALT_PERIOD_S)
    assert len(receive(client, session, client.packet(functions.PingRequest(1)))) == 1


@pytest.mark.parametrize(("shift_s", "code"), [(400, 16), (-60, 17)])
def test_a_message_from_another_time_is_refused(shift_s: int, code: int) -> None:
    client = Client()
    session = session_of(client)
    packet = client.packet(functions.PingRequest(1))
    client.now_s += shift_s
    assert receive(client, session, packet) == []
    (notice,) = wire.unpack(0, 0, _plain_body(session, client))
    assert notice.body.error_code == code


def test_a_replayed_packet_is_executed_once() -> None:
    client = Client()
    session = session_of(client)
    packet = client.packet(functions.PingRequest(1))
    assert len(receive(client, session, packet)) == 1
    assert receive(client, session, packet) == []


def test_a_request_must_have_an_odd_number_and_an_acknowledgement_an_even_one() -> None:
    client = Client()
    session = session_of(client)
    assert receive(client, session, client.packet(functions.PingRequest(1), content=False)) == []
    assert receive(client, session, client.packet(types.MsgsAck([1]))) == []
    notices = client.read(session.flush(client.now_s))[1:]
    assert [notice.error_code for notice in notices] == [35, 34]


def test_an_unknown_request_spares_its_neighbours() -> None:
    class Unknown:
        def __bytes__(self) -> bytes:
            return UNKNOWN + bytes(8)

    client = Client()
    session = session_of(client)
    packet = client.packet(Unknown(), functions.PingRequest(7))
    unknown, ping = receive(client, session, packet)
    assert unknown.body == wire.UnknownObject(0x04030201)
    assert ping.body.ping_id == 7


def test_a_compressed_request_is_the_request() -> None:
    request = functions.PingRequest(9)
    packed = wire.parse(bytes(GzipPacked(bytes(request))))
    assert packed == request


@given(noise=st.binary(min_size=0, max_size=400))
def test_noise_under_a_known_key_is_a_protocol_error(noise: bytes) -> None:
    with pytest.raises(ProtocolError):
        mtproto.open_packet(KEY, crypto.key_id_of(KEY) + noise)


@given(begin=st.sampled_from(BEGINNINGS), noise=st.binary(max_size=200))
def test_noise_inside_a_packet_is_an_object_or_a_protocol_error(begin: bytes, noise: bytes) -> None:
    body = begin + noise + bytes(-len(begin + noise) % 4)
    try:
        [found] = wire.unpack(4, 1, body)
    except ProtocolError:
        assert begin != UNKNOWN
        return
    assert (found.msg_id, found.seq_no) == (4, 1)
    if begin == UNKNOWN:
        assert found.body == wire.UnknownObject(int.from_bytes(UNKNOWN, "little"))
    else:
        assert int.from_bytes(begin[:4], "little") == found.body.CONSTRUCTOR_ID


def test_server_message_ids_grow_even_if_the_clock_stands_or_goes_back() -> None:
    client = Client()
    session = session_of(client)
    ids = []
    for now_s in (100.0, 100.0, 99.0, 101.0):
        session.queue(bytes(types.Pong(1, 1)), now_s)
        ids.append(session._last_msg_id)
    assert ids == sorted(set(ids))
    assert all(msg_id % 4 == 3 for msg_id in ids)


def _plain_body(session: Session, client: Client) -> bytes:
    packet = session.flush(client.now_s)
    assert packet is not None
    msg_key = packet[8:24]
    key, iv = crypto._aes(KEY, msg_key, 8)
    import cryptg  # noqa: PLC0415

    plain: bytes = cryptg.decrypt_ige(packet[24:], key, iv)
    length = int.from_bytes(plain[28:32], "little")
    return plain[32 : 32 + length]
