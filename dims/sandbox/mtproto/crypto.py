"""The arithmetic of MTProto 2.0: message keys, AES-IGE, Diffie-Hellman. Stateless functions.

Sources: https://core.telegram.org/mtproto/description and /mtproto/auth_key.
"""

from __future__ import annotations

import os
from hashlib import sha1, sha256

import cryptg

from dims.errors import ProtocolError

DH_GENERATOR = 3
DH_PRIME = int(
    "c71caeb9c6b1c9048e6c522f70f13f73980d40238e3e21c14934d037563d930f48198a0aa7c14058229493d22530f4db"
    "fa336f6e0ac925139543aed44cce7c3720fd51f69458705ac68cd4fe6b6b13abdc9746512969328454f18faf8c595f64"
    "2477fe96bb2a941d5bcd1d4ac8cc49880708fa9b378e3c4f3a9060bee67cf9a4a4a695811051907e162753b56b0f6b41"
    "0dba74d8a84b2a14b3144e0ef1284754fd17ed950d5965b4b9dd46582db1178d169c6bc465b0d6ff9ca3928fef5b9ae4"
    "e418fc15e83ebea0f87fa9ff5eed70050ded2849f47bf959d956850ce929851f0d8115f635b105ee2e4e15d04b2454bf"
    "6f4fadf034b10403119cd8e3b92fcc5b",
    16,
)
"""The prime that Telegram's own servers announce; 3 generates a group of prime order of it."""
DH_SECRET_BITS = 64
"""Our exponent: no strength, for nobody attacks a sandbox, and a thirtieth of the time."""


def message_key(auth_key: bytes, plain: bytes, *, from_client: bool) -> bytes:
    """The 16 bytes of msg_key for a padded plain text."""
    start = 88 if from_client else 96
    return sha256(auth_key[start : start + 32] + plain).digest()[8:24]


def encrypt(auth_key: bytes, key_id: bytes, plain: bytes) -> bytes:
    """A server's packet: key id, msg_key, and `plain` padded by 12 to 27 random bytes."""
    plain += os.urandom(-(len(plain) + 12) % 16 + 12)
    msg_key = message_key(auth_key, plain, from_client=False)
    key, iv = _aes(auth_key, msg_key, 8)
    return key_id + msg_key + cryptg.encrypt_ige(plain, key, iv)


def decrypt(auth_key: bytes, packet: bytes) -> bytes:
    """The padded plain text of a client's packet; raises ProtocolError if it is not sound."""
    if len(packet) < 24 + 32 or (len(packet) - 24) % 16:
        raise ProtocolError(f"an encrypted packet of {len(packet)} bytes")
    msg_key = packet[8:24]
    key, iv = _aes(auth_key, msg_key, 0)
    plain: bytes = cryptg.decrypt_ige(packet[24:], key, iv)
    if message_key(auth_key, plain, from_client=True) != msg_key:
        raise ProtocolError("a packet whose msg_key does not match")
    return plain


def key_id_of(auth_key: bytes) -> bytes:
    """The 8 bytes that name an auth key on the wire."""
    return sha1(auth_key).digest()[12:20]  # noqa: S324 (SHA1 is the protocol's choice)


def nonce_aes(server_nonce: int, new_nonce: int) -> tuple[bytes, bytes]:
    """Key and iv that protect the key exchange; the nonces are signed, as TL reads them."""
    new = new_nonce.to_bytes(32, "little", signed=True)
    server = server_nonce.to_bytes(16, "little", signed=True)
    one, two, three = (sha1(part).digest() for part in (new + server, server + new, new + new))  # noqa: S324
    return one + two[:12], two[12:] + three + new[:4]


def exchange_encrypt(plain: bytes, key: bytes, iv: bytes) -> bytes:
    """SHA1, `plain` and random padding, encrypted (server_DH_inner_data)."""
    data = sha1(plain).digest() + plain  # noqa: S324
    sealed: bytes = cryptg.encrypt_ige(data + os.urandom(-len(data) % 16), key, iv)
    return sealed


def exchange_decrypt(cipher: bytes, key: bytes, iv: bytes) -> bytes:
    """SHA1, the plain text and its padding; raises ProtocolError on a broken length."""
    if not cipher or len(cipher) % 16:
        raise ProtocolError(f"{len(cipher)} bytes are no AES blocks")
    plain: bytes = cryptg.decrypt_ige(cipher, key, iv)
    return plain


def new_nonce_hash(auth_key: bytes, new_nonce: int, number: int) -> int:
    """new_nonce_hash1 (done), 2 (retry) or 3 (fail), signed as TL wants it."""
    new = new_nonce.to_bytes(32, "little", signed=True)
    auxiliary = sha1(auth_key).digest()[:8]  # noqa: S324
    digest = sha1(new + bytes([number]) + auxiliary).digest()  # noqa: S324
    return int.from_bytes(digest[4:20], "little", signed=True)


def is_safe_share(share: int) -> bool:
    """Whether g_a or g_b lies where no trivial secret can put it."""
    margin = 1 << (2048 - 64)
    return margin <= share <= DH_PRIME - margin


def _aes(auth_key: bytes, msg_key: bytes, x: int) -> tuple[bytes, bytes]:
    a = sha256(msg_key + auth_key[x : x + 36]).digest()
    b = sha256(auth_key[x + 40 : x + 76] + msg_key).digest()
    return a[:8] + b[8:24] + a[24:32], b[:8] + a[8:24] + b[24:32]
