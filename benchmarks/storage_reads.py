"""A user read by key: through `bot.db`, and by each layer below it alone.

Contenders alternate in slices, in one process and one event loop.
"""

# ruff: noqa: S608 (statements are put together from names of our own)

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial

import asyncpg
from ipc_pairs import Figures, Player, alone, latencies
from storage_ground import WITHIN_S, Home, bare, now_s

from dims.storage.bot.database import Database
from dims.storage.bot.repositories.repository import columns
from dims.storage.bot.repositories.users import User
from dims.storage.names import literal

DIMS, BARE, WALLED = "bot.db", "bare asyncpg, plain table", "bare asyncpg as the bot"
PARAMETER, NAMELESS = "bare as the bot, bot_id = $1", "bare as the bot, bot_id not named"
RAW, POOL = "bot.db.fetchrow", "asyncpg's pool, plain table"
SESSION, WRITE = "SQLAlchemy session, one read", "bot.tx(), one write"
BARE_WRITE = "bare asyncpg transaction, plain table, one write"
SLICE = 20
WARM_SLICES = 2
"""Slices before the first that counts: statements are planned five times for what they are given
before PostgreSQL thinks of a plan for all (manual, PREPARE)."""

Way = Callable[[int], Awaitable[object]]
_COLUMNS = columns(User)
_BY_KEY = f"SELECT {_COLUMNS} FROM {{}} WHERE bot_id = $1 AND user_id = $2"


class Readers:
    """Everything that reads one user of one bot, with a connection of its own each."""

    def __init__(self, home: Home, number: int) -> None:
        self.home = home
        self.number = number
        self.bot = home.bots[number]
        self._stack = AsyncExitStack()

    async def database(self) -> Database:
        """`bot.db` with one connection."""
        database = self.home.database(self.number)
        self._stack.push_async_callback(database.close, WITHIN_S)
        return database

    async def connection(self, *, as_bot: bool) -> asyncpg.Connection:
        """A bare connection of the bot, or of the owner."""
        address = self.home.bot(self.number) if as_bot else self.home.owner
        connection = await bare(address)
        self._stack.push_async_callback(connection.close)
        return connection

    async def pool(self) -> asyncpg.Pool:
        """asyncpg's own."""
        address = self.home.owner
        return await self._stack.enter_async_context(
            asyncpg.create_pool(
                host=address.host, port=address.port, user=address.user,
                password=address.password, database=address.database, min_size=1, max_size=1,
            )
        )  # fmt: skip

    async def reads(self) -> dict[str, Way]:
        """What the limit is about, and what is between the two."""
        database = await self.database()
        plain = await self.connection(as_bot=False)
        walled, parameter, nameless = [await self.connection(as_bot=True) for _ in range(3)]
        written = _BY_KEY.replace("$1", literal(self.bot)).replace("$2", "$1")
        without = f"SELECT {_COLUMNS} FROM dims.users WHERE user_id = $1"
        return {
            DIMS: database.users.get,
            BARE: partial(plain.fetchrow, _BY_KEY.format("plain.users"), self.bot),
            WALLED: partial(walled.fetchrow, written.format("dims.users")),
            PARAMETER: partial(parameter.fetchrow, _BY_KEY.format("dims.users"), self.bot),
            NAMELESS: partial(nameless.fetchrow, without),
        }

    async def reader(self, way: str) -> Way:
        """DIMS or BARE alone."""
        if way == DIMS:
            return (await self.database()).users.get
        plain = await self.connection(as_bot=False)
        return partial(plain.fetchrow, _BY_KEY.format("plain.users"), self.bot)

    async def ways(self) -> dict[str, Way]:
        """The other ways to the same user, and to change them."""
        # Only here: workers do without until a bot asks for a session.
        from sqlalchemy import select  # noqa: PLC0415

        from dims.storage.admin.schema import users  # noqa: PLC0415

        database, raw, writer, sessions = [await self.database() for _ in range(4)]
        pool = await self.pool()
        plain = await self.connection(as_bot=False)
        own = f"SELECT {_COLUMNS} FROM dims.users WHERE user_id = $1"
        change = "UPDATE plain.users SET has_blocked = NOT has_blocked WHERE bot_id = $1 AND "

        async def pooled(user_id: int) -> object:
            async with pool.acquire() as connection:
                return await connection.fetchrow(_BY_KEY.format("plain.users"), self.bot, user_id)

        async def in_session(user_id: int) -> object:
            async with sessions.session() as session:
                wanted = select(users).where(users.c.user_id == user_id)
                return (await session.execute(wanted)).one()

        async def write(user_id: int) -> None:
            async with writer.tx() as tx:
                await tx.users.save(user_id, has_blocked=True)

        async def bare_write(user_id: int) -> None:
            async with plain.transaction():
                await plain.execute(f"{change} user_id = $2", self.bot, user_id)

        return {
            DIMS: database.users.get,
            RAW: partial(raw.fetchrow, own),
            POOL: pooled,
            SESSION: in_session,
            WRITE: write,
            BARE_WRITE: bare_write,
        }

    async def close(self) -> None:
        """Closes all."""
        await self._stack.aclose()


