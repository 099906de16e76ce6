"""Messages for processes that must start at once: the keeper, and every command. Refuses all I/O.

The same frames and envelopes as `framing`, in the standard library alone, and only the fields that
such a process needs: importing the fast codec costs more than all that a command does.
tests/properties/ipc/wire/test_plain.py holds the two against each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dims.errors import ProtocolError
from dims.ipc.wire.frames import FRAME_LIMIT_BYTES, FrameSplitter, frame
from dims.ipc.wire.ids import new_id

VERSION = 2
"""As `dims.ipc.wire.envelope` has it."""


class PlainMessage:
    """A message as it came: `id`, `kind`, `reply_to` (an id or None) and `body`."""

    __slots__ = ("body", "id", "kind", "reply_to")

    def __init__(self, id_: str, kind: str, reply_to: str | None, body: dict[str, Any]) -> None:
        self.id = id_
        self.kind = kind
        self.reply_to = reply_to
        self.body = body


def encode_plain(
    kind: str, body: Mapping[str, Any], *, sender: str, to: str, wants_reply: bool = False
) -> tuple[str, bytes]:
    """The id of a new message, and its frame; raises ProtocolError when it is too large or no
    JSON."""
    id_ = new_id()
    wire: dict[str, Any] = {"v": VERSION, "id": id_, "kind": kind, "from": sender, "to": to}
    wire |= {"prio": 2, "body": body}
    if wants_reply:
        wire["ask"] = True
    try:
        payload = json.dumps(wire, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"message {kind!r} is not JSON: {error}") from error
    if len(payload) > FRAME_LIMIT_BYTES:
        raise ProtocolError(f"message {kind!r} has {len(payload)} bytes, too many")
    return id_, frame(payload)


class PlainDecoder:
    """As `framing.FrameDecoder`, for plain messages."""

    __slots__ = ("_splitter",)

    def __init__(self) -> None:
        self._splitter = FrameSplitter()

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; 0 between frames."""
        return self._splitter.pending_bytes

    def feed(self, data: bytes) -> list[PlainMessage]:
        """The messages that `data` completes; raises ProtocolError."""
        payloads = self._splitter.feed(data)
        try:
            return [_parse(payload) for payload in payloads]
        except ProtocolError:
            self._splitter.break_off()
            raise

    def finish(self) -> None:
        """Says that the stream ended; raises ProtocolError if it ended inside a frame."""
        self._splitter.finish()


def _parse(payload: bytes) -> PlainMessage:
    try:
        wire = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a message that is not JSON: {error}") from error
    if not isinstance(wire, dict):
        raise ProtocolError("a message that is no object")
    id_, kind, reply_to, body = (wire.get(key) for key in ("id", "kind", "re", "body"))
    body = {} if body is None else body
    if not (isinstance(id_, str) and isinstance(kind, str) and isinstance(body, dict)):
        raise ProtocolError("a message with a wrong field")
    return PlainMessage(id_, kind, reply_to if isinstance(reply_to, str) else None, body)
