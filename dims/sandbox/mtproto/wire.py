"""TL objects to bytes and back, with what Telethon leaves to its users: vectors, bools, containers.

Telethon's generated classes do the rest, in both directions; its reader knows requests too.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from telethon.errors import TypeNotFoundError
from telethon.extensions import BinaryReader
from telethon.tl.core import GzipPacked, MessageContainer
from telethon.tl.tlobject import TLObject
from telethon.tl.types import RpcError

from dims.errors import ProtocolError

VECTOR = b"\x15\xc4\xb5\x1c"
TRUE = b"\xb5\x75\x72\x99"
FALSE = b"\x37\x97\x79\xbc"
RPC_RESULT = b"\x01\x6d\x5c\xf3"
CONTAINER = b"\xdc\xf8\xf1\x73"
GZIP_FROM_BYTES = 4096
"""From here on results are sent compressed, as Telegram does; below, it does not pay."""

_MESSAGE_HEAD = struct.Struct("<qii")
_CONTAINER_ID = struct.pack("<I", MessageContainer.CONSTRUCTOR_ID)
_GZIP_ID = struct.pack("<I", GzipPacked.CONSTRUCTOR_ID)
_UNPARSABLE = (BufferError, IndexError, RuntimeError, ValueError, struct.error, TypeError, OSError)
"""What Telethon's reader raises on a body that is cut short or makes no sense."""

Result: TypeAlias = "TLObject | bool | list[TLObject]"
"""What an RPC handler may answer."""


@dataclass(frozen=True, slots=True)
class UnknownObject:
    """A body whose constructor Telethon's layer does not know."""

    constructor: int


@dataclass(frozen=True, slots=True)
class PackedMessage:
    """One message inside an encrypted packet: `body` is a TL object or an UnknownObject."""

    msg_id: int
    seq_no: int
    body: Any


def parse(data: bytes) -> Any:
    """The TL object in `data`, unzipped; UnknownObject if its type is not of this layer.

    Raises ProtocolError when the bytes end too early or make no sense.
    """
    try:
        reader = BinaryReader(data)
        found = reader.tgread_object()
        while isinstance(found, GzipPacked):
            found = BinaryReader(found.data).tgread_object()
    except TypeNotFoundError as error:
        return UnknownObject(error.invalid_constructor_id)
    except _UNPARSABLE as error:
        raise ProtocolError(f"a TL object that cannot be read: {error}") from error
    return found


def unpack(msg_id: int, seq_no: int, body: bytes) -> list[PackedMessage]:
    """The messages in a packet: those of a container, or the one there is; raises ProtocolError.

    A container is split here and not by Telethon, so that one unknown type spares its neighbours.
    """
    if body[:4] == _GZIP_ID:
        try:
            inner = BinaryReader(body).tgread_object().data
        except _UNPARSABLE as error:
            raise ProtocolError(f"gzip data that cannot be read: {error}") from error
        if inner[:4] == _CONTAINER_ID:
            raise ProtocolError("a container must not be compressed")
    if body[:4] != _CONTAINER_ID:
        return [PackedMessage(msg_id, seq_no, parse(body))]
    messages: list[PackedMessage] = []
    position = 8
    for _ in range(int.from_bytes(body[4:8], "little")):
        if position + 16 > len(body):
            raise ProtocolError("a container that ends too early")
        inner_id, inner_seq, length = _MESSAGE_HEAD.unpack_from(body, position)
        position += 16
        if not 0 < length <= len(body) - position or body[position : position + 4] == _CONTAINER_ID:
            raise ProtocolError("a container with a bad message in it")
        messages.append(
            PackedMessage(inner_id, inner_seq, parse(body[position : position + length]))
        )
        position += length
    return messages


def pack_message(msg_id: int, seq_no: int, body: bytes) -> bytes:
    """A message with its head, as it stands in a packet or a container."""
    return _MESSAGE_HEAD.pack(msg_id, seq_no, len(body)) + body


def pack_container(messages: Iterable[bytes]) -> bytes:
    """A container's body out of packed messages."""
    parts = list(messages)
    return CONTAINER + len(parts).to_bytes(4, "little") + b"".join(parts)


def pack_value(value: Result) -> bytes:
    """An object, a bool or a vector of objects."""
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, list):
        return VECTOR + len(value).to_bytes(4, "little") + b"".join(map(bytes, value))
    return bytes(value)


def pack_result(request_id: int, value: Result) -> bytes:
    """An rpc_result that answers the message `request_id`."""
    body = pack_value(value)
    if len(body) >= GZIP_FROM_BYTES:
        packed = _GZIP_ID + TLObject.serialize_bytes(gzip.compress(body, 1))
        body = min(body, packed, key=len)
    return RPC_RESULT + request_id.to_bytes(8, "little", signed=True) + body


def pack_error(request_id: int, code: int, message: str) -> bytes:
    """An rpc_result that holds an rpc_error."""
    return pack_result(request_id, RpcError(code, message))
