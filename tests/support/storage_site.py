"""A migrated database, bots in it with roles of their own, and their `bot.db`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import asyncpg
from embedded import USERS, Service, place_for
from fleet import LOOK_S, WITHIN_S
from pgbouncer import pgbouncer, verifiers
from roles import put_bot
from usual import pool_limits

from dims.addresses import PostgresAddress
from dims.migrations.runner import Migrations
from dims.storage.bot.database import Database
from dims.storage.connections.connecting import connect
from dims.storage.connections.pool import Pool
from dims.storage.names import Shape
from dims.system.clock import SYSTEM

SHAPE = Shape(partitions=4)
T = TypeVar("T")


class StorageSite:
    """Where the database is, and who may come in."""

    def __init__(self, address: PostgresAddress, uid: int) -> None:
        self.owner = address
        self.uid = uid
        self._made = 0

    async def admin(self) -> asyncpg.Connection:
        """A connection of the superuser, who sees all rows."""
        return await connect(self.owner, timeout_s=WITHIN_S, application_name="test")

    async def new_bot(self) -> tuple[str, PostgresAddress]:
        """A bot that nobody has used yet, and its way in."""
        self._made += 1
        bot_id = f"bot{self._made}"
        admin = await self.admin()
        try:
            password = await put_bot(admin, SHAPE, bot_id)
            await admin.execute("INSERT INTO dims.bots (bot_id) VALUES ($1)", bot_id)
        finally:
            await admin.close()
        return bot_id, self.owner.as_user(SHAPE.bot_role(bot_id), password)


def pool_to(address: PostgresAddress, *, through_pooler: bool = False, **limits: Any) -> Pool:
    """A pool as a worker has it."""
    opened = partial(
        connect, address, timeout_s=WITHIN_S, application_name="test", statement_s=WITHIN_S,
        through_pooler=through_pooler,
    )  # fmt: skip
    return Pool(opened, pool_limits(**limits), name=address.user, draw=SYSTEM.draw)


@contextmanager
def storage_site() -> Iterator[StorageSite]:
    """An embedded server with the newest schema."""
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        host = str(place.sockets("postgres"))
        password = (place.state / "postgres.password").read_text().strip()
        address = PostgresAddress(host=host, user="dims", password=password)
        try:
            asyncio.run(Migrations(address, shape=SHAPE).migrate())
            yield StorageSite(address, (place.files("postgres") / "data").stat().st_uid)
        finally:
            service.end()


@asynccontextmanager
async def database_of(site: StorageSite, **options: Any) -> AsyncIterator[Database]:
    """The `bot.db` of a new bot; at the end no connection of it may be in use."""
    bot_id, address = await site.new_bot()
    pool = pool_to(address)
    database = Database(bot_id, pool, **options, draw=SYSTEM.draw)
    yield database
    stats = pool.stats()
    await database.close(WITHIN_S)
    assert (stats.in_use, stats.waiting) == (0, 0)


async def becomes(fact: Callable[[], Awaitable[T | None]], what: str) -> T:
    """As `until`, for a fact that has to be asked for."""
    for _ in range(round(WITHIN_S / LOOK_S)):
        if found := await fact():
            return found
        await asyncio.sleep(LOOK_S)
    raise AssertionError(f"not within {WITHIN_S:g} s: {what}")


async def end_statement(admin: asyncpg.Connection, part: str) -> int:
    """Ends the session whose running statement has `part` in it, once there is one; its pid."""
    ask = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%' AND state = 'active' "
        "AND wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
    )
    pid: int = await becomes(lambda: admin.fetchval(ask, part), f"{part} runs")
    assert await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
    return pid


async def roles_of(site: StorageSite) -> dict[str, str]:
    """As `pgbouncer.verifiers`."""
    admin = await site.admin()
    found = await verifiers(admin)
    await admin.close()
    return found


def pooler(site: StorageSite, roles: dict[str, str]) -> AbstractContextManager[str]:
    """As `pgbouncer.pgbouncer`."""
    return pgbouncer(site.owner.host, site.uid, roles)
