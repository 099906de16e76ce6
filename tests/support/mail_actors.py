"""Senders and readers of durable mail as real processes, and a campaign of `kill -9` against them.

An actor is forked without exec from whoever has imported this module, so that it works within
milliseconds. A sender writes down which numbers it may send before it sends, and which it has sent
only after `send` has returned: what is lost or comes twice shows whenever the process dies.
"""

from __future__ import annotations

import asyncio
import json
import logging
import mmap
import os
import random
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from fleet import LOOK_S, until
from usual import RETRY

from dims.ipc.mailbox.files.doorbell import Doorbell, Ringer
from dims.ipc.mailbox.files.file_names import Writer, parse_name
from dims.ipc.mailbox.files.mailbox import LEDGER, Mailbox
from dims.ipc.mailbox.files.writer import MailWriter
from dims.ipc.mailbox.handing.deliveries import Deliveries
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM
from dims.system.prctl import end_with_parent

SENDERS = ("al", "dora")
READER, LAST = "bob", "carol"
"""`READER` handles what the senders send, and forwards each message to `LAST`."""
ACTORS = (*SENDERS, READER, LAST)
PRIORITIES = tuple(Priority)
AHEAD = 256
"""A sender waits while so many numbers of a lane are not through to the last reader."""
PROMISE = 64
"""Numbers that a sender writes down as sent in one go."""
ATTEMPTS = 1_000
"""A reader that is killed blames the message it had in hand. Here it never is the message."""
ALIVE_S = 1.0
"""Within this, whoever is to be killed after so many messages gets that far or is killed anyway."""

_ACK = struct.Struct(">QB")
_PROMISE = struct.Struct(">Q")
_PORTIONS = [(5, 1, 1), (3, 2, 16), (2, 2, 48)]
"""Weight, fewest and most messages: single, at the same time, by `send_many`."""


