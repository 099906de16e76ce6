"""Messages that transactions send: kept in the ledger with their effects, then put on their way.

A message may be put into its recipient's mailbox twice when this process dies in between; it bears
the same id both times, and the recipient knows it.
"""

from __future__ import annotations

import asyncio
import logging

from dims.errors import DimsError, FullError, RefusedError
from dims.ipc.mailbox.files.ledger import Ledger
from dims.ipc.mailbox.handing.places import Places
from dims.ipc.mailbox.handing.recipient import Office
from dims.ipc.wire.framing import decode_payload

BATCH = 100
LIMIT = 100_000
"""Messages that may wait for full mailboxes of others."""
TRY_AGAIN_S = 1.0

_log = logging.getLogger(__name__)


class Outgoing:
    """Sends what the ledger has to send."""

    def __init__(self, ledger: Ledger, office: Office, pool: Places) -> None:
        self._ledger = ledger
        self._office = office
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._sending: asyncio.Task[None] | None = None
        self._refusal = ""
        self._closed = False

    def check_room(self) -> None:
        """Raises FullError when too much waits already."""
        # Counting costs more, and is of use only when one that waits long lets the span grow.
        ledger = self._ledger
        if ledger.outgoing_span() >= LIMIT and ledger.outgoing_count(LIMIT) >= LIMIT:
            raise FullError(
                f"{LIMIT} messages of transactions wait to be sent: a recipient is full",
                retry_after_s=TRY_AGAIN_S,
            )

    def send(self) -> None:
        """Something is to be sent."""
        if self._sending is None and not self._closed:
            self._sending = self._loop.create_task(self._send_all())
            self._sending.add_done_callback(self._sent)

    async def drain(self) -> None:
        """Returns when what can be sent is sent; what waits for room stays."""
        self.send()
        while self._sending is not None:
            await asyncio.gather(self._sending, return_exceptions=True)

    async def close(self) -> None:
        """Sends nothing more; what was not sent is sent by the next process."""
        self._closed = True
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled() or self._closed:
            return
        error = task.exception()
        if error is not None:
            if str(error) != self._refusal:
                # Once per reason, and not once per second.
                self._refusal = str(error)
                _log.error("messages wait to be sent: %s", error)
            if not self._pool.is_closing:
                self._pool.later(TRY_AGAIN_S, self.send)
        elif self._ledger.outgoing(0, 1):
            self.send()

    async def _send_all(self) -> None:
        """In order; a recipient that refuses holds up its own messages only."""
        ledger, after = self._ledger, 0
        if ledger.trouble:
            # What went out before has to be noted first, or it would go out over and over.
            ledger.commit(())
        refusing: dict[str, DimsError] = {}
        while rows := ledger.outgoing(after, BATCH):
            for n, recipient, payload in rows:
                after = n
                if recipient in refusing:
                    continue
                try:
                    await self._office.send_payload(decode_payload(payload), payload)
                except RefusedError as error:
                    refusing[recipient] = error
                else:
                    ledger.went_out([n])
            ledger.commit(())
        for refusal in refusing.values():
            raise refusal
        self._refusal = ""
