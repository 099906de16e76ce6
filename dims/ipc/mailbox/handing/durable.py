"""Messages of the mailbox, in the hands of handlers: in order, again after a failure, settled once.

A lane (one sender and priority) has one message in hand at a time, and keeps its order even while
its head is tried again. What a handler's transaction does is kept in the commit that settles the
message; so is the reply to a request.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from dims.errors import DimsError, ProtocolError, RefusedError, RemoteError, StateError
from dims.ipc.mailbox.files.file_names import LaneKey
from dims.ipc.mailbox.files.lane import Item, Lane
from dims.ipc.mailbox.files.ledger import Ledger, Statement, now
from dims.ipc.mailbox.files.mailbox import Mailbox, dead_letter
from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES
from dims.ipc.mailbox.handing.delivery import Delivery, Desk, reply_to
from dims.ipc.mailbox.handing.outgoing import Outgoing
from dims.ipc.mailbox.handing.places import Places, Work
from dims.ipc.mailbox.handing.recipient import Office, Undeliverable, reason_of, remote, run_handler
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.answers import error_body
from dims.ipc.wire.envelope import ERROR, REPLY, Envelope
from dims.ipc.wire.framing import decode_payload, encode_payload

LAZY_S = 0.02
LAZY_MESSAGES = 100
"""Settled messages are kept within this time and number: a crash makes no more of them doubtful."""
RESCAN_S = 5.0
"""Between two looks at all files, for bells that were lost and writers that ended in silence."""
TRY_AGAIN_S = 1.0
"""After a file or the ledger could not be used, for instance because the disk is full."""
REST_AFTER_S = 0.25
"""Quiet time after which the ledger tidies up, which may take some milliseconds."""

_EXPIRED = "expired"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    """The head of a lane that is known, and how often it failed; `due_s` is when it may be tried
    (UTC)."""

    item: Item
    message: Envelope
    failures: int
    due_s: float = 0.0


class Durable:
    """Works the lanes of an open mailbox off, in the places that the pool has."""

    def __init__(
        self, mailbox: Mailbox, pool: Places, office: Office, desk: Desk, retry: RetryPolicy
    ) -> None:
        self._mailbox = mailbox
        self._pool = pool
        self._office = office
        self._desk = desk
        self._retry = retry
        self._loop = asyncio.get_running_loop()
        self._engaged: set[LaneKey] = set()
        """Lanes that wait for a place, have one, or wait for another try."""
        self._held: dict[LaneKey, _Held] = {}
        self._given_back: dict[LaneKey, Item] = {}
        self._in_hand: dict[LaneKey, Item] = {}
        self._keeper: asyncio.TimerHandle | None = None
        self._resting = False
        self.outgoing = Outgoing(mailbox.ledger, office, pool)

    @property
    def ledger(self) -> Ledger:
        """Where it is kept how far everything is."""
        return self._mailbox.ledger

    def start(self) -> None:
        """Hands out from now on."""
        self._rescan()
        self.outgoing.send()

    def look(self, names: set[str] | None) -> None:
        """Some files have something new; None when any may have."""
        if self._pool.is_closing:
            return
        try:
            # The name of a file that was closed is empty: then all are looked at.
            some = names is not None and "" not in names
            lanes = self._mailbox.notice(names or ()) if some else self._mailbox.scan()
        except OSError as error:
            _log.error("the mailbox cannot be listed: %s", error)
            return
        for lane in lanes:
            self._wake(lane)
        self._pool.pump()

    def stop(self) -> list[Item]:
        """Keeps nothing by itself any more; what is in hand now."""
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        return list(self._in_hand.values())

    def finish(self, delivery: Delivery, item: Item, statements: list[Statement]) -> None:
        """The end of a transaction; raises StateError, and then nothing of it is kept."""
        id_ = delivery.message.id
        self.ledger.commit_settled(str(item.segment), item.end, id_, statements)
        self._settled(item, None)

    # Lanes

    def _wake(self, lane: Lane) -> None:
        if lane.key not in self._engaged:
            self._engaged.add(lane.key)
            self._pool.push(lane.key[1], lambda: self._begin(lane))

    def _wake_again(self, lane: Lane) -> None:
        self._pool.push(lane.key[1], lambda: self._begin(lane))
        self._pool.pump()

    def _begin(self, lane: Lane) -> Work | None:
        item = self._next(lane)
        return None if item is None else self._work_off(lane, item)

    def _next(self, lane: Lane) -> Item | None:
        """The lane's next item; when there is none now, the lane is let go."""
        held = self._held.get(lane.key)
        if held is not None:
            return held.item
        given_back = self._given_back.pop(lane.key, None)
        if given_back is not None:
            return given_back
        try:
            item = lane.next()
        except (OSError, StateError) as error:
            _log.error("mail of %s cannot be read now: %s", lane.key[0], error)
            self._pool.later(TRY_AGAIN_S, lambda: self._wake_again(lane))
            return None
        if item is None:
            self._let_go(lane)
        return item

    def _let_go(self, lane: Lane) -> None:
        self._engaged.discard(lane.key)
        if lane.consumed:
            self._keep_soon()
        current = self._mailbox.lane(lane.key)
        if current is not None and current is not lane:
            # It was swept away while it waited for a place, and has come anew since.
            self._wake(current)

    async def _work_off(self, lane: Lane, item: Item) -> None:
        """Until the lane is empty, has to wait, or others are waiting for a place."""
        while True:
            self._in_hand[lane.key] = item
            try:
                pause_s = await self._work(item)
            except Exception:
                # Not the handler's fault but ours or the disk's: nothing may be passed over.
                _log.exception("a message of %s waits", lane.key[0])
                self._given_back[lane.key] = item
                pause_s = TRY_AGAIN_S
            finally:
                self._in_hand.pop(lane.key, None)
            if self._pool.is_closing:
                return
            if pause_s is not None:
                self._pool.later(pause_s, lambda: self._wake_again(lane))
                return
            if self._pool.others_wait:
                self._pool.push(lane.key[1], lambda: self._begin(lane))
                return
            # The bell has to be heard between two messages, whatever handlers do.
            await asyncio.sleep(0)
            following = None if self._pool.is_closing else self._next(lane)
            if following is None:
                return
            item = following

    # One message

    async def _work(self, item: Item) -> float | None:
        """One try; how long to wait for the next one, or None when the item is settled."""
        held = self._held.get(item.lane) or self._first_look(item)
        if held is None:
            return None
        # No longer than any pause is: the clock may have been set back since that was noted.
        pause_s = min(held.due_s - now(), self._retry.max_s)
        if pause_s > 0:
            self._held[item.lane] = replace(held, due_s=0.0)
            return pause_s
        message = held.message
        if message.attempt != held.failures + 1:
            message = structs.replace(message, attempt=held.failures + 1)
        again = item.again or held.failures > 0
        delivery = Delivery(self._desk, message, redelivered=again, item=item)
        try:
            result = await run_handler(self._office, delivery)
            if message.wants_reply and delivery.reply is None:
                self._reply(message, REPLY, result or {})
        except Exception as error:
            # A handler may raise anything.
            if not delivery.settled:
                return self._failed(held, error)
            _log.exception("the handler of %r failed after its transaction", message.kind)
            if message.wants_reply and delivery.reply is None:
                self._reply_error(message, remote(error))
        if not delivery.settled:
            self._settled(item, message.id)
        if message.wants_reply:
            self._keep()
            self.outgoing.send()
        if held.failures:
            self.ledger.succeeded(message.id)
        self._held.pop(item.lane, None)
        return None

    def _first_look(self, item: Item) -> _Held | None:
        """What an item turns out to be; None when it is settled without any handler."""
        ledger = self.ledger
        try:
            message = _message_in(item)
        except ProtocolError as error:
            ledger.count("quarantined")
            self._bury(item, None, 0, f"quarantined: {error}")
            return None
        if ledger.is_known(message.id):
            ledger.count("duplicates")
            self._settled(item, None)
            return None
        verdict = self._verdict(message)
        if verdict:
            self._bury(item, message, 0, verdict, RefusedError(verdict))
            return None
        failures, due_s, reason = ledger.tries(message.id)
        if item.head:
            # It was the one in hand when the former reader ended: that try counts, or a message
            # that kills its worker would do so for ever.
            failures, reason = failures + 1, "the worker ended while it was in hand"
            ledger.failed(message.id, failures, now(), reason)
            if failures >= self._retry.attempts:
                self._bury(item, message, failures, reason, RemoteError(reason))
                return None
            # Kept before the handler has it: it may not leave us the time afterwards.
            ledger.flush()
        held = _Held(item, message, failures, due_s)
        if failures:
            self._held[item.lane] = held
        return held

    def _verdict(self, message: Envelope) -> str:
        """Why no handler gets the message, or nothing."""
        if message.reply_to is not None:
            # Late or not: who asked knows whether it still waits, and nobody else wants it.
            return ""
        if message.expires_s is not None and message.expires_s <= now():
            self.ledger.count("expired")
            return _EXPIRED
        if not self._office.permits(message.sender, message.kind):
            return f"no grant lets {message.sender} send {message.kind!r}"
        if not self._office.knows(message.kind):
            return f"no handler for {message.kind!r}"
        return ""

    def _failed(self, held: _Held, error: Exception) -> float | None:
        """What follows a try in vain: the pause until the next, or None when it was the last."""
        message, item = held.message, held.item
        if self.ledger.trouble and not isinstance(error, Undeliverable):
            # The disk is full, say: a try that cannot be noted is not held against a message.
            _log.error("%r waits for the ledger: %s", message.kind, self.ledger.trouble)
            self._held[item.lane] = replace(held, item=replace(item, again=True))
            return TRY_AGAIN_S
        failures, reason = held.failures + 1, reason_of(error)
        pause_s = self._retry.pause_s(failures, random.random())
        if pause_s is not None and not isinstance(error, Undeliverable):
            _log.warning("try %d of %r failed: %s", failures, message.kind, reason)
            self._held[item.lane] = replace(held, failures=failures, due_s=0.0)
            self.ledger.failed(message.id, failures, now() + pause_s, reason)
            self._keep_soon()
            return pause_s
        self._held.pop(item.lane, None)
        self._bury(item, message, failures, reason, remote(error))
        return None

    def _reply_error(self, request: Envelope, error: DimsError) -> None:
        try:
            self._reply(request, ERROR, error_body(error))
        except ProtocolError as failure:
            # The asker's time limit tells it; its lane here must go on.
            _log.error("no reply to %s: %s", request.sender, failure)

    def _reply(self, request: Envelope, kind: str, body: Mapping[str, Any]) -> None:
        """Goes out with the commit that settles the request.

        Raises ProtocolError when it cannot be sent as a message.
        """
        payload = encode_payload(reply_to(request, kind, body), RECORD_LIMIT_BYTES)
        self.ledger.note(Ledger.send_out(request.sender, payload))

    def _bury(
        self,
        item: Item,
        message: Envelope | None,
        attempts: int,
        reason: str,
        error: DimsError | None = None,
    ) -> None:
        """Makes it a dead letter; who waits for a reply gets the error."""
        _log.error("dead letter from %s: %s", item.segment.sender, reason)
        is_awaited = message is not None and message.wants_reply and reason != _EXPIRED
        if message is not None and error is not None and is_awaited:
            self._reply_error(message, error)
        self.ledger.bury(dead_letter(item, message, attempts, reason))
        self._settled(item, None)
        if is_awaited:
            self._keep()
            self.outgoing.send()

    def _settled(self, item: Item, message_id: str | None) -> None:
        ledger = self.ledger
        self._pool.done(item.lane[1])
        ledger.count("settled")
        self._mailbox.settle(item, message_id)
        if item.again or ledger.unkept >= LAZY_MESSAGES:
            # What a crash has made doubtful is settled one by one, so that the message that causes
            # the crashes is found.
            self._keep()
        else:
            self._keep_soon()

    # Keeping

    def _keep_soon(self) -> None:
        if self._keeper is None and not self._pool.is_closing:
            self._keeper = self._loop.call_later(LAZY_S, self._keep)

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        kept = self._mailbox.sweep()
        if self._pool.is_closing:
            return
        if not kept:
            self._keeper = self._loop.call_later(TRY_AGAIN_S, self._keep)
        elif not self._resting:
            self._resting = True
            self._pool.later(REST_AFTER_S, self._rest)

    def _rest(self) -> None:
        self._resting = False
        if self._pool.busy or self._pool.others_wait:
            self._resting = True
            self._pool.later(REST_AFTER_S, self._rest)
        else:
            self.ledger.tidy()

    def _rescan(self) -> None:
        self.look(None)
        if not self._pool.is_closing:
            self._pool.later(RESCAN_S, self._rescan)


def _message_in(item: Item) -> Envelope:
    """The message; raises ProtocolError when it is none, or is not its sender's."""
    if item.damage:
        raise ProtocolError(item.damage)
    message = decode_payload(item.payload)
    if message.sender != item.segment.sender:
        raise ProtocolError(f"{item.segment} holds a message of {message.sender!r}")
    return message
