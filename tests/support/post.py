"""Mail for tests: letters, segment files as ended or living writers leave them, and an office."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from usual import RETRY

from dims.errors import DimsError, RefusedError
from dims.ipc.mailbox.files.file_names import SegmentName, Writer
from dims.ipc.mailbox.files.lane import Item, Lane
from dims.ipc.mailbox.files.ledger import Ledger
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.files.records import HEAD, pack
from dims.ipc.mailbox.handing.deliveries import Deliveries
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Address, Envelope, MessageId, Priority
from dims.ipc.wire.framing import decode_payload, encode_payload
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM, Clock

LIMIT_S = 10.0
LAST = "last"
NORMAL = Priority.NORMAL
Handle = Callable[[Delivery], Awaitable[Mapping[str, Any] | None]]


def letter(
    n: int = 0,
    kind: str = "n",
    *,
    sender: str = "a",
    priority: Priority = NORMAL,
    id_: str = "",
    **more: Any,
) -> Envelope:
    """A message to `me` whose body is its number."""
    return Envelope(
        MessageId(id_ or new_id()),
        kind,
        Address(sender),
        Address("me"),
        priority,
        body={"n": n},
        **more,
    )


def segment(
    directory: Path,
    number: int,
    *payloads: bytes,
    writer: str = "a",
    priority: Priority = NORMAL,
    tail: bytes = b"",
    head: bytes = HEAD,
) -> SegmentName:
    """A file that nobody adds to any more."""
    name = SegmentName(Writer(writer), priority, number, "0000")
    directory.mkdir(exist_ok=True)
    (directory / str(name)).write_bytes(head + b"".join(map(pack, payloads)) + tail)
    return name


def put(directory: Path, *letters: Envelope, number: int = 1, writer: str = "") -> SegmentName:
    """The letters, all of one sender and priority, in one finished file."""
    first = letters[0]
    return segment(
        directory,
        number,
        *map(encode_payload, letters),
        writer=writer or first.sender,
        priority=first.priority,
    )


def taken(lane: Lane, ledger: Ledger) -> list[Item]:
    """All items of a lane, each settled before the next."""
    items = []
    while (item := lane.next()) is not None:
        items.append(item)
        ledger.settle(str(item.segment), item.end, None)
        lane.settle(item)
    return items


def all_of(mailbox: Mailbox) -> list[Item]:
    """All items of a mailbox, each settled before the next."""
    items = []
    for lane in tuple(mailbox.lanes):
        while (item := lane.next()) is not None:
            items.append(item)
            mailbox.settle(item, None)
    return items


def killed(directory: Path, name: str) -> Path:
    """What a reader that is killed at this moment leaves."""
    return Path(shutil.copytree(directory, directory.parent / name))


class Clerk:
    """An office whose handler is given; notes what came and what went out."""

    def __init__(self, handle: Handle | None = None) -> None:
        self.handle_it = handle
        self.came: list[Delivery] = []
        self.done: list[int] = []
        self.sent: list[Envelope] = []
        self.payloads: list[bytes] = []
        self.refusing: set[str] = set()
        self.strangers: set[str] = set()
        self.unknown: set[str] = set()
        self._news = asyncio.Event()

    @property
    def numbers(self) -> list[int]:
        """The numbers of what came, in order, without the last."""
        return [one.message.body["n"] for one in self.came if one.message.kind != LAST]

    def tell(self) -> None:
        """Something happened: all facts are looked at again."""
        self._news.set()

    async def until(self, fact: Callable[[], object]) -> None:
        """Returns when the fact is true; looks after each thing that happens here."""
        async with asyncio.timeout(LIMIT_S):
            while not fact():
                self._news.clear()
                await self._news.wait()

    def has_done(self, count: int) -> bool:
        """Whether so many messages are done with."""
        return len(self.done) == count

    async def until_last(self) -> None:
        """Returns when the handler has the letter of kind LAST."""
        await self.until(lambda: any(one.message.kind == LAST for one in self.came))

    def knows(self, kind: str) -> bool:
        return kind not in self.unknown

    def permits(self, sender: str, kind: str) -> bool:
        return kind == LAST or sender not in self.strangers

    def may_send(self, recipient: str, kind: str) -> None:
        if recipient in self.strangers:
            raise RefusedError(f"no grant for {kind!r} to {recipient}")

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        self.came.append(delivery)
        self.tell()
        try:
            if self.handle_it is None or delivery.message.kind == LAST:
                return None
            return await self.handle_it(delivery)
        finally:
            self.done.append(delivery.message.body["n"])
            self.tell()

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        if envelope.recipient in self.refusing:
            raise RefusedError(f"{envelope.recipient} refuses")
        assert decode_payload(payload) == envelope
        self.sent.append(envelope)
        self.payloads.append(payload)
        self.tell()


@asynccontextmanager
async def working(
    directory: Path,
    handle: Handle | None = None,
    *,
    attempts: int = 3,
    slots: int = 4,
    pause_s: float = 0.0,
    clock: Clock = SYSTEM,
) -> AsyncIterator[tuple[Deliveries, Clerk, Mailbox]]:
    """Deliveries out of a mailbox, not started yet; retries follow after `pause_s`."""
    mailbox, clerk = Mailbox(directory), Clerk(handle)
    deliveries = Deliveries(
        mailbox, clerk, RetryPolicy(attempts, pause_s, pause_s), slots, clock=clock
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            yield deliveries, clerk, mailbox
    finally:
        await deliveries.close()


@asynccontextmanager
async def offering(
    handle: Handle | None = None, slots: int = 4
) -> AsyncIterator[tuple[Deliveries, Clerk]]:
    """Deliveries without any mailbox."""
    clerk = Clerk(handle)
    deliveries = Deliveries(None, clerk, RETRY, slots, clock=SYSTEM)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield deliveries, clerk
    finally:
        await deliveries.close()


class Asker:
    """Asks, and holds the answers by the number of the request."""

    def __init__(self, deliveries: Deliveries) -> None:
        self.deliveries = deliveries
        self.answers: dict[int, asyncio.Future[Mapping[str, Any] | DimsError]] = {}

    def ask(self, n: int, **more: Any) -> Envelope:
        request = letter(n, "ask", wants_reply=True, **more)
        answer = asyncio.get_running_loop().create_future()
        self.answers[n] = answer
        self.deliveries.ask(request, answer.set_result)
        return request
