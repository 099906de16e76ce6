"""A disk that is full under the mail: senders are told, readers wait, and all comes right alone."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mail_actors import LAST, READER, numbered

from dims.errors import FullError, StateError
from dims.ipc.links.channel import Channel, dial, listen
from dims.ipc.mailbox.files.doorbell import Doorbell
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.files.writer import MailWriter
from dims.ipc.mailbox.handing.deliveries import Deliveries
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.system.clock import SYSTEM

DISK_BYTES = 4 * 1024 * 1024
WITHIN_S = 30.0
FEW_TRIES = RetryPolicy(attempts=2, first_s=0.01, max_s=0.01)
"""A disk that is full for longer than these take must not turn messages into dead letters."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", path],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    # Lazily: a test that failed may have files open, and is to leave no mount behind either.
    subprocess.run(["/bin/umount", "--lazy", path], check=True)


def fill(disk: Path, but_bytes: int = 0, name: str = "ballast") -> Path:
    """A file that takes all that is free but so much."""
    ballast = disk / name
    free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb", buffering=0) as file:
        file.write(bytes(max(0, free_bytes - but_bytes)))
        with suppress(OSError):
            while not but_bytes:
                file.write(bytes(4096))
    return ballast


class Room:
    """A reader that runs, and writers to it; an `Office`."""

    def __init__(self, mail: Path, *, power: bool, transactions: bool, forwards: bool) -> None:
        self.mail = mail
        self.bell = mail.parent / "bell"
        self.power = power
        self.transactions = transactions
        self.forwards = forwards
        self.done: list[tuple[int, int]] = []
        """Priority and number of each message whose handler ended well."""
        self.tries = 0
        self.sent_out: list[str] = []
        self.out = asyncio.Event()
        self.out.set()
        self.news = asyncio.Event()
        for name in (READER, LAST):
            (mail / name).mkdir(parents=True, exist_ok=True)
        self.writer = self.make_writer("al")
        self.forwarder = self.make_writer(READER)
        self.mailbox = Mailbox(mail / READER, waits_for_disk=power)
        self.deliveries = Deliveries(self.mailbox, self, FEW_TRIES, 16, clock=SYSTEM)
        self.doorbell = Doorbell(self.bell, self.deliveries.look)

    def make_writer(self, name: str, mailbox_bytes: int = 10**9) -> MailWriter:
        return MailWriter(
            self.mail,
            Writer(name),
            lambda reader: self.bell if reader == READER else self.bell.with_name("nobody"),
            waits_for_disk=self.power,
            mailbox_bytes=mailbox_bytes,
            clock=SYSTEM,
        )

    async def send_until_full(self, first: int, most: int = 10_000) -> tuple[list[int], DimsFault]:
        """The numbers that were sent, and why the next one was not."""
        sent: list[int] = []
        for number in range(first, first + most):
            try:
                await self.send(number)
            except (StateError, FullError) as error:
                return sent, error
            sent.append(number)
        raise AssertionError("the disk does not become full")

    async def send(self, number: int) -> None:
        await self.writer.send(numbered("al", number, Priority(number % 2), pad="x" * 2000))

    async def until(self, fact: Callable[[], object], what: str) -> None:
        """Returns when the fact is there."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not fact():
                    self.news.clear()
                    try:
                        await asyncio.wait_for(self.news.wait(), 0.02)
                    except TimeoutError:
                        continue
        except TimeoutError:
            raise AssertionError(f"not within {WITHIN_S:g} s: {what}") from None

    async def close(self) -> None:
        self.doorbell.close()
        await self.deliveries.drain()
        await self.deliveries.close()
        self.writer.close()
        self.forwarder.close()

    def counters(self) -> dict[str, int]:
        counters = self.mailbox.ledger.counters()
        return {name: counters.get(name, 0) for name in ("dead", "quarantined", "duplicates")}

    def knows(self, kind: str) -> bool:  # noqa: ARG002 (an Office)
        return True

    def permits(self, sender: str, kind: str) -> bool:  # noqa: ARG002 (an Office)
        return True

    def may_send(self, recipient: str, kind: str) -> None:  # noqa: ARG002 (an Office)
        return

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        number = delivery.message.body["number"]
        self.tries += 1
        self.news.set()
        if self.transactions:
            async with delivery.transaction() as tx:
                tx[f"n/{number}"] = tx.get(f"n/{number}", 0) + 1
                if self.forwards:
                    tx.send(LAST, "number", {"number": number})
        self.done.append((int(delivery.message.priority), number))
        return None

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        await self.out.wait()
        self.sent_out.append(envelope.id)
        await self.forwarder.send_payload(envelope.recipient, envelope.priority, payload)


DimsFault = StateError | FullError


@asynccontextmanager
async def room(
    mail: Path, *, power: bool = False, transactions: bool = True, forwards: bool = False
) -> AsyncIterator[Room]:
    made = Room(mail, power=power, transactions=transactions, forwards=forwards)
    made.doorbell.open()
    made.deliveries.start()
    try:
        yield made
    finally:
        made.out.set()
        await made.close()


@asynccontextmanager
async def talk(directory: Path) -> AsyncIterator[Callable[[], Awaitable[Envelope]]]:
    """A channel between two ends; what is given asks over it and returns the answer."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(directory / "talk"))
    sock.listen()

    def answers() -> Channel:
        return Channel(
            lambda channel, request: channel.answer(request, {"said": request.body["say"]}),
            lambda *_: None,
            name=Address("there"),
        )

    def asks() -> Channel:
        return Channel(lambda *_: None, lambda *_: None, name=Address("here"))

    server = await listen(sock, answers)
    channel = await dial(str(directory / "talk"), asks)
    try:
        yield lambda: channel.request("say", {"say": 1}, to=Address("there"), timeout_s=5.0)
    finally:
        channel.close()
        server.close()
        await server.wait_closed()


