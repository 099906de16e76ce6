"""The server key and the key exchange, without a socket."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest
import rsa
from telethon.crypto import Factorization
from telethon.crypto import rsa as telethon_rsa
from telethon.tl import functions, types

from dims.errors import ProtocolError, StateError
from dims.sandbox.mtproto import crypto, keys
from dims.sandbox.mtproto.key_exchange import KeyExchange

KEY = keys.generate()


def test_what_a_client_encrypts_the_key_decrypts() -> None:
    public = rsa.PublicKey.load_pkcs1(KEY.public_pem().encode())
    assert public.n.bit_length() == 2048
    plain = b"\0" + os.urandom(255)
    cipher = pow(int.from_bytes(plain, "big"), public.e, public.n).to_bytes(256, "big")
    assert KEY.decrypt(cipher) == plain
    with pytest.raises(ValueError, match="larger than the modulus"):
        KEY.decrypt(b"\xff" * 256)


def test_the_fingerprint_is_the_one_telethon_computes() -> None:
    public = rsa.PublicKey.load_pkcs1(KEY.public_pem().encode())
    assert KEY.fingerprint == telethon_rsa._compute_fingerprint(public)
    assert str(KEY.primes[0]) not in repr(KEY)


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    made = keys.load_or_make(tmp_path)
    assert keys.load_or_make(tmp_path) == made
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert (tmp_path / "public.pem").read_text().startswith("-----BEGIN RSA PUBLIC KEY-----")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "public.pem"]


@pytest.mark.parametrize("text", ["", "rubbish", "-----BEGIN X-----\nAAAA\n-----END X-----\n"])
def test_a_broken_key_file_is_reported_and_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "key.pem").write_text(text)
    with pytest.raises(StateError, match="is no key of the sandbox"):
        keys.load_or_make(tmp_path)
    assert (tmp_path / "key.pem").read_text() == text


class Client:
    """A client's half of the key exchange, step by step."""

    def __init__(self) -> None:
        self.exchange = KeyExchange(KEY)
        self.nonce, self.new_nonce = 17, 2**200 + 1
        telethon_rsa.add_key(KEY.public_pem(), old=False)
        self.pq = self.exchange.receive(functions.ReqPqMultiRequest(self.nonce), 0).answer

    def offer(self, pq: int | None = None) -> int:
        """g_a of the server."""
        p, q = self.exchange._factors if pq is None else (1, pq)
        inner = types.PQInnerData(
            self.pq.pq, _big(p), _big(q), self.nonce, self.pq.server_nonce, self.new_nonce
        )
        sealed = telethon_rsa.encrypt(KEY.fingerprint, bytes(inner))
        request = functions.ReqDHParamsRequest(
            self.nonce, self.pq.server_nonce, _big(p), _big(q), KEY.fingerprint, sealed
        )
        answer = self.exchange.receive(request, 0).answer
        self.aes = crypto.nonce_aes(self.pq.server_nonce, self.new_nonce)
        plain = crypto.exchange_decrypt(answer.encrypted_answer, *self.aes)
        from telethon.extensions import BinaryReader  # noqa: PLC0415

        return int.from_bytes(BinaryReader(plain[20:]).tgread_object().g_a, "big")

    def finish(self, secret: int) -> object:
        share = pow(crypto.DH_GENERATOR, secret, crypto.DH_PRIME)
        inner = bytes(types.ClientDHInnerData(self.nonce, self.pq.server_nonce, 0, _big(share)))
        sealed = crypto.exchange_encrypt(inner, *self.aes)
        request = functions.SetClientDHParamsRequest(self.nonce, self.pq.server_nonce, sealed)
        step = self.exchange.receive(request, 0)
        self.auth_key = step.auth_key
        return step.answer


def test_both_sides_end_with_the_same_key() -> None:
    client = Client()
    shared = pow(client.offer(), 2**300 + 5, crypto.DH_PRIME).to_bytes(256, "big")
    answer = client.finish(2**300 + 5)
    if shared[0]:
        assert isinstance(answer, types.DhGenOk)
        assert client.auth_key == shared
        assert crypto.key_id_of(shared) == hashlib.sha1(shared).digest()[-8:]  # noqa: S324


def test_a_client_always_finds_the_factors() -> None:
    exchange = KeyExchange(KEY)
    begin = functions.ReqPqMultiRequest(17)
    for _ in range(10_000):
        pq = int.from_bytes(exchange.receive(begin, 0).answer.pq, "big")
        assert Factorization.factorize(pq) == exchange._factors


def test_a_key_with_a_leading_zero_is_made_again() -> None:
    client = Client()
    offer = client.offer()
    # Powers in a row cost one multiplication each: a leading zero byte comes every 256 or so.
    secret = 2**300
    shared = pow(offer, secret, crypto.DH_PRIME)
    while shared.bit_length() > 2040:
        shared, secret = shared * offer % crypto.DH_PRIME, secret + 1
    assert isinstance(client.finish(secret), types.DhGenRetry)
    assert client.auth_key is None
    retried = client.finish(secret - 1)
    assert isinstance(retried, types.DhGenOk)
    assert client.auth_key is not None


def test_a_client_that_errs_is_refused() -> None:
    with pytest.raises(ProtocolError, match="wrong factors"):
        Client().offer(pq=15)
    client = Client()
    client.offer()
    with pytest.raises(ProtocolError, match="unsafe g_b"):
        client.finish(1)
    with pytest.raises(ProtocolError, match="wrong nonces"):
        KeyExchange(KEY).receive(functions.SetClientDHParamsRequest(1, 2, bytes(16)), 0)
    with pytest.raises(ProtocolError, match="does not belong"):
        KeyExchange(KEY).receive(functions.PingRequest(1), 0)


def _big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
