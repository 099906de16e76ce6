"""One message between DIMS processes. Knows its fields and their limits; refuses all I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NewType

from dims.errors import ProtocolError

MessageId = NewType("MessageId", str)
Address = NewType("Address", str)
"""Who sends or receives: `brain`, `keeper`, `cli`, `operator`, `unit/echo`, or a bot's id."""

VERSION = 2
"""Version of the envelope itself. A reader accepts unknown extra fields of newer versions, and
lacks nothing that version 1 did not have: all fields since then may be left out."""
ID_DIGITS = 32
_TIME_DIGITS = 12


class Priority(IntEnum):
    """How urgent a message is; a lower number goes first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


_PRIORITIES = {int(priority): priority for priority in Priority}
_NO_BODY: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message: what it is (`kind`), from whom to whom, how urgent, and a JSON object `body`.

    `id` orders by time of creation (see `dims.ipc.ids`).
    `reply_to` is the id of the request that this message answers, or None; `wants_reply` says that
    the sender waits for such an answer.
    `correlation` is the id of the message that began the conversation, None for that one itself;
    `causation` the id of the message in whose handling this one was made, or None.
    `expires_s`, UTC seconds since 1970, is when nobody wants it any more, or None for never.
    `attempt` counts deliveries to a handler from 1; the reader sets it.
    """

    id: MessageId
    kind: str
    sender: Address
    recipient: Address
    priority: Priority = Priority.NORMAL
    reply_to: MessageId | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION
    wants_reply: bool = False
    correlation: MessageId | None = None
    causation: MessageId | None = None
    expires_s: float | None = None
    attempt: int = 1

    @property
    def created_s(self) -> float:
        """UTC seconds since 1970, to the millisecond, as the id says; 0 for a foreign id."""
        return created_s(self.id)

    def to_wire(self) -> dict[str, Any]:
        """The envelope as a JSON object with short keys; what has its default is left out."""
        wire: dict[str, Any] = {
            "v": self.version,
            "id": self.id,
            "kind": self.kind,
            "from": self.sender,
            "to": self.recipient,
            "prio": int(self.priority),
            "body": self.body,
        }
        if self.reply_to is not None:
            wire["re"] = self.reply_to
        if self.wants_reply:
            wire["ask"] = True
        if self.correlation is not None:
            wire["cid"] = self.correlation
        if self.causation is not None:
            wire["cause"] = self.causation
        if self.expires_s is not None:
            wire["exp"] = self.expires_s
        if self.attempt != 1:
            wire["try"] = self.attempt
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> Envelope:
        """The envelope in a decoded JSON value.

        Raises ProtocolError when a field is missing or of a wrong type; extra keys are ignored,
        so that an older reader understands a newer writer.
        """
        if type(wire) is not dict:
            raise ProtocolError("a message must be a JSON object")
        get = wire.get
        id_, kind, sender, recipient = get("id"), get("kind"), get("from"), get("to")
        version, body, prio = get("v"), get("body", _NO_BODY), get("prio", 2)
        # One expression, because every message of every channel comes through here.
        if not (
            type(id_) is type(kind) is type(sender) is type(recipient) is str
            and (id_ and kind and sender and recipient)
            and type(version) is type(prio) is int
            and version > 0
            and prio in _PRIORITIES
            and type(body) is dict
        ):
            raise _fault(wire)
        priority = _PRIORITIES[prio]
        if len(wire) == _PLAIN_KEYS and "prio" in wire and "body" in wire:
            return cls(id_, kind, sender, recipient, priority, None, body, version)  # type: ignore[arg-type]
        return cls(
            MessageId(id_),
            kind,
            Address(sender),
            Address(recipient),
            priority,
            _optional_id(wire, "re"),
            body,
            version,
            _optional(wire, "ask", bool, False),
            _optional_id(wire, "cid"),
            _optional_id(wire, "cause"),
            _moment(wire),
            _attempt(wire),
        )


_PLAIN_KEYS = 7
"""Keys of a message that has all its needed fields and no other."""


def created_s(id_: str) -> float:
    """When a message was made, in UTC seconds since 1970; 0 for an id that does not say."""
    if len(id_) != ID_DIGITS:
        return 0.0
    try:
        return int(id_[:_TIME_DIGITS], 16) / 1000
    except ValueError:
        return 0.0


def _fault(wire: Mapping[str, Any]) -> ProtocolError:
    """Which of the needed fields is wrong."""
    for key in ("id", "kind", "from", "to"):
        if not isinstance(wire.get(key), str) or not wire[key]:
            return ProtocolError(f"a message needs a non-empty text {key!r}")
    version = wire.get("v")
    if type(version) is not int or version < 1:
        return ProtocolError("a message needs a version 'v' of 1 or more")
    if type(wire.get("body", {})) is not dict:
        return ProtocolError("a message's 'body' must be a JSON object")
    return ProtocolError("a message's 'prio' must be 0, 1, 2 or 3")


def _optional(wire: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = wire.get(key, default)
    if type(value) is not kind:
        raise ProtocolError(f"a message's {key!r} must be a {kind.__name__}")
    return value


def _optional_id(wire: Mapping[str, Any], key: str) -> MessageId | None:
    value = wire.get(key)
    if value is not None and not isinstance(value, str):
        raise ProtocolError(f"a message's {key!r} must be a text")
    return None if value is None else MessageId(value)


def _moment(wire: Mapping[str, Any]) -> float | None:
    value = wire.get("exp")
    if value is not None and type(value) not in (int, float):
        raise ProtocolError("a message's 'exp' must be a number of seconds")
    return None if value is None else float(value)


def _attempt(wire: Mapping[str, Any]) -> int:
    value: int = _optional(wire, "try", int, 1)
    if value < 1:
        raise ProtocolError("a message's 'try' must be 1 or more")
    return value
