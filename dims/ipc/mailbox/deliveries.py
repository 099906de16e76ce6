"""Hands messages to handlers: by priority, in order within a lane, again after a failure.

Durable messages come from the mailbox, ephemeral ones are offered by whoever holds the socket; both
wait in one queue. A lane (one sender and priority) has one message in hand at a time, and keeps
its order even while its head is tried again. Requests are started in order and run side by side.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from dims.errors import DimsError, FullError, ProtocolError, RefusedError, RemoteError, StateError
from dims.ipc.answers import error_body
from dims.ipc.channel import ERROR, REPLY
from dims.ipc.envelope import Address, Envelope, MessageId, Priority
from dims.ipc.framing import decode_payload, encode_payload
from dims.ipc.mailbox.delivery import Delivery, reply_to
from dims.ipc.mailbox.lane import Item, Lane
from dims.ipc.mailbox.ledger import Ledger, Statement, now
from dims.ipc.mailbox.mailbox import Mailbox, dead_letter
from dims.ipc.mailbox.names import LaneKey
from dims.ipc.mailbox.records import RECORD_LIMIT_BYTES
from dims.ipc.mailbox.retry import RetryPolicy
from dims.ipc.meter import Meter
from dims.ipc.queue import PriorityQueue

LAZY_S = 0.02
LAZY_MESSAGES = 64
"""Settled messages are kept within this time and number: a crash makes no more of them doubtful."""
URGENT_SLOTS = 4
"""Urgent messages find these places free when all others are taken."""
RESCAN_S = 5.0
"""Between two looks at all files, for bells that were lost and writers that ended in silence."""
TRY_AGAIN_S = 1.0
"""After a file or the ledger could not be used, for instance because the disk is full."""
OUTGOING_BATCH = 100
MOST_REASON_CHARS = 10_000
OUTGOING_LIMIT = 100_000
"""Messages of transactions that wait for full mailboxes of others."""

_log = logging.getLogger(__name__)


class Office(Protocol):
    """What the recipient does with messages."""

    def knows(self, kind: str) -> bool:
        """Whether there is a handler for messages of this kind."""

    def permits(self, sender: str, kind: str) -> bool:
        """Whether this sender may send that here."""

    def may_send(self, recipient: str, kind: str) -> None:
        """Raises RefusedError when the recipient of this mailbox may not send that."""

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """Runs the handler; its result is the body of a reply where one is wanted. May raise
        anything; `Undeliverable` when another try cannot help."""

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        """Puts a durable message into another mailbox; raises a DimsError."""


class Undeliverable(DimsError):  # noqa: N818 (a verdict on a message, not a fault of ours)
    """No handler will ever take this message: no second try."""


Answer = Callable[[Mapping[str, Any] | DimsError], None]


@dataclass(slots=True)
class _Held:
    """The head of a lane between two tries."""

    item: Item
    message: Envelope
    failures: int


@dataclass(slots=True)
class _Offered:
    """Ephemeral one-way messages of one sender and priority, in order."""

    key: tuple[str, int]
    waiting: deque[tuple[Envelope, Callable[[], None]]] = field(default_factory=deque)
    engaged: bool = False


class Deliveries:
    """Runs until closed. `mailbox` is open already, or None: then there are only offers."""

    def __init__(
        self, mailbox: Mailbox | None, office: Office, retry: RetryPolicy, slots: int
    ) -> None:
        self._mailbox = mailbox
        self._office = office
        self._retry = retry
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self._ready: PriorityQueue[Callable[[], Coroutine[Any, Any, None] | None]] = PriorityQueue()
        self._engaged: set[LaneKey] = set()
        self._held: dict[LaneKey, _Held] = {}
        self._in_hand: dict[LaneKey, Item] = {}
        self._offers: dict[tuple[str, int], _Offered] = {}
        self._requests: dict[MessageId, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._keeper: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._sending_out: asyncio.Task[None] | None = None
        self._closing = False
        self.writing = asyncio.Lock()
        self.meters = {priority: Meter(self._loop.time()) for priority in Priority}
        """Messages that were settled or answered, dead ones included."""

    # Beginning and end

    def start(self) -> None:
        """Hands out from now on."""
        self._rescan()
        self._send_out()

    def look(self, names: set[str] | None) -> None:
        """Some files have something new; None when any may have."""
        if self._mailbox is None or self._closing:
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
        self._pump()

    async def drain(self) -> None:
        """Hands out nothing more; returns when nothing is in hand."""
        self._closing = True
        for timer in (*self._timers, *([self._keeper] if self._keeper else [])):
            timer.cancel()
        await self._idle.wait()
        if self._sending_out is not None:
            await asyncio.gather(self._sending_out, return_exceptions=True)

    async def close(self) -> None:
        """Gives up what is still in hand, and keeps everything. The mailbox is closed by it."""
        self._closing = True
        in_hand = list(self._in_hand.values())
        for timer in (*self._timers, *([self._keeper] if self._keeper else [])):
            timer.cancel()
        tasks = [*self._tasks, *([self._sending_out] if self._sending_out else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._mailbox is not None:
            self._mailbox.close(in_hand)
            self._mailbox = None

    @property
    def in_hand(self) -> int:
        """Messages and requests that handlers have now."""
        return len(self._tasks)

    # Ephemeral messages

    def offer(self, message: Envelope, done: Callable[[], None]) -> None:
        """A one-way message that came over a socket; `done` is called when it is handled."""
        key = (message.sender, int(message.priority))
        offered = self._offers.get(key)
        if offered is None:
            offered = self._offers[key] = _Offered(key)
        offered.waiting.append((message, done))
        if not offered.engaged:
            offered.engaged = True
            self._ready.push(message.priority, lambda: self._work_offered(offered))
        self._pump()

    def ask(self, request: Envelope, answer: Answer) -> None:
        """A request that came over a socket; `answer` is called once, unless it is cancelled."""
        if not self._ready and len(self._tasks) < self._slots and not self._closing:
            work = self._run_request(request, answer)
            if work is not None:
                self._begin(work)
            return
        self._ready.push(request.priority, lambda: self._run_request(request, answer))
        self._pump()

    def cancel(self, request: MessageId) -> None:
        """The asker has given up: its handler is cancelled."""
        task = self._requests.get(request)
        if task is not None:
            task.cancel()

    # Desk, for deliveries

    @property
    def ledger(self) -> Ledger:
        """Where values are kept; raises RefusedError without a mailbox."""
        if self._mailbox is None:
            raise RefusedError("there is no mailbox here", hint="transactions need a fleet")
        return self._mailbox.ledger

    def may_send(self, recipient: str, kind: str) -> None:
        """Raises RefusedError when the recipient of this mailbox may not send that."""
        self._office.may_send(recipient, kind)

    def finish(self, delivery: Delivery, statements: list[Statement]) -> None:
        """The end of a transaction."""
        ledger, message = self.ledger, delivery.message
        item = delivery.item
        if item is None:
            ledger.commit(statements)
        else:
            ledger.commit_settled(str(item.segment), item.end, message.id, statements)
            self._settled(item, message.id, by_transaction=True)
        delivery.settled = True
        self._send_out()

    def check_outgoing(self) -> None:
        """Raises FullError when too much waits to go out already."""
        if self.ledger.outgoing_span() >= OUTGOING_LIMIT:
            raise FullError(
                f"{OUTGOING_LIMIT} messages of transactions wait to be sent: a recipient is full",
                retry_after_s=TRY_AGAIN_S,
            )

    # Handing out

    def _wake(self, lane: Lane) -> None:
        if lane.key not in self._engaged:
            self._engaged.add(lane.key)
            self._ready.push(lane.key[1], lambda: self._run_lane(lane))

    def _pump(self) -> None:
        while self._ready and not self._closing:
            if len(self._tasks) < self._slots:
                start = self._ready.pop()
            elif self._ready.has_urgent and len(self._tasks) < self._slots + URGENT_SLOTS:
                start = self._ready.pop_urgent()
            else:
                return
            work = start()
            if work is not None:
                self._begin(work)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and task.exception() is not None:
            _log.error("a delivery failed", exc_info=task.exception())
        self._pump()

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        def ring() -> None:
            self._timers.discard(timer)
            what()

        timer = self._loop.call_later(delay_s, ring)
        self._timers.add(timer)

    # Lanes of the mailbox

    def _run_lane(self, lane: Lane) -> Coroutine[Any, Any, None] | None:
        item = self._next(lane)
        return None if item is None else self._work_lane(lane, item)

    def _next(self, lane: Lane) -> Item | None:
        """The lane's next item; when there is none now, the lane is let go."""
        held = self._held.get(lane.key)
        if held is not None:
            return held.item
        try:
            item = lane.next()
        except (OSError, StateError) as error:
            _log.error("mail of %s cannot be read now: %s", lane.key[0], error)
            self._later(TRY_AGAIN_S, lambda: self._retry_lane(lane))
            return None
        if item is None:
            self._engaged.discard(lane.key)
            if lane.consumed:
                self._keep_soon()
        return item

    def _retry_lane(self, lane: Lane) -> None:
        self._ready.push(lane.key[1], lambda: self._run_lane(lane))
        self._pump()

    async def _work_lane(self, lane: Lane, item: Item) -> None:
        """Works a lane off until it is empty, has to wait, or others are waiting for a place."""
        while True:
            self._in_hand[lane.key] = item
            try:
                pause_s = await self._work(item)
            finally:
                self._in_hand.pop(lane.key, None)
            if self._closing:
                return
            if pause_s is not None:
                self._later(pause_s, lambda: self._retry_lane(lane))
                return
            if self._ready:
                self._ready.push(lane.key[1], lambda: self._run_lane(lane))
                return
            # The bell has to be heard between two messages, whatever handlers do.
            await asyncio.sleep(0)
            following = None if self._closing else self._next(lane)
            if following is None:
                return
            item = following

    async def _work(self, item: Item) -> float | None:
        """One try; how long to wait for the next one, or None when the item is settled."""
        held = self._held.get(item.lane)
        if held is None:
            first = self._first_look(item)
            if first is None:
                return None
            held = first
        message = held.message
        if message.attempt != held.failures + 1:
            message = msgspec.structs.replace(message, attempt=held.failures + 1)
        again = item.again or held.failures > 0
        delivery = Delivery(self, message, redelivered=again, item=item)
        try:
            result = await self._office.handle(delivery)
            if message.wants_reply and delivery.reply is None:
                await self._reply(message, REPLY, result or {})
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if delivery.settled:
                _log.exception("the handler of %r failed after its transaction", message.kind)
                if message.wants_reply and delivery.reply is None:
                    await self._reply_error(message, error)
            elif self.ledger.trouble and not isinstance(error, Undeliverable):
                # The disk is full, say: a try that cannot be noted is not held against a message.
                _log.error("%r waits for the ledger: %s", message.kind, self.ledger.trouble)
                self._held[item.lane] = replace(held, item=replace(item, again=True))
                return TRY_AGAIN_S
            else:
                return await self._failed(held, error)
        if not delivery.settled:
            self._settled(item, message.id)
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
        if message.expires_s is not None and message.expires_s <= now():
            ledger.count("expired")
            self._bury(item, message, 0, "expired")
            return None
        if message.reply_to is None and not self._office.permits(message.sender, message.kind):
            self._bury(item, message, 0, f"no grant lets {message.sender} send {message.kind!r}")
            return None
        if message.reply_to is None and not self._office.knows(message.kind):
            self._bury(item, message, 0, f"no handler for {message.kind!r}")
            return None
        failures, _, reason = ledger.tries(message.id)
        if item.head:
            # It was the one in hand when the former reader ended: that try counts, or a message
            # that kills its worker would do so for ever.
            failures, reason = failures + 1, "the worker ended while it was in hand"
            ledger.failed(message.id, failures, now(), reason)
            if failures >= self._retry.attempts:
                self._bury(item, message, failures, reason)
                return None
            # Kept before the handler has it: it may not leave us the time afterwards.
            ledger.flush()
        held = _Held(item, message, failures)
        if failures:
            self._held[item.lane] = held
        return held

    async def _failed(self, held: _Held, error: Exception) -> float | None:
        message, item = held.message, held.item
        held.failures += 1
        reason = _reason(error)
        pause_s = self._retry.pause_s(held.failures, random.random())
        if isinstance(error, Undeliverable):
            pause_s, reason = None, _plain(str(error))
        if pause_s is not None:
            _log.warning("try %d of %r failed: %s", held.failures, message.kind, reason)
            self._held[item.lane] = held
            self.ledger.failed(message.id, held.failures, now() + pause_s, reason)
            self._keep_soon()
            return pause_s
        if message.wants_reply:
            await self._reply_error(message, error)
        self._held.pop(item.lane, None)
        self._bury(item, message, held.failures, reason)
        return None

    async def _reply(self, request: Envelope, kind: str, body: Mapping[str, Any]) -> None:
        reply = reply_to(request, kind, body)
        try:
            payload = encode_payload(reply, RECORD_LIMIT_BYTES)
            await self._office.send_payload(reply, payload)
        except RefusedError as error:
            _log.warning("no reply to %s: %s", request.sender, error)

    async def _reply_error(self, request: Envelope, error: Exception) -> None:
        try:
            await self._reply(request, ERROR, error_body(_remote(error)))
        except DimsError as failure:
            # The asker's time limit tells it; its lane here must go on.
            _log.error("no reply to %s: %s", request.sender, failure)

    def _bury(self, item: Item, message: Envelope | None, attempts: int, reason: str) -> None:
        _log.error("dead letter from %s: %s", item.segment.sender, reason)
        self.ledger.bury(dead_letter(item, message, attempts, reason))
        self._settled(item, None)

    def _settled(self, item: Item, message_id: str | None, *, by_transaction: bool = False) -> None:
        mailbox = self._mailbox
        if mailbox is None:
            return
        self.meters[item.lane[1]].add(self._loop.time())
        mailbox.ledger.count("settled")
        mailbox.settle(item, None if by_transaction else message_id)
        if item.again or mailbox.ledger.unkept >= LAZY_MESSAGES:
            # What a crash has made doubtful is settled one by one, so that the message that causes
            # the crashes is found.
            self._keep()
        else:
            self._keep_soon()

    # Keeping

    def _keep_soon(self) -> None:
        if self._keeper is None and not self._closing:
            self._keeper = self._loop.call_later(LAZY_S, self._keep)

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if self._mailbox is not None and not self._mailbox.sweep() and not self._closing:
            self._keeper = self._loop.call_later(TRY_AGAIN_S, self._keep)

    def _rescan(self) -> None:
        self.look(None)
        if not self._closing:
            self._later(RESCAN_S, self._rescan)

    # Ephemeral

    async def _work_offered(self, offered: _Offered) -> None:
        while offered.waiting:
            message, done = offered.waiting.popleft()
            try:
                await self._handle_offered(message)
            finally:
                self.meters[message.priority].add(self._loop.time())
                done()
            if self._ready and offered.waiting:
                self._ready.push(message.priority, lambda: self._work_offered(offered))
                return
            if offered.waiting:
                await asyncio.sleep(0)
        offered.engaged = False
        del self._offers[offered.key]

    async def _handle_offered(self, message: Envelope) -> None:
        if message.expires_s is not None and message.expires_s <= now():
            return
        try:
            await self._office.handle(Delivery(self, message))
        except Exception as error:
            # Nobody waits for it, and nobody keeps it: the log is the place to say so.
            _log.error("%r of %s failed", message.kind, message.sender, exc_info=error)

    def _run_request(self, request: Envelope, answer: Answer) -> Coroutine[Any, Any, None] | None:
        if request.expires_s is not None and request.expires_s <= now():
            return None
        return self._work_request(request, answer)

    async def _work_request(self, request: Envelope, answer: Answer) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (narrows the type)
        self._requests[request.id] = task
        try:
            delivery = Delivery(self, request)
            result = await self._office.handle(delivery)
            answer(delivery.reply or result or {})
        except DimsError as error:
            answer(error)
        except Exception as error:
            _log.error("%r of %s failed", request.kind, request.sender, exc_info=error)
            answer(_remote(error))
        finally:
            self.meters[request.priority].add(self._loop.time())
            del self._requests[request.id]

    # Messages that go out with a transaction

    def _send_out(self) -> None:
        if self._sending_out is None and self._mailbox is not None and not self._closing:
            self._sending_out = self._loop.create_task(self._send_all_out())
            self._sending_out.add_done_callback(self._all_sent)

    def _all_sent(self, task: asyncio.Task[None]) -> None:
        self._sending_out = None
        if task.cancelled() or self._closing:
            return
        if task.exception() is not None:
            _log.error("messages wait to be sent: %s", task.exception())
            self._later(TRY_AGAIN_S, self._send_out)
        elif self.ledger.outgoing(0, 1):
            self._send_out()

    async def _send_all_out(self) -> None:
        """In order; a recipient that refuses holds up its own messages only."""
        ledger, after = self.ledger, 0
        if ledger.trouble:
            # What went out before has to be noted first, or it would go out over and over.
            ledger.commit(())
        refusing: set[Address] = set()
        refusal: DimsError | None = None
        while rows := ledger.outgoing(after, OUTGOING_BATCH):
            for n, recipient, payload in rows:
                after = n
                if recipient in refusing:
                    continue
                try:
                    await self._office.send_payload(decode_payload(payload), payload)
                except RefusedError as error:
                    refusing.add(Address(recipient))
                    refusal = error
                else:
                    ledger.went_out([n])
            ledger.commit(())
        if refusal is not None:
            raise refusal


def _message_in(item: Item) -> Envelope:
    """The message; raises ProtocolError when it is none, or is not its sender's."""
    if item.damage:
        raise ProtocolError(item.damage)
    message = decode_payload(item.payload)
    if message.sender != item.segment.sender:
        raise ProtocolError(f"{item.segment} holds a message of {message.sender!r}")
    return message


def _remote(error: Exception) -> DimsError:
    """What the asker is told of an error: ours as it is, a handler's own by name."""
    if isinstance(error, DimsError):
        return error
    return RemoteError(_reason(error))


def _reason(error: Exception) -> str:
    return _plain(f"{type(error).__name__}: {error}")


def _plain(text: str) -> str:
    """Without half surrogate pairs, which neither SQLite nor JSON takes, and not without end."""
    return text[:MOST_REASON_CHARS].encode("utf-8", "replace").decode()
