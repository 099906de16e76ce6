"""Durable messages as their sender sees them: MailWriter, bare appends to a file, a Redis list.

Every function is one turn of one contender and returns its figures. `power` says whether a message
counts as sent only once it is on the disk.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import struct
import time
from pathlib import Path

import redis
from ipc_pairs import BODY, Figures, Ready, alone, pair, rate

from dims.ipc.mailbox.files.doorbell import Doorbell
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.writer import MailWriter
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM

SENDER, RECIPIENT = "shop", "store"
ROOM_BYTES = 10**12
WARM_UP = 2
"""Batches before the first that counts: they make the file."""
_LENGTH = struct.Struct(">I")


def message(priority: Priority = Priority.NORMAL) -> Envelope:
    """A fresh message with the usual body."""
    return Envelope(new_id(), "order", Address(SENDER), Address(RECIPIENT), priority, None, BODY)


def mail_writer(root: Path, *, power: bool = False) -> MailWriter:
    """A writer into the mailboxes below `root`, with room for everything."""
    return MailWriter(
        root,
        Writer(SENDER),
        lambda recipient: root / f"{recipient}.bell",
        waits_for_disk=power,
        mailbox_bytes=ROOM_BYTES,
        clock=SYSTEM,
    )


def durable_dims(work: Path, size: int, batches: int, *, power: bool, gathered: bool) -> Figures:
    """`send_many` of `size` messages, or as many single `send` at the same time. Somebody hears
    the bell; nobody reads."""
    root = work / "mail"
    (root / RECIPIENT).mkdir(parents=True)

    async def serve(ready: Ready) -> None:
        Doorbell(root / f"{RECIPIENT}.bell", lambda _: None).open()
        ready()
        await asyncio.get_running_loop().create_future()

    async def drive() -> Figures:
        writer = mail_writer(root, power=power)

        async def send() -> None:
            if gathered:
                await asyncio.gather(*[writer.send(message()) for _ in range(size)])
            else:
                await writer.send_many([message() for _ in range(size)])

        for _ in range(WARM_UP):
            await send()
        began_s = time.monotonic()
        for _ in range(batches):
            await send()
        figures = rate(size * batches, began_s, time.monotonic())
        writer.close()
        return figures

    _settle(power)
    try:
        serves = pair(
            lambda ready: asyncio.run(serve(ready)),
            lambda: asyncio.run(drive()),
            serves_for_ever=True,
        )
        return serves[1]
    finally:
        shutil.rmtree(root)


def durable_bare(work: Path, size: int, batches: int, *, power: bool) -> Figures:
    """JSON with a length before it, joined, one write and at most one fdatasync per batch."""
    path = work / "bare"

    def drive() -> Figures:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def send() -> None:
            payloads = [json.dumps(BODY).encode() for _ in range(size)]
            os.write(
                descriptor,
                b"".join([_LENGTH.pack(len(payload)) + payload for payload in payloads]),
            )
            if power:
                os.fdatasync(descriptor)

        for _ in range(WARM_UP):
            send()
        began_s = time.monotonic()
        for _ in range(batches):
            send()
        return rate(size * batches, began_s, time.monotonic())

    _settle(power)
    try:
        return alone(drive)
    finally:
        path.unlink()


def durable_redis(socket: Path, size: int, batches: int, *, power: bool, gathered: bool) -> Figures:
    """One LPUSH of `size` messages, or as many LPUSH in one pipeline, into a server that appends
    to a file; with `power` it waits for the disk at each."""

    def drive() -> Figures:
        client = redis.Redis(unix_socket_path=str(socket))
        client.config_set("appendfsync", "always" if power else "no")

        def send() -> None:
            payloads = [json.dumps(BODY).encode() for _ in range(size)]
            if not gathered:
                client.lpush("mail", *payloads)
                return
            with client.pipeline(transaction=False) as pipeline:
                for payload in payloads:
                    pipeline.lpush("mail", payload)
                pipeline.execute()

        for _ in range(WARM_UP):
            send()
        began_s = time.monotonic()
        for _ in range(batches):
            send()
        figures = rate(size * batches, began_s, time.monotonic())
        client.delete("mail")
        return figures

    _settle(power)
    return alone(drive)


def _settle(power: bool) -> None:
    """Where the disk is waited for, it must not be busy with what others wrote before."""
    if power:
        os.sync()