def point_reads(home: Home, count: int) -> Mapping[str, Figures]:
    """`count` reads of each contender of the limit."""
    return _alternating(home, count, Readers.reads)


def other_ways(home: Home, count: int) -> Mapping[str, Figures]:
    """`count` reads or writes of each other way."""
    return _alternating(home, count, Readers.ways)


def _alternating(
    home: Home, count: int, make: Callable[[Readers], Awaitable[dict[str, Way]]]
) -> Mapping[str, Figures]:
    async def measured() -> Mapping[str, Figures]:
        readers = Readers(home, len(home.bots) // 2)
        try:
            ways = await make(readers)
            await keep_apart(ways, home)
            found = await in_slices(ways, count)
        finally:
            await readers.close()
        return {name: latencies(values) for name, values in found.items()}

    found: Mapping[str, Figures] = alone(lambda: asyncio.run(measured()))
    return found


async def in_slices(ways: Mapping[str, Way], count: int) -> dict[str, list[float]]:
    """What each of `count` calls took, in seconds."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-WARM_SLICES, count // SLICE):
        for name, way in ways.items():
            for user_id in range(1, SLICE + 1):
                began_s = now_s()
                await way(user_id)
                ended_s = now_s()
                if number >= 0:
                    took[name].append(ended_s - began_s)
    return took


async def keep_apart(ways: Mapping[str, Way], home: Home) -> None:
    """Puts the server's processes on the last core, away from who asks, where that is pinned, too:
    whether two share a core makes more of a difference than what is measured."""
    for way in ways.values():
        await way(1)
    if not Player.pinned:
        return
    admin = await bare(home.owner)
    pids = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'client%'")
    await admin.close()
    core = {(os.cpu_count() or 1) - 1}
    for row in pids:
        with suppress(ProcessLookupError):
            os.sched_setaffinity(row["pid"], core)


@contextmanager
def unpinned() -> Iterator[None]:
    """Processes that are begun inside this block choose their cores."""
    was, Player.pinned = Player.pinned, False
    try:
        yield
    finally:
        Player.pinned = was


def crowd(home: Home, workers: int, per_worker_s: float, lasts_s: float, way: str) -> Figures:
    """What reads take while `workers` processes, each its own bot, read at the same time at their
    rate, evenly; `way` is DIMS or BARE."""

    async def work(number: int, begin_s: float) -> list[float]:
        readers = Readers(home, number)
        read = await readers.reader(way)
        await read(1)
        took: list[float] = []
        step_s = 1 / per_worker_s
        # Each has its own phase: fleets do not read in step.
        at_s = begin_s + step_s * number / workers
        while at_s < begin_s + lasts_s:
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            began_s = now_s()
            await read(1 + len(took) % SLICE)
            took.append(now_s() - began_s)
            at_s += step_s
        await readers.close()
        return took

    begin_s = time.monotonic() + 1.0 + workers * 0.05
    until_s = begin_s + lasts_s + WITHIN_S

    def part(number: int) -> Callable[[Callable[[], None]], list[float]]:
        return lambda _: asyncio.run(work(number, begin_s))

    # So many share the cores as the kernel likes.
    with unpinned():
        players = [Player(part(number), number) for number in range(workers)]
    try:
        took = [seconds for player in players for seconds in player.hear(until_s)]
    finally:
        for player in players:
            player.end()
    return latencies(took) | {"per_s": [len(took) / lasts_s]}
