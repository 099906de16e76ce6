"""One message between DIMS processes. Knows its fields and their limits; refuses all I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NewType

from dims.errors import ProtocolError

MessageId = NewType("MessageId", str)
Address = NewType("Address", str)
"""Who sends or receives: `brain`, `keeper`, `cli`, `zygote/3`, `bot/echo`, `service/sandbox`."""

VERSION = 1
"""Version of the envelope itself; a reader accepts unknown extra fields of newer versions."""


class Priority(IntEnum):
    """How urgent a message is; a lower number goes first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message: what it is (`kind`), from whom to whom, how urgent, and a JSON object `body`.

    `reply_to` is the id of the request that this message answers, or None.
    `id` orders by time of creation (see `dims.ipc.ids`).
    """

    id: MessageId
    kind: str
    sender: Address
    recipient: Address
    priority: Priority = Priority.NORMAL
    reply_to: MessageId | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def to_wire(self) -> dict[str, Any]:
        """The envelope as a JSON object with short keys; `None` fields are left out."""
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
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> Envelope:
        """The envelope in a decoded JSON value.

        Raises ProtocolError when a field is missing or of a wrong type; extra keys are ignored,
        so that an older reader understands a newer writer.
        """
        if not isinstance(wire, dict):
            raise ProtocolError("a message must be a JSON object")
        for key in ("id", "kind", "from", "to"):
            if not isinstance(wire.get(key), str) or not wire[key]:
                raise ProtocolError(f"a message needs a non-empty text {key!r}")
        version, body, reply_to = wire.get("v"), wire.get("body", {}), wire.get("re")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ProtocolError("a message needs a version 'v' of 1 or more")
        if not isinstance(body, dict):
            raise ProtocolError("a message's 'body' must be a JSON object")
        if reply_to is not None and not isinstance(reply_to, str):
            raise ProtocolError("a message's 're' must be a text")
        priority = wire.get("prio", int(Priority.NORMAL))
        if isinstance(priority, bool) or priority not in tuple(Priority):
            raise ProtocolError("a message's 'prio' must be 0, 1, 2 or 3")
        return cls(
            id=MessageId(wire["id"]),
            kind=wire["kind"],
            sender=Address(wire["from"]),
            recipient=Address(wire["to"]),
            priority=Priority(priority),
            reply_to=None if reply_to is None else MessageId(reply_to),
            body=body,
            version=version,
        )