def in_order(done: list[tuple[int, int]]) -> bool:
    """Whether the numbers of each priority rise: then none is there twice, too."""
    lanes: dict[int, list[int]] = {}
    for priority, number in done:
        lanes.setdefault(priority, []).append(number)
    return all(numbers == sorted(set(numbers)) for numbers in lanes.values())


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
@pytest.mark.parametrize("transactions", [False, True], ids=["plain", "transactions"])
async def test_a_full_disk_refuses_and_what_was_sent_comes_once_and_in_order(
    disk: Path, tmp_path: Path, power: bool, transactions: bool
) -> None:
    async with (
        talk(tmp_path) as ask,
        room(disk / "mail", power=power, transactions=transactions) as mail,
    ):
        await mail.send(1)
        await mail.until(lambda: mail.done, "the first message")
        ballast = fill(disk, but_bytes=200_000)
        sent, error = await mail.send_until_full(2)
        assert type(error) is StateError
        assert "disk is full" in str(error)
        assert sent
        assert (await ask()).body == {"said": 1}

        more = fill(disk, name="more")
        await mail.until(lambda: mail.mailbox.ledger.trouble, "the ledger cannot be written")
        for _ in range(50):
            assert (await ask()).body == {"said": 1}

        ballast.unlink()
        more.unlink()
        last = sent[-1] + 1
        await mail.send(last)
        expected = [1, *sent, last]
        await mail.until(lambda: len(mail.done) >= len(expected), "all that was sent")
        assert sorted(number for _, number in mail.done) == expected
        assert in_order(mail.done)
        assert mail.counters() == {"dead": 0, "quarantined": 0, "duplicates": 0}


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
async def test_a_transaction_waits_for_a_full_disk_however_long_and_is_no_dead_letter(
    disk: Path, tmp_path: Path, power: bool
) -> None:
    async with talk(tmp_path) as ask, room(disk / "mail", power=power) as mail:
        filled = asyncio.Event()
        handle = mail.handle

        async def waits(delivery: Delivery) -> Mapping[str, Any] | None:
            await filled.wait()
            return await handle(delivery)

        mail.handle = waits  # type: ignore[method-assign]  # for this message
        await mail.send(2)
        await mail.until(lambda: mail.deliveries.in_hand, "the message is in hand")
        ballast = fill(disk)
        filled.set()
        await mail.until(lambda: mail.tries > FEW_TRIES.attempts, "more tries than a message has")
        assert not mail.done
        assert mail.mailbox.ledger.trouble
        assert (await ask()).body == {"said": 1}

        ballast.unlink()
        await mail.until(lambda: mail.done, "the message")
        await mail.send(4)
        await mail.until(lambda: len(mail.done) == 2, "the next one")
        assert mail.done == [(0, 2), (0, 4)]
        assert mail.mailbox.ledger.value("n/2") == "1"
        assert mail.counters() == {"dead": 0, "quarantined": 0, "duplicates": 0}
        assert not mail.mailbox.ledger.trouble


async def test_what_goes_out_is_not_sent_over_and_over_while_the_ledger_cannot_note_it(
    disk: Path, tmp_path: Path
) -> None:
    """Only the reader's mailbox is on the full disk: the recipient's takes what comes."""
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / READER).symlink_to(disk)
    async with talk(tmp_path) as ask, room(tmp_path / "mail", forwards=True) as mail:
        mail.out.clear()
        for number in range(10):
            await mail.send(number)
        await mail.until(lambda: len(mail.done) == 10, "ten transactions")
        ballast = fill(disk)
        mail.out.set()
        await mail.until(lambda: mail.mailbox.ledger.trouble, "the ledger cannot be written")
        for _ in range(200):
            await ask()
        assert mail.sent_out
        assert len(set(mail.sent_out)) == len(mail.sent_out)

        ballast.unlink()
        await mail.until(lambda: not mail.mailbox.ledger.outgoing(0, 1), "it is noted")
        assert len(set(mail.sent_out)) == len(mail.sent_out) == 10
        last = Mailbox(tmp_path / "mail" / LAST)
        assert len({envelope.id for envelope in last.peek(100)}) == 10
        last.close()


async def test_messages_that_a_transaction_sends_wait_for_room_at_their_recipient(
    disk: Path, tmp_path: Path
) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / LAST).symlink_to(disk)
    async with room(tmp_path / "mail", forwards=True) as mail:
        ballast = fill(disk)
        for number in range(10):
            await mail.send(number)
        await mail.until(lambda: len(mail.done) == 10, "ten transactions")
        await mail.until(lambda: mail.sent_out, "one of them is tried")
        assert len(mail.mailbox.ledger.outgoing(0, 100)) == 10
        ballast.unlink()
        await mail.until(lambda: not mail.mailbox.ledger.outgoing(0, 1), "all went out")
        last = Mailbox(tmp_path / "mail" / LAST)
        assert sorted(envelope.body["number"] for envelope in last.peek(100)) == list(range(10))
        last.close()


async def test_only_a_mailbox_at_its_limit_says_when_to_try_again(tmp_path: Path) -> None:
    async with room(tmp_path / "mail") as mail:
        mail.writer.close()
        mail.writer = mail.make_writer("al", mailbox_bytes=20_000)
        sent, error = await mail.send_until_full(1)
        assert type(error) is FullError
        assert error.retry_after_s > 0
        await mail.until(lambda: len(mail.done) == len(sent), "what was sent")
