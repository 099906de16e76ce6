"""One encrypted MTProto session: checks what comes, numbers and packs what goes. Refuses all I/O.

Source: https://core.telegram.org/mtproto/description and /mtproto/service_messages_about_messages.
It knows messages and service messages, not what the requests mean.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from typing import Any

from telethon.tl.tlobject import TLRequest
from telethon.tl.types import BadMsgNotification, BadServerSalt, NewSessionCreated

from dims.errors import ProtocolError
from dims.sandbox.mtproto import crypto, wire

TOO_OLD_S = 300
TOO_NEW_S = 30
"""A msg_id is a time; the server refuses those outside this window (security guidelines)."""
SALT_PERIOD_S = 3600
REMEMBERED_IDS = 512

_HEAD = struct.Struct("<qqqii")
_PREFIX = struct.Struct("<qq")


class Refusal(Enum):
    """Error codes of bad_msg_notification and bad_server_salt that we send."""

    TOO_OLD = 16
    TOO_NEW = 17
    NOT_A_CLIENT_ID = 18
    EVEN_EXPECTED = 34
    ODD_EXPECTED = 35
    BAD_SALT = 48


@dataclass(frozen=True, slots=True)
class Opened:
    """A decrypted packet."""

    salt: int
    session_id: int
    msg_id: int
    seq_no: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SaltShaker:
    """Server salts of all keys: one per key and hour, derived from a secret of the server."""

    secret: bytes

    def salt(self, key_id: bytes, now_s: float) -> int:
        """The salt of the hour around `now_s`, signed."""
        return _salt(self.secret, key_id, int(now_s // SALT_PERIOD_S))

    def is_valid(self, salt: int, key_id: bytes, now_s: float) -> bool:
        """Whether it is the salt of this hour or, for clients in flight, of the last."""
        return salt == self.salt(key_id, now_s) or salt == self.salt(key_id, now_s - SALT_PERIOD_S)


@lru_cache(maxsize=10_000)
def _salt(secret: bytes, key_id: bytes, hour: int) -> int:
    digest = sha256(secret + key_id + hour.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def open_packet(auth_key: bytes, packet: bytes) -> Opened:
    """What a client put into an encrypted packet; raises ProtocolError if it is not sound."""
    plain = crypto.decrypt(auth_key, packet)
    salt, session_id, msg_id, seq_no, length = _HEAD.unpack_from(plain)
    if length < 4 or length % 4 or not 12 <= len(plain) - _HEAD.size - length <= 1024:
        raise ProtocolError(f"a message that claims {length} of {len(plain)} bytes")
    return Opened(salt, session_id, msg_id, seq_no, plain[_HEAD.size : _HEAD.size + length])


class Session:
    """What the server remembers of one session of one auth key.

    Outgoing messages gather until `flush` packs them into one packet.
    """

    def __init__(self, auth_key: bytes, key_id: bytes, session_id: int, salts: SaltShaker) -> None:
        self.session_id = session_id
        self.key_id = key_id
        self._auth_key = auth_key
        self._salts = salts
        self._seen: deque[int] = deque(maxlen=REMEMBERED_IDS)
        self._seen_set: set[int] = set()
        self._content_count = 0
        self._last_msg_id = 0
        self._waiting: list[bytes] = []
        self._is_new = True

    def receive(self, opened: Opened, now_s: float) -> list[wire.PackedMessage]:
        """The sound and new messages in a packet; queues refusals of the others.

        Raises ProtocolError when the packet cannot be read at all.
        """
        refusal = _id_refusal(opened.msg_id, now_s)
        if refusal is not None:
            self._refuse(opened, refusal, now_s)
            return []
        if not self._salts.is_valid(opened.salt, self.key_id, now_s):
            self._refuse(opened, Refusal.BAD_SALT, now_s)
            return []
        if self._is_new:
            self._is_new = False
            salt = self._salts.salt(self.key_id, now_s)
            unique = int.from_bytes(
                sha256(self._auth_key + _PREFIX.pack(salt, self.session_id)).digest()[:8],
                "little",
                signed=True,
            )
            self.queue(bytes(NewSessionCreated(opened.msg_id, unique, salt)), now_s)
        if opened.body[:4] == wire.CONTAINER and opened.seq_no & 1:
            self._refuse(opened, Refusal.EVEN_EXPECTED, now_s)
            return []
        accepted: list[wire.PackedMessage] = []
        for message in wire.unpack(opened.msg_id, opened.seq_no, opened.body):
            problem = _message_refusal(message)
            if problem is not None:
                self._refuse(message, problem, now_s)
            elif self._remember(message.msg_id):
                accepted.append(message)
        return accepted

    def queue(
        self, body: bytes, now_s: float, *, content: bool = True, answers: bool = False
    ) -> None:
        """Adds a message to the next packet; `answers` marks one that a client's message caused."""
        self._waiting.append(self._message(body, now_s, content=content, answers=answers))

    def flush(self, now_s: float) -> bytes | None:
        """One packet with all that waits, or None."""
        waiting = self._waiting
        if not waiting:
            return None
        self._waiting = []
        if len(waiting) == 1:
            packed = waiting[0]
        else:
            body = wire.pack_container(waiting)
            packed = self._message(body, now_s, content=False, answers=True)
        prefix = _PREFIX.pack(self._salts.salt(self.key_id, now_s), self.session_id)
        return crypto.encrypt(self._auth_key, self.key_id, prefix + packed)

    def _message(self, body: bytes, now_s: float, *, content: bool, answers: bool) -> bytes:
        # Two lower bits of a server's msg_id: 1 answers a client's message, 3 does not.
        msg_id = max(int(now_s * 2**32) & ~3, (self._last_msg_id & ~3) + 4) | (1 if answers else 3)
        self._last_msg_id = msg_id
        seq_no = self._content_count * 2 + (1 if content else 0)
        self._content_count += 1 if content else 0
        return wire.pack_message(msg_id, seq_no, body)

    def _remember(self, msg_id: int) -> bool:
        if msg_id in self._seen_set:
            return False
        if len(self._seen) == REMEMBERED_IDS:
            self._seen_set.discard(self._seen[0])
        self._seen.append(msg_id)
        self._seen_set.add(msg_id)
        return True

    def _refuse(self, message: Opened | wire.PackedMessage, refusal: Refusal, now_s: float) -> None:
        notice: Any
        if refusal is Refusal.BAD_SALT:
            salt = self._salts.salt(self.key_id, now_s)
            notice = BadServerSalt(message.msg_id, message.seq_no, refusal.value, salt)
        else:
            notice = BadMsgNotification(message.msg_id, message.seq_no, refusal.value)
        self.queue(bytes(notice), now_s, content=False, answers=True)


def _id_refusal(msg_id: int, now_s: float) -> Refusal | None:
    if msg_id & 3:
        return Refusal.NOT_A_CLIENT_ID
    age_s = now_s - (msg_id >> 32)
    if age_s > TOO_OLD_S:
        return Refusal.TOO_OLD
    return Refusal.TOO_NEW if age_s < -TOO_NEW_S else None


def _message_refusal(message: wire.PackedMessage) -> Refusal | None:
    if message.msg_id & 3:
        return Refusal.NOT_A_CLIENT_ID
    is_content = isinstance(message.body, TLRequest | wire.UnknownObject)
    if is_content and not message.seq_no & 1:
        return Refusal.ODD_EXPECTED
    if not is_content and message.seq_no & 1:
        return Refusal.EVEN_EXPECTED
    return None
