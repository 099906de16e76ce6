"""One message between DIMS processes. Pure: its fields and their limits."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, NewType

import msgspec

from dims.errors import ProtocolError

MessageId = NewType("MessageId", str)
Address = NewType("Address", str)
"""Who sends or receives: `brain`, `keeper`, `cli`, `operator`, `unit/echo`, or a bot's id."""

VERSION = 2
"""Version of the envelope itself. A reader accepts unknown extra fields of newer versions, and
lacks nothing that version 1 did not have: all fields since then may be left out."""
REPLY, ERROR, CANCEL = "reply", "error", "cancel"
"""Kinds of the protocol itself: what answers a request, and what takes it back."""
ID_DIGITS = 32
_TIME_DIGITS = 12


class Priority(IntEnum):
    """How urgent a message is; a lower number goes first."""

    URGENT = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


def _version() -> int:
    # A factory and not a default: defaults are left out, and the version is always told.
    return VERSION


_Text = Annotated[str, msgspec.Meta(min_length=1)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Envelope(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    # Bodies come out of a JSON decoder or go into an encoder: there are no cycles to collect.
    gc=False,
    rename={
        "sender": "from",
        "recipient": "to",
        "priority": "prio",
        "reply_to": "re",
        "version": "v",
        "wants_reply": "ask",
        "correlation": "cid",
        "causation": "cause",
        "expires_s": "exp",
        "attempt": "try",
    },
):
    """A message: what it is (`kind`), from whom to whom, how urgent, and a JSON object `body`.

    `id` orders by time of creation (see `dims.ipc.wire.ids`).
    `reply_to` is the id of the request that this message answers, or None; `wants_reply` says that
    the sender waits for such an answer.
    `correlation` is the id of the message that began the conversation, None for that one itself;
    `causation` the id of the message in whose handling this one was made, or None.
    `expires_s`, UTC seconds since 1970, is when nobody wants it any more, or None for never.
    `attempt` counts deliveries to a handler from 1; the reader sets it.
    """

    id: Annotated[MessageId, msgspec.Meta(min_length=1)]
    kind: _Text
    sender: Annotated[Address, msgspec.Meta(min_length=1)]
    recipient: Annotated[Address, msgspec.Meta(min_length=1)]
    priority: Priority = Priority.NORMAL
    reply_to: MessageId | None = None
    body: Mapping[str, Any] = {}
    version: _Positive = msgspec.field(default_factory=_version)
    wants_reply: bool = False
    correlation: MessageId | None = None
    causation: MessageId | None = None
    expires_s: float | None = None
    attempt: _Positive = 1

    @property
    def created_s(self) -> float:
        """UTC seconds since 1970, to the millisecond, as the id says; 0 for a foreign id."""
        return created_s(self.id)

    def to_wire(self) -> dict[str, Any]:
        """The envelope as a JSON object with short keys; what has its default is left out, except
        priority and body."""
        wire: dict[str, Any] = msgspec.to_builtins(self)
        return {**wire, "prio": int(self.priority), "body": self.body}

    @classmethod
    def from_wire(cls, wire: object) -> Envelope:
        """The envelope in a decoded JSON value.

        Raises ProtocolError when a field is missing or of a wrong type; extra keys are ignored,
        so that an older reader understands a newer writer.
        """
        try:
            return msgspec.convert(wire, cls)
        except msgspec.ValidationError as error:
            raise ProtocolError(f"a message with a wrong field: {error}") from error


def created_s(id_: str) -> float:
    """When a message was made, in UTC seconds since 1970; 0 for an id that does not say."""
    if len(id_) != ID_DIGITS:
        return 0.0
    try:
        return int(id_[:_TIME_DIGITS], 16) / 1000
    except ValueError:
        return 0.0
