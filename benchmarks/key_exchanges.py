"""The floor of a cold start: key exchanges alone, as a login needs them.

Telethon's own exchange against a sandbox, in processes that have imported everything before.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import multiprocessing
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from ground import Address, Sandbox, know_server
from measures import cpu_s
from telethon.errors import SecurityError
from telethon.network import ConnectionTcpFull, MTProtoPlainSender, authenticator

AT_ONCE = 8
"""Processes: as many as DIMS starts bots at once (starts_at_once), so that both get the same part
of a machine that others use as well."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What exchanges took in all: from the first to the last, and processor time of both sides, in
    seconds."""

    took_s: float
    cpu_s: float

    def __add__(self, other: Floor) -> Floor:
        return Floor(self.took_s + other.took_s, self.cpu_s + other.cpu_s)


def measure(sandbox: Sandbox, count: int) -> Floor:
    """What `count` exchanges take, each on a connection of its own."""
    know_server(sandbox.address)
    with ProcessPoolExecutor(
        AT_ONCE,
        multiprocessing.get_context("fork"),
        # What this process does on TERM is not theirs to do.
        initializer=signal.signal,
        initargs=(signal.SIGTERM, signal.SIG_DFL),
    ) as pool:
        # The first one in a process fills its caches.
        list(pool.map(_exchange_in_loop, [sandbox.address] * AT_ONCE * 2))
        before_s, began_s = cpu_s([sandbox.pid]), time.monotonic()
        clients_s = sum(pool.map(_exchange_in_loop, [sandbox.address] * count))
        took_s = time.monotonic() - began_s
        return Floor(took_s, clients_s + cpu_s([sandbox.pid]) - before_s)


def _exchange_in_loop(address: Address) -> float:
    """Seconds of processor time."""
    before_s = time.process_time()
    asyncio.run(_exchange(address))
    return time.process_time() - before_s


async def _exchange(address: Address) -> None:
    loggers = collections.defaultdict(lambda: logging.getLogger("telethon"))
    connection = ConnectionTcpFull(address.host, address.port, address.dc, loggers=loggers)
    await connection.connect()
    try:
        while True:
            try:
                await authenticator.do_authentication(
                    MTProtoPlainSender(connection, loggers=loggers)
                )
            except (SecurityError, AssertionError):
                # 1 in 256 begins with a zero and is made again, in a login as well.
                continue
            return
    finally:
        await connection.disconnect()
