"""A mailbox in which much waits: how late urgent messages come, and what opening it costs.

Every function that returns figures is one turn of one contender.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ipc_direct import CLIENT, SERVER, SLOTS, Clerk, have_room, serve_until
from ipc_durable import RECIPIENT, mail_writer, message
from ipc_pairs import BODY, Figures, Ready, alone, latencies, pair
from measures import MB, BenchmarkError, memory

from dims.ipc.links.channel import Channel, dial
from dims.ipc.mailbox.files.doorbell import Doorbell
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.handing.deliveries import Deliveries
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM

FILL_BATCH = 1_000
WARM_UP = 30
RETRY = RetryPolicy(attempts=5, first_s=0.2, max_s=30.0)
"""Urgent messages before the first that counts: they make file, lane and connection."""
PAUSE_S = (0.0004, 0.0012)
"""Between two urgent messages, at random: they must not fall into step with anything."""


class Watch(Clerk):
    """Notes when each urgent message reaches its handler, and ends after `urgent` of them or
    `handled` messages in all."""

    def __init__(self, urgent: int = 0, handled: int = 0) -> None:
        self._urgent, self._all = urgent, handled
        self.late_s: list[float] = []
        self.handled = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """Takes the time from the send to here."""
        self.handled += 1
        if delivery.message.priority is Priority.URGENT:
            self.late_s.append(time.monotonic() - delivery.message.body["t"])
        enough = len(self.late_s) >= self._urgent and self.handled >= self._all
        if enough and not self.over.done():
            self.over.set_result(None)
        return None

    @property
    def lower(self) -> int:
        """Messages handled that were not urgent."""
        return self.handled - len(self.late_s)


def fill(root: Path, count: int, priority: Priority) -> None:
    """Makes the mailbox of RECIPIENT below `root`, with so many messages in it."""
    (root / RECIPIENT).mkdir(parents=True)

    async def write() -> None:
        writer = mail_writer(root)
        for done in range(0, count, FILL_BATCH):
            size = min(FILL_BATCH, count - done)
            await writer.send_many([message(priority) for _ in range(size)])
        writer.close()

    alone(lambda: asyncio.run(write()))


# Urgent messages


def _urgent(send_s: Callable[[], float] = time.monotonic) -> Envelope:
    body = {**BODY, "t": send_s()}
    return Envelope(new_id(), "alarm", CLIENT, Address(RECIPIENT), Priority.URGENT, None, body)


async def _pause() -> None:
    await asyncio.sleep(random.uniform(*PAUSE_S))


def urgent_mailbox(work: Path, waiting: Path | None, low: int, count: int) -> Figures:
    """Durable urgent messages to a reader that works off `low` others, copied from `waiting`, or
    is idle."""
    root = work / "mail"
    if waiting is None:
        (root / RECIPIENT).mkdir(parents=True)
        low = 0
    else:
        shutil.copytree(waiting, root)

    async def serve(ready: Ready) -> tuple[list[float], int]:
        watch = Watch(urgent=count + WARM_UP)
        mailbox = Mailbox(root / RECIPIENT)
        deliveries = Deliveries(mailbox, watch, RETRY, SLOTS, clock=SYSTEM)
        bell = Doorbell(root / f"{RECIPIENT}.bell", deliveries.look)
        bell.open()
        deliveries.start()
        ready()
        await watch.over
        left = low - watch.lower
        bell.close()
        await deliveries.close()
        return watch.late_s, left

    async def drive() -> None:
        writer = mail_writer(root)
        for _ in range(count + WARM_UP):
            await writer.send(_urgent())
            await _pause()
        writer.close()

    try:
        (late_s, left), _ = pair(
            lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive())
        )
    finally:
        shutil.rmtree(root)
    if low and left <= 0:
        raise BenchmarkError("all low messages were handled before the last urgent one came")
    return latencies(late_s[WARM_UP : WARM_UP + count])


def urgent_channel(work: Path, low: int, count: int, *, same_socket: bool = False) -> Figures:
    """Ephemeral urgent messages over a channel to a process that always has `low` others to
    handle; with `same_socket` those come without end, and through the same channel."""
    path = work / "s"

    async def serve(ready: Ready) -> list[float]:
        watch = Watch(urgent=count + WARM_UP)
        over = asyncio.get_running_loop().create_future()
        deliveries = Deliveries(None, watch, RETRY, SLOTS, clock=SYSTEM)

        def offer_low() -> None:
            # Each that is done is followed by another: else they would not last.
            deliveries.offer(message(Priority.LOW), offer_low)

        def came(_channel: Channel, envelope: Envelope) -> None:
            deliveries.offer(envelope, lambda: None)

        def say_enough(channel: Channel) -> None:
            watch.over.add_done_callback(
                lambda _: channel.say("enough", {}, priority=Priority.URGENT)
            )

        def make() -> Channel:
            return Channel(came, lambda *_: over.set_result(None), name=SERVER, on_made=say_enough)

        for _ in range(0 if same_socket else low):
            offer_low()
        await serve_until(ready, path, make, over)
        await deliveries.close()
        return watch.late_s

    async def drive() -> None:
        loop = asyncio.get_running_loop()
        enough = loop.create_future()
        made = partial(Channel, lambda *_: enough.set_result(None), lambda *_: None, name=CLIENT)
        channel = await dial(str(path), made)

        async def flood() -> None:
            while channel.is_open:
                channel.say("order", BODY, to=SERVER, priority=Priority.LOW)
                await have_room(channel)

        flooding = loop.create_task(flood()) if same_socket else None
        for _ in range(count + WARM_UP):
            await _pause()
            channel.post(_urgent())
        await enough
        if flooding is not None:
            flooding.cancel()
        channel.abort()

    late_s, _ = pair(lambda ready: asyncio.run(serve(ready)), lambda: asyncio.run(drive()))
    return latencies(late_s[WARM_UP : WARM_UP + count])


# Depth


def opening(root: Path, times: int) -> Figures:
    """From nothing to the first message in hand, each time in a fresh process."""

    def once() -> float:
        began_s = time.perf_counter()
        mailbox = Mailbox(root / RECIPIENT)
        item = next(iter(mailbox.lanes)).next()
        took_s = time.perf_counter() - began_s
        assert item is not None
        mailbox.close()
        return took_s

    return {"open_ms": [alone(once) * 1000 for _ in range(times)]}


def reading(root: Path, count: int) -> Figures:
    """Unshared memory of a reader that has handled the first `count` messages."""

    async def read() -> float:
        watch = Watch(handled=count)
        deliveries = Deliveries(Mailbox(root / RECIPIENT), watch, RETRY, SLOTS, clock=SYSTEM)
        deliveries.start()
        await watch.over
        await deliveries.drain()
        unshared = memory([os.getpid()]).unshared
        await deliveries.close()
        return unshared / MB

    return {"unshared_mb": [alone(lambda: asyncio.run(read()))]}


def reading_copy(template: Path, work: Path, count: int) -> Figures:
    """As `reading`, of a copy: for a mailbox that is empty afterwards."""
    root = work / "copy"
    shutil.copytree(template, root)
    try:
        return reading(root, count)
    finally:
        shutil.rmtree(root)
