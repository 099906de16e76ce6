"""Messages of the mailbox, in the hands of handlers: in order, again after a failure, settled once.

A lane (one sender and priority) has one message in hand at a time, and keeps its order even while
its head is tried again. What a handler's transaction does is kept in the commit that settles the
message; so is the reply to a request. What becomes of a message is judged in `judgement`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from msgspec import structs

from dims.errors import DimsError, ProtocolError, StateError
from dims.ipc.mailbox.files.file_names import LaneKey
from dims.ipc.mailbox.files.lane import Item, Lane
from dims.ipc.mailbox.files.ledger import Ledger, Statement
from dims.ipc.mailbox.files.mailbox import Mailbox, dead_letter
from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES
from dims.ipc.mailbox.handing.delivery import Delivery, Desk, reply_to
from dims.ipc.mailbox.handing.judgement import (
    TRY_AGAIN_S,
    Bury,
    Count,
    Course,
    Dispatch,
    ForgetTries,
    Hand,
    Handled,
    MailFact,
    MailOrder,
    NoteTry,
    Pause,
    Raised,
    Respond,
    Settle,
    Turn,
    judge,
)
from dims.ipc.mailbox.handing.outgoing import Outgoing
from dims.ipc.mailbox.handing.places import Places, Work
from dims.ipc.mailbox.handing.recipient import Office, Undeliverable, reason_of, remote, run_handler
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.answers import error_body
from dims.ipc.wire.envelope import ERROR, REPLY, Envelope
from dims.ipc.wire.framing import decode_payload, encode_payload
from dims.system.clock import Clock

LAZY_S = 0.02
LAZY_MESSAGES = 100
"""Settled messages are kept within this time and number: a crash makes no more of them doubtful."""
RESCAN_S = 5.0
"""Between two looks at all files, for bells that were lost and writers that ended in silence."""
REST_AFTER_S = 0.25
"""Quiet time after which the ledger tidies up, which may take some milliseconds."""

_log = logging.getLogger(__name__)


class Durable:
    """Works the lanes of an open mailbox off, in the places that the pool has."""

    def __init__(
        self,
        mailbox: Mailbox,
        pool: Places,
        office: Office,
        desk: Desk,
        retry: RetryPolicy,
        *,
        clock: Clock,
    ) -> None:
        self._mailbox = mailbox
        self._pool = pool
        self._office = office
        self._desk = desk
        self._retry = retry
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._engaged: set[LaneKey] = set()
        """Lanes that wait for a place, have one, or wait for another try."""
        self._held: dict[LaneKey, Item] = {}
        """Heads of lanes that are to be tried again."""
        self._courses: dict[LaneKey, Course] = {}
        """How far those came of which more is known than the ledger says."""
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
        self._settle(item, None, at_once=delivery.redelivered)

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
        held = self._held.pop(lane.key, None)
        if held is not None:
            return held
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
                self._held[lane.key] = item
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
        try:
            course, fact = self._look_at(item)
        except ProtocolError as error:
            self._quarantine(item, error)
            return None
        while True:
            now_s, draw = self._clock.utc(), self._clock.draw()
            found = judge(course, fact, self._retry, now_s, draw)
            course = found.course
            for order in found.orders:
                self._perform(item, course.message, order)
            match found.then:
                case Hand():
                    fact = await self._try(item, course.message, found.then)
                case Pause():
                    return self._pause(item, course, found.then)
                case None:
                    self._courses.pop(item.lane, None)
                    return None

    def _look_at(self, item: Item) -> tuple[Course, MailFact]:
        """How far the item came, and what is known of it; raises ProtocolError when it is no
        message."""
        ledger, office = self.ledger, self._office
        course = self._courses.get(item.lane)
        is_first = course is None
        if course is None:
            message = _message_in(item)
            failures, due_s, _ = ledger.tries(message.id)
            course = Course(message, item.again, failures, due_s)
        message = course.message
        return course, Turn(
            is_known=ledger.is_known(message.id),
            was_in_hand=is_first and item.head,
            is_permitted=office.permits(message.sender, message.kind),
            has_handler=office.knows(message.kind),
        )

    async def _try(self, item: Item, message: Envelope, order: Hand) -> MailFact:
        """What comes of the message in its handler's hands."""
        if message.attempt != order.attempt:
            message = structs.replace(message, attempt=order.attempt)
        delivery = Delivery(self._desk, message, redelivered=order.is_again, item=item)
        try:
            result = await run_handler(self._office, delivery)
            if message.wants_reply and delivery.reply is None:
                self._reply(message, REPLY, result or {})
        except Exception as error:
            # A handler may raise anything.
            if delivery.settled:
                _log.exception("the handler of %r failed after its transaction", message.kind)
            return Raised(
                remote(error),
                reason_of(error),
                is_hopeless=isinstance(error, Undeliverable),
                is_settled=delivery.settled,
                is_answered=delivery.reply is not None,
                trouble=self.ledger.trouble,
            )
        return Handled(is_settled=delivery.settled)

    def _pause(self, item: Item, course: Course, order: Pause) -> float:
        if order.trouble:
            _log.error("%r waits for the ledger: %s", course.message.kind, order.trouble)
        self._held[item.lane] = item
        self._courses[item.lane] = course
        return order.pause_s

    def _perform(self, item: Item, message: Envelope, order: MailOrder) -> None:
        match order:
            case Settle():  # First: it is what becomes of nearly all.
                known = message.id if order.remembers else None
                self._settle(item, known, at_once=order.at_once)
            case NoteTry():
                self._note(message, order)
            case ForgetTries():
                self.ledger.succeeded(message.id)
            case Count(name):
                self.ledger.count(name)
            case Bury(attempts, reason):
                self._bury(item, message, attempts, reason)
            case Respond(error):
                self._reply_error(message, error)
            case Dispatch():
                self._keep()
                self.outgoing.send()

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

    def _note(self, message: Envelope, order: NoteTry) -> None:
        _log.warning("try %d of %r failed: %s", order.failures, message.kind, order.reason)
        self.ledger.failed(message.id, order.failures, order.due_s, order.reason)
        if order.at_once:
            self._keep()
        else:
            self._keep_soon()

    def _bury(self, item: Item, message: Envelope | None, attempts: int, reason: str) -> None:
        _log.error("dead letter from %s: %s", item.segment.sender, reason)
        self.ledger.bury(dead_letter(item, message, attempts, reason, self._clock.utc()))

    def _quarantine(self, item: Item, error: ProtocolError) -> None:
        self.ledger.count("quarantined")
        self._bury(item, None, 0, f"quarantined: {error}")
        self._settle(item, None, at_once=item.again)

    def _settle(self, item: Item, message_id: str | None, *, at_once: bool) -> None:
        ledger = self.ledger
        self._pool.done(item.lane[1])
        ledger.count("settled")
        self._mailbox.settle(item, message_id)
        if at_once or ledger.unkept >= LAZY_MESSAGES:
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