def fork(work: Callable[[], object]) -> int:
    """The pid of a child that does `work` and exits with 0, or with 70 after an exception."""
    # A TERM that comes before the child heeds it must wait, and not end it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return pid
    code = 70
    try:
        end_with_parent()
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Counters:
    """Numbers that the forked actors change and their parent reads: one writer each."""

    def __init__(self) -> None:
        self._cells = memoryview(mmap.mmap(-1, 4096)).cast("Q")
        self._index: dict[str, int] = {}
        for actor in ACTORS:
            self._index[actor] = len(self._index)
        for reader in (READER, LAST):
            for sender in SENDERS:
                for priority in PRIORITIES:
                    self._index[f"{reader}/{sender}/{int(priority)}"] = len(self._index)

    def __getitem__(self, name: str) -> int:
        return self._cells[self._index[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._cells[self._index[name]] = value


@dataclass(frozen=True)
class Place:
    """Where the actors meet. `counters` holds by actor what it has done, and by
    `READER/SENDER/PRIORITY` the last number that a reader has handled."""

    root: Path
    power: bool
    counters: Counters = field(default_factory=Counters)

    @property
    def mail(self) -> Path:
        return self.root / "mail"

    def make(self) -> Place:
        """Makes the directories; the place itself."""
        for name in (READER, LAST):
            (self.mail / name).mkdir(parents=True, exist_ok=True)
        return self

    def bell(self, reader: str) -> Path:
        return self.root / f"{reader}.bell"

    def writer(self, name: str) -> MailWriter:
        return MailWriter(
            self.mail,
            Writer(name),
            self.bell,
            waits_for_disk=self.power,
            mailbox_bytes=10**10,
            clock=SYSTEM,
        )

    def ring(self, reader: str) -> None:
        """Lets a reader look at all its files."""
        ringer = Ringer(self.bell)
        ringer.ring(reader, "")
        ringer.close()

    def waiting(self, reader: str) -> list[str]:
        """The segment files that a reader has not done with."""
        return [p.name for p in (self.mail / reader).iterdir() if parse_name(p.name)]

    def acknowledged(self, sender: str) -> list[tuple[int, int]]:
        """Number and priority of all messages of which `send` has returned."""
        return list(_whole(self.root / f"{sender}.acks", _ACK))

    def promised(self, sender: str) -> int:
        """The highest number that a sender may have sent."""
        return max((n for (n,) in _whole(self.root / f"{sender}.may", _PROMISE)), default=0)


def _whole(path: Path, record: struct.Struct) -> Iterator[tuple[Any, ...]]:
    data = path.read_bytes() if path.exists() else b""
    return record.iter_unpack(data[: len(data) // record.size * record.size])


def numbered(sender: str, number: int, priority: Priority, **body: Any) -> Envelope:
    """A message to the reader that bears a number."""
    return Envelope(
        new_id(),
        "number",
        Address(sender),
        Address(READER),
        priority,
        body={"sender": sender, "number": number, **body},
    )


def stopped_by_term() -> asyncio.Event:
    """Set when TERM comes."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return stop


# Senders


class Sender:
    """Sends numbers until TERM comes, or until it has sent `limit` of them."""

    def __init__(self, place: Place, name: str, seed: str, limit: int | None = None) -> None:
        self._place = place
        self._name = name
        self._draw = random.Random(seed)
        self._limit = limit
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._may = os.open(place.root / f"{name}.may", flags, 0o600)
        self._acks = os.open(place.root / f"{name}.acks", flags, 0o600)
        self._last = self._promised = place.promised(name)
        self._sent: dict[int, int] = {}

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        stop = stopped_by_term()
        writer = self._place.writer(self._name)
        first = self._last
        while not stop.is_set() and (self._limit is None or self._last - first < self._limit):
            if self._is_ahead():
                await asyncio.sleep(0.001)
                continue
            await self._send_some(writer)
        writer.close()

    def _is_ahead(self) -> bool:
        counters = self._place.counters
        return any(
            number > counters[f"{LAST}/{self._name}/{priority}"] + AHEAD
            for priority, number in self._sent.items()
        )

    async def _send_some(self, writer: MailWriter) -> None:
        draw = self._draw
        (_, fewest, most), way = draw.choices(
            list(zip(_PORTIONS, range(3), strict=True)), [weight for weight, _, _ in _PORTIONS]
        )[0]
        envelopes = [self._next() for _ in range(draw.randint(fewest, most))]
        if way == 2:
            await writer.send_many(envelopes)
            self._acknowledge(*envelopes)
        else:
            await asyncio.gather(*[self._send(writer, envelope) for envelope in envelopes])

    async def _send(self, writer: MailWriter, envelope: Envelope) -> None:
        await writer.send(envelope)
        self._acknowledge(envelope)

    def _next(self) -> Envelope:
        draw = self._draw
        self._last += 1
        if self._last > self._promised:
            self._promised = self._last + PROMISE
            os.write(self._may, _PROMISE.pack(self._promised))
        size = draw.randrange(30_000) if draw.random() < 0.03 else draw.randrange(40)
        return numbered(self._name, self._last, draw.choice(PRIORITIES), pad="x" * size)

    def _acknowledge(self, *envelopes: Envelope) -> None:
        for envelope in envelopes:
            number, priority = envelope.body["number"], int(envelope.priority)
            os.write(self._acks, _ACK.pack(number, priority))
            self._sent[priority] = number
        self._place.counters[self._name] += len(envelopes)


# Readers


class Reader:
    """Notes each number in the transaction of its message, and forwards it if asked to; an
    `Office`."""

    def __init__(self, place: Place, name: str, forward_to: str | None) -> None:
        self._place = place
        self._name = name
        self._forward_to = forward_to
        self._writer = place.writer(name) if forward_to else None

    async def run(self) -> None:
        stop = stopped_by_term()
        place = self._place
        mailbox = Mailbox(place.mail / self._name, waits_for_disk=place.power)
        deliveries = Deliveries(mailbox, self, replace(RETRY, attempts=ATTEMPTS), 16, clock=SYSTEM)
        bell = Doorbell(place.bell(self._name), deliveries.look)
        bell.open()
        deliveries.start()
        await stop.wait()
        while mailbox.ledger.outgoing(0, 1):  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(LOOK_S)
        bell.close()
        await deliveries.drain()
        await deliveries.close()
        if self._writer is not None:
            self._writer.close()

    def knows(self, kind: str) -> bool:
        return kind == "number"

    def permits(self, sender: str, kind: str) -> bool:  # noqa: ARG002 (an Office)
        return True

    def may_send(self, recipient: str, kind: str) -> None:  # noqa: ARG002 (an Office)
        return

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        message = delivery.message
        sender, number, priority = message.body["sender"], message.body["number"], message.priority
        lane = f"{sender}/{int(priority)}"
        async with delivery.transaction() as tx:
            tx[f"n/{sender}/{number}"] = tx.get(f"n/{sender}/{number}", 0) + 1
            if number <= tx.get(f"last/{lane}", 0):
                tx["disorder"] = [*tx.get("disorder", []), [lane, number, tx[f"last/{lane}"]]]
            tx[f"last/{lane}"] = number
            if self._forward_to is not None:
                body = {"sender": sender, "number": number}
                tx.send(self._forward_to, "number", body, priority=priority)
        self._place.counters[self._name] += 1
        self._place.counters[f"{self._name}/{lane}"] = number
        return None

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        assert self._writer is not None
        await self._writer.send_payload(envelope.recipient, envelope.priority, payload)


# Campaign


@dataclass
class Verdict:
    """What a campaign did and what came of it; `faults` is empty when every promise was kept."""

    durability: str
    seed: int
    rounds: int = 0
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    handled: int = 0
    unacknowledged_handled: int = 0
    forwarded: int = 0
    duplicates_recognised: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    not_forwarded: int = 0
    dead: int = 0
    quarantined: int = 0
    left_behind: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, Any]:
        names = ("lost", "twice", "out_of_order", "not_forwarded", "dead", "quarantined")
        return {name: value for name in (*names, "left_behind") if (value := getattr(self, name))}

    @property
    def json(self) -> dict[str, Any]:
        return asdict(self)


class Campaign:
    """Kills actors and starts them again. To be closed, whatever happens."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place.make()
        self._seed = seed
        self._draw = random.Random(seed)
        self._pids: dict[str, int] = {}
        self._starts: Counter[str] = Counter()
        self._verdict = Verdict("power" if place.power else "process", seed)

    def run(self, rounds: int, say: Callable[[str], None] = lambda _: None) -> Verdict:
        """All rounds, then the rest of the mail, then the count."""
        began_s = time.monotonic()
        for actor in ACTORS:
            self._start(actor)
        for number in range(1, rounds + 1):
            self._round()
            if number % 100 == 0:
                say(f"{number} rounds, {time.monotonic() - began_s:.1f} s")
        self._drain()
        self._count()
        self._verdict.rounds = rounds
        self._verdict.seconds = round(time.monotonic() - began_s, 1)
        return self._verdict

    def close(self) -> None:
        """Ends all actors."""
        for actor in tuple(self._pids):
            self._end(actor, signal.SIGKILL)

    def _start(self, actor: str) -> None:
        self._starts[actor] += 1
        seed = f"{self._seed}/{actor}/{self._starts[actor]}"
        self._pids[actor] = fork(lambda: act(self.place, actor, seed))

    def _end(self, actor: str, number: signal.Signals) -> int:
        pid = self._pids.pop(actor)
        os.kill(pid, number)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _round(self) -> None:
        draw = self._draw
        victim = draw.choices(ACTORS, (3, 3, 5, 2))[0]
        if draw.random() < 0.5:
            self._after(victim, draw.randint(1, 60))
        else:
            time.sleep(draw.uniform(0, 0.05))
        code = self._end(victim, signal.SIGKILL)
        assert code == -signal.SIGKILL, f"{victim} ended by itself with {code}"
        kills = self._verdict.kills
        kills[victim] = kills.get(victim, 0) + 1
        self._start(victim)

    def _after(self, actor: str, messages: int) -> None:
        counters, end_s = self.place.counters, time.monotonic() + ALIVE_S
        goal = counters[actor] + messages
        while counters[actor] < goal and time.monotonic() < end_s:
            time.sleep(0.0005)

    def _drain(self) -> None:
        for actors, reader in ((SENDERS, READER), ((READER,), LAST)):
            for actor in actors:
                code = self._end(actor, signal.SIGTERM)
                assert code == 0, f"{actor} ended with {code}"
            until(partial(self._is_empty, reader), f"{reader} has handled all mail")
        assert self._end(LAST, signal.SIGTERM) == 0

    def _is_empty(self, reader: str) -> bool:
        self.place.ring(reader)
        return not self.place.waiting(reader)

    def _count(self) -> None:
        verdict, place = self._verdict, self.place
        sent = {(name, n) for name in SENDERS for n, _ in place.acknowledged(name)}
        effects = {reader: _effects(place, reader) for reader in (READER, LAST)}
        handled, forwarded = (_numbers(effects[reader]) for reader in (READER, LAST))
        verdict.acknowledged = len(sent)
        verdict.handled, verdict.forwarded = len(handled), len(forwarded)
        verdict.lost = len(sent - handled.keys())
        verdict.unacknowledged_handled = len(handled.keys() - sent)
        verdict.not_forwarded = len(handled.keys() ^ forwarded.keys())
        for values in effects.values():
            verdict.twice += sum(1 for times in _numbers(values).values() if times > 1)
            verdict.out_of_order += len(values.get("disorder", []))
            verdict.dead += values[":dead"]
            verdict.quarantined += values[":quarantined"]
            verdict.duplicates_recognised += values[":duplicates"]
        # A killed reader's lock file and bell are taken over by the next one.
        files = (path for reader in (READER, LAST) for path in (place.mail / reader).iterdir())
        verdict.left_behind = sorted(p.name for p in files if not p.name.startswith(LEDGER))


def act(place: Place, actor: str, seed: str) -> None:
    """The whole life of one actor."""
    logging.getLogger().handlers.clear()
    logging.basicConfig(filename=place.root / f"{actor}.log", force=True)
    if actor in SENDERS:
        Sender(place, actor, seed).run()
    else:
        asyncio.run(_read(place, actor))


async def _read(place: Place, actor: str) -> None:
    await Reader(place, actor, LAST if actor == READER else None).run()


def _effects(place: Place, reader: str) -> dict[str, Any]:
    mailbox = Mailbox(place.mail / reader)
    try:
        values = {key: json.loads(raw) for key, raw in mailbox.ledger.values().items()}
        counters = mailbox.ledger.counters()
        values |= {f":{name}": counters.get(name, 0) for name in ("quarantined", "duplicates")}
        return values | {":dead": mailbox.ledger.dead_count()}
    finally:
        mailbox.close()


def _numbers(values: Mapping[str, Any]) -> dict[tuple[str, int], int]:
    found = {}
    for key, times in values.items():
        if key.startswith("n/"):
            _, sender, number = key.split("/")
            found[sender, int(number)] = times
    return found
