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

from ground import Address, know_server
from telethon.errors import SecurityError
from telethon.network import ConnectionTcpFull, MTProtoPlainSender, authenticator

AT_ONCE = 8
"""Processes: as many as DIMS starts bots at once (starts_at_once), so that both get the same part
of a machine that others use as well."""


def seconds(address: Address, count: int) -> float:
    """How long `count` exchanges take, each on a connection of its own."""
    know_server(address)
    with ProcessPoolExecutor(
        AT_ONCE,
        multiprocessing.get_context("fork"),
        # What this process does on TERM is not theirs to do.
        initializer=signal.signal,
        initargs=(signal.SIGTERM, signal.SIG_DFL),
    ) as pool:
        # The first one in a process fills its caches.
        list(pool.map(_exchange_in_loop, [address] * AT_ONCE * 2))
        began_s = time.monotonic()
        list(pool.map(_exchange_in_loop, [address] * count))
        return time.monotonic() - began_s


def _exchange_in_loop(address: Address) -> None:
    asyncio.run(_exchange(address))


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
