"""The key exchange of one connection, from req_pq to an auth key. Refuses all I/O.

Source: https://core.telegram.org/mtproto/auth_key. A client that errs gets a ProtocolError, after
which the connection must be closed, as Telegram does.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

from telethon.extensions import BinaryReader
from telethon.tl.functions import (
    ReqDHParamsRequest,
    ReqPqMultiRequest,
    ReqPqRequest,
    SetClientDHParamsRequest,
)
from telethon.tl.tlobject import TLObject
from telethon.tl.types import (
    ClientDHInnerData,
    DhGenOk,
    DhGenRetry,
    PQInnerData,
    PQInnerDataDc,
    ResPQ,
    ServerDHInnerData,
    ServerDHParamsOk,
)

from dims.errors import ProtocolError
from dims.sandbox.mtproto import crypto
from dims.sandbox.mtproto.keys import ServerKey

SMALL_FACTORS = (1_009, 1_013, 1_019, 1_021)
LARGE_FACTORS = (2_147_483_579, 2_147_483_587, 2_147_483_629, 2_147_483_647)
"""Primes for p and q. Telegram's are both near 2**31, to make flooding costly. Nobody floods us,
and a small p spares every fresh login some 30 ms of factoring in the client. Alike ones are found
in the same step of Pollard's method once in a thousand times, and then Telethon takes the product
for prime."""

_READ_ERRORS = (BufferError, IndexError, RuntimeError, ValueError, TypeError)


@dataclass(frozen=True, slots=True)
class ExchangeStep:
    """What to answer, and the auth key that this step made: durable before the answer goes out."""

    answer: TLObject
    auth_key: bytes | None = None


class KeyExchange:
    """One exchange at a time; a new req_pq begins again."""

    def __init__(self, server_key: ServerKey) -> None:
        self._server_key = server_key
        self._nonce = 0
        self._server_nonce = 0
        self._factors = (0, 0)
        self._new_nonce: int | None = None
        self._secret = 0
        self._aes = (b"", b"")

    def receive(self, request: Any, now_s: float) -> ExchangeStep:
        """The answer to one unencrypted request; `now_s` is the Unix time told to the client."""
        match request:
            case ReqPqMultiRequest() | ReqPqRequest():
                return self._begin(request.nonce)
            case ReqDHParamsRequest():
                return self._offer(request, int(now_s))
            case SetClientDHParamsRequest():
                return self._finish(request)
        raise ProtocolError(f"{type(request).__name__} does not belong into a key exchange")

    def _begin(self, nonce: int) -> ExchangeStep:
        self._nonce = nonce
        self._server_nonce = secrets.randbits(127)
        self._factors = _draw_factors()
        self._new_nonce = None
        product = self._factors[0] * self._factors[1]
        return ExchangeStep(
            ResPQ(
                nonce=nonce,
                server_nonce=self._server_nonce,
                pq=product.to_bytes(8, "big").lstrip(b"\0"),
                server_public_key_fingerprints=[self._server_key.fingerprint],
            )
        )

    def _offer(self, request: ReqDHParamsRequest, now_s: int) -> ExchangeStep:
        self._check_nonces(request)
        factors = tuple(int.from_bytes(part, "big") for part in (request.p, request.q))
        if (
            factors != self._factors
            or request.public_key_fingerprint != self._server_key.fingerprint
        ):
            raise ProtocolError("wrong factors or an unknown server key")
        inner = self._read_inner(request.encrypted_data)
        self._check_nonces(inner)
        self._new_nonce = inner.new_nonce
        self._aes = crypto.nonce_aes(self._server_nonce, inner.new_nonce)
        self._secret = secrets.randbits(crypto.DH_SECRET_BITS) | 1 << (crypto.DH_SECRET_BITS - 1)
        share = pow(crypto.DH_GENERATOR, self._secret, crypto.DH_PRIME)
        answer = bytes(
            ServerDHInnerData(
                nonce=self._nonce,
                server_nonce=self._server_nonce,
                g=crypto.DH_GENERATOR,
                dh_prime=crypto.DH_PRIME.to_bytes(256, "big"),
                g_a=share.to_bytes(256, "big"),
                server_time=now_s,
            )
        )
        return ExchangeStep(
            ServerDHParamsOk(
                nonce=self._nonce,
                server_nonce=self._server_nonce,
                encrypted_answer=crypto.exchange_encrypt(answer, *self._aes),
            )
        )

    def _finish(self, request: SetClientDHParamsRequest) -> ExchangeStep:
        self._check_nonces(request)
        if self._new_nonce is None:
            raise ProtocolError("set_client_DH_params before req_DH_params")
        plain = crypto.exchange_decrypt(request.encrypted_data, *self._aes)
        inner = _read_hashed(plain, ClientDHInnerData)
        self._check_nonces(inner)
        share = int.from_bytes(inner.g_b, "big")
        if not crypto.is_safe_share(share):
            raise ProtocolError("an unsafe g_b")
        auth_key = pow(share, self._secret, crypto.DH_PRIME).to_bytes(256, "big")
        if auth_key[0] == 0:
            # Telethon strips leading zeros of the key, so the two sides would disagree.
            stripped = auth_key.lstrip(b"\0")
            digest = crypto.new_nonce_hash(stripped, self._new_nonce, 2)
            return ExchangeStep(DhGenRetry(self._nonce, self._server_nonce, digest))
        digest = crypto.new_nonce_hash(auth_key, self._new_nonce, 1)
        self._new_nonce = None
        return ExchangeStep(DhGenOk(self._nonce, self._server_nonce, digest), auth_key)

    def _read_inner(self, cipher: bytes) -> Any:
        try:
            plain = self._server_key.decrypt(cipher)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        # 255 bytes were encrypted; the first of our 256 is always zero.
        return _read_hashed(plain[1:], PQInnerData, PQInnerDataDc)

    def _check_nonces(self, message: Any) -> None:
        if message.nonce != self._nonce or message.server_nonce != self._server_nonce:
            raise ProtocolError("a key exchange with wrong nonces")


def _draw_factors() -> tuple[int, int]:
    return secrets.choice(SMALL_FACTORS), secrets.choice(LARGE_FACTORS)


def _read_hashed(plain: bytes, *kinds: type) -> Any:
    """The object behind a SHA1 and before padding; raises ProtocolError."""
    reader = BinaryReader(plain)
    reader.read(20)
    try:
        inner = reader.tgread_object()
    except _READ_ERRORS as error:
        raise ProtocolError("a key exchange that cannot be read") from error
    if not isinstance(inner, kinds):
        raise ProtocolError(f"{type(inner).__name__} inside a key exchange")
    if sha1(plain[20 : reader.tell_position()]).digest() != plain[:20]:  # noqa: S324
        raise ProtocolError("a key exchange with a wrong hash")
    return inner
