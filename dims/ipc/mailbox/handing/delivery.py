"""One message in a handler's hands, and the transaction in which its effects happen once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Protocol, Self

from dims.ipc.mailbox.files.lane import Item
from dims.ipc.mailbox.files.ledger import Ledger, Statement
from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES
from dims.ipc.mailbox.handing.derived import derived_id
from dims.ipc.wire.envelope import REPLY, Address, Envelope, Priority
from dims.ipc.wire.framing import encode_payload

_REPLY_NUMBER = -1
"""Unlike that of any message which a handler sends."""
_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


class Desk(Protocol):
    """What a delivery needs of whoever hands it out."""

    @property
    def ledger(self) -> Ledger:
        """Where values are kept."""

    @property
    def writing(self) -> asyncio.Lock:
        """Held by the one transaction that is open."""

    def finish(self, delivery: Delivery, statements: list[Statement]) -> None:
        """Settles the message and keeps the statements in one commit; raises StateError."""

    def may_send(self, recipient: str, kind: str) -> None:
        """Raises RefusedError when this bot may not send that."""

    def check_outgoing(self) -> None:
        """Raises FullError when too much waits to go out already."""


class Delivery:
    """A message and what is known of its way here.

    `redelivered` when it may have been in a handler's hands before; what that handler did in a
    transaction has not happened. `item` is where it stands in the mailbox, None for an ephemeral
    one.
    """

    # On the class: most deliveries never change them, and each would cost every request.
    reply: Mapping[str, Any] | None = None
    """What the transaction answers, if it does."""
    settled = False
    """Whether it is done with, whatever the handler does from now on."""
    in_transaction = False
    """Whether a transaction is open."""
    is_over = False
    """Whether the handler has ended, well or not."""

    def __init__(
        self,
        desk: Desk,
        message: Envelope,
        *,
        redelivered: bool = False,
        item: Item | None = None,
    ) -> None:
        self._desk = desk
        self.item = item
        self.message = message
        self.redelivered = redelivered

    def transaction(self) -> HandlerTransaction:
        """What happens once: see `HandlerTransaction`. One of them is open at a time."""
        return HandlerTransaction(self._desk, self)


class HandlerTransaction(MutableMapping[str, Any]):
    """`async with delivery.transaction() as tx:` keeps values and sends messages together with the
    settling of the message: all of it or, if the block raises or the process dies, nothing.

    It is a mapping of the bot's own values, JSON under text keys, as they are kept in its mailbox.
    Raises StateError at the end of the block when it cannot be kept.
    """

    def __init__(self, desk: Desk, delivery: Delivery) -> None:
        self._desk = desk
        self._delivery = delivery
        self._changes: dict[str, str | None] = {}
        self._outgoing: list[Envelope] = []
        self._reply: Mapping[str, Any] | None = None

    async def __aenter__(self) -> Self:
        if self._delivery.in_transaction:
            # It would wait for itself for ever, and all others of this bot for it.
            raise RuntimeError("a transaction of this message is open already")
        await self._desk.writing.acquire()
        try:
            self._check()
        except RuntimeError:
            self._desk.writing.release()
            raise
        self._delivery.in_transaction = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._check()
                self._desk.finish(self._delivery, self._statements())
                self._delivery.reply = self._reply
        finally:
            self._delivery.in_transaction = False
            self._desk.writing.release()

    def _check(self) -> None:
        if self._delivery.settled:
            raise RuntimeError("this message is settled: one transaction is all it has")
        if self._delivery.is_over and self._delivery.item is not None:
            # What the handler left running must not settle what is tried again meanwhile.
            raise RuntimeError("the handler of this message has ended: its transactions have too")

    def __getitem__(self, key: str) -> Any:
        raw = self._changes[key] if key in self._changes else self._desk.ledger.value(key)
        if raw is None:
            raise KeyError(key)
        return json.loads(raw)

    def __setitem__(self, key: str, value: Any) -> None:
        self._changes[key] = _json(value)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._changes[key] = None

    def __iter__(self) -> Iterator[str]:
        kept = self._desk.ledger.values().keys() | self._changes.keys()
        return (key for key in sorted(kept) if self._changes.get(key, "") is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def send(
        self,
        to: str,
        kind: str,
        body: dict[str, Any],
        *,
        priority: Priority = Priority.NORMAL,
        expires_s: float | None = None,
    ) -> None:
        """Sends a durable message if and when the block ends well, exactly once.

        Raises RefusedError when this bot may not, FullError when too much waits to go out,
        ProtocolError when it is no JSON or too large.
        """
        self._desk.may_send(to, kind)
        self._desk.check_outgoing()
        cause = self._delivery.message
        envelope = Envelope(
            derived_id(cause.id, len(self._outgoing)),
            kind,
            cause.recipient,
            Address(to),
            priority,
            None,
            body,
            correlation=cause.correlation or cause.id,
            causation=cause.id,
            expires_s=expires_s,
        )
        # Encoded now: what cannot be sent has to be said before the block ends.
        encode_payload(envelope, RECORD_LIMIT_BYTES)
        self._outgoing.append(envelope)

    def reply(self, body: Mapping[str, Any]) -> None:
        """Answers a request if and when the block ends well; a durable one exactly once.

        Raises RuntimeError when this message wants no reply, ProtocolError when it is no JSON.
        """
        request = self._delivery.message
        if not request.wants_reply:
            raise RuntimeError(f"this {request.kind!r} is no request: it wants no reply")
        envelope = reply_to(request, REPLY, body)
        encode_payload(envelope, RECORD_LIMIT_BYTES)
        if self._delivery.item is not None:
            self._outgoing.append(envelope)
        self._reply = body

    def _statements(self) -> list[Statement]:
        changes = [Ledger.keep_value(key, value) for key, value in self._changes.items()]
        sends = [
            Ledger.send_out(envelope.recipient, encode_payload(envelope))
            for envelope in self._outgoing
        ]
        return changes + sends


def reply_to(request: Envelope, kind: str, body: Mapping[str, Any]) -> Envelope:
    """The durable answer to a durable request. Its id is always the same, so that the second one,
    if there is one, is known."""
    return Envelope(
        derived_id(request.id, _REPLY_NUMBER),
        kind,
        request.recipient,
        request.sender,
        request.priority,
        request.id,
        body,
        correlation=request.correlation or request.id,
        causation=request.id,
        expires_s=request.expires_s,
    )
