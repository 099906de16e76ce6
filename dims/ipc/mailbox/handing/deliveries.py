"""Hands messages to handlers: durable ones out of a mailbox, ephemeral ones as they come.

Both wait for places in one pool, by priority. How each kind is handled is in `durable` and
`ephemeral`; this is where they meet, and what a transaction needs.
"""

from __future__ import annotations

import asyncio

from dims.errors import RefusedError
from dims.ipc.mailbox.files.ledger import Ledger, Statement
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.mailbox.handing.durable import Durable
from dims.ipc.mailbox.handing.ephemeral import Answer, Done, Ephemeral
from dims.ipc.mailbox.handing.meter import Meter
from dims.ipc.mailbox.handing.places import Places
from dims.ipc.mailbox.handing.recipient import Office, Undeliverable
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Envelope, MessageId, Priority
from dims.system.clock import Clock

__all__ = ["Deliveries", "Office", "Undeliverable"]


class Deliveries:
    """Runs until closed. `mailbox` is open already, or None: then there are only offers."""

    def __init__(
        self,
        mailbox: Mailbox | None,
        office: Office,
        retry: RetryPolicy,
        slots: int,
        *,
        clock: Clock,
    ) -> None:
        self._mailbox = mailbox
        self._office = office
        self._pool = Places(slots)
        self._ephemeral = Ephemeral(self._pool, office, self, clock)
        self._durable: Durable | None = None
        if mailbox is not None:
            self._durable = Durable(mailbox, self._pool, office, self, retry, clock=clock)
        self.writing = asyncio.Lock()

    def start(self) -> None:
        """Hands out from now on."""
        if self._durable is not None:
            self._durable.start()

    def look(self, names: set[str] | None) -> None:
        """Some files have something new; None when any may have."""
        if self._durable is not None:
            self._durable.look(names)

    def offer(self, message: Envelope, done: Done) -> None:
        """A one-way message that came over a socket; `done` is called when it is handled."""
        self._ephemeral.offer(message, done)

    def ask(self, request: Envelope, answer: Answer) -> None:
        """A request that came over a socket; `answer` is called once, unless it is cancelled."""
        self._ephemeral.ask(request, answer)

    def cancel(self, request: MessageId) -> None:
        """The asker has given up: its handler is cancelled."""
        self._ephemeral.cancel(request)

    async def drain(self) -> None:
        """Hands out nothing more; returns when nothing is in hand."""
        await self._pool.drain()
        if self._durable is not None:
            await self._durable.outgoing.drain()

    async def close(self) -> None:
        """Gives up what is still in hand, and keeps everything. The mailbox is closed by it."""
        in_hand = self._durable.stop() if self._durable is not None else []
        await self._pool.close()
        if self._durable is not None and self._mailbox is not None:
            await self._durable.outgoing.close()
            self._durable.stop()
            self._durable = None
            self._mailbox.close(in_hand)

    @property
    def in_hand(self) -> int:
        """Messages and requests that handlers have now."""
        return self._pool.busy

    @property
    def meters(self) -> dict[Priority, Meter]:
        """Messages that were settled or answered, dead ones included."""
        return self._pool.meters

    # Desk, for deliveries

    @property
    def ledger(self) -> Ledger:
        """Where values are kept; raises RefusedError without a mailbox."""
        return self._kept().ledger

    def may_send(self, recipient: str, kind: str) -> None:
        """Raises RefusedError when the recipient of this mailbox may not send that."""
        self._office.may_send(recipient, kind)

    def check_outgoing(self) -> None:
        """Raises FullError when too much waits to go out already."""
        self._kept().outgoing.check_room()

    def finish(self, delivery: Delivery, statements: list[Statement]) -> None:
        """The end of a transaction."""
        durable = self._kept()
        if delivery.item is None:
            durable.ledger.commit(statements)
        else:
            durable.finish(delivery, delivery.item, statements)
        delivery.settled = True
        durable.outgoing.send()

    def _kept(self) -> Durable:
        if self._durable is None:
            raise RefusedError("there is no mailbox here", hint="transactions need a fleet")
        return self._durable
