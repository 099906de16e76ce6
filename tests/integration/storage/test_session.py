"""SQLAlchemy sessions on `bot.db`: part of the transaction, of the tenant, and of the pool."""

# ruff: noqa: PT012 (what raises is a whole block: that is what is tested)

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial

import asyncpg
import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from storage_site import (
    StorageSite,
    becomes,
    database_of,
    end_statement,
    pool_to,
    pooler,
    roles_of,
    storage_site,
)

from dims.errors import DimsError
from dims.storage.admin.schema import chats, users
from dims.storage.bot.database import Database
from dims.system.clock import SYSTEM


@pytest.fixture(scope="module")
def site() -> Iterator[StorageSite]:
    with storage_site() as made:
        yield made


@pytest.fixture
async def db(site: StorageSite) -> AsyncIterator[Database]:
    async with database_of(site) as database:
        yield database


@pytest.fixture
async def admin(site: StorageSite) -> AsyncIterator[asyncpg.Connection]:
    connection = await site.admin()
    yield connection
    await connection.close()


def person(db: Database, user_id: int, **more: object) -> dict[str, object]:
    return {"bot_id": db.bot_id, "user_id": user_id, **more}


async def count(session: AsyncSession) -> int:
    return (await session.execute(select(func.count()).select_from(users))).scalar_one()


async def test_what_a_session_does_is_committed_at_its_end(db: Database) -> None:
    data = {"list": [1, None, "ü"], "deep": {"a": 1.5}}
    async with db.session() as session:
        await session.execute(insert(users).values(**person(db, 1, data=data)))
        row = (await session.execute(select(users.c.data, users.c.last_seen_at))).one()
        assert row.data == data
        assert row.last_seen_at.tzinfo is not None
        inner = select(users.c.user_id).where(users.c.data["deep"]["a"].as_float() == 1.5)
        assert (await session.execute(inner)).scalar_one() == 1
        changed = update(users).values(data={"n": None}).returning(users.c.data)
        assert (await session.execute(changed)).scalar_one() == {"n": None}
        with db.outside():
            assert await db.users.count() == 0
        assert await db.users.count() == 1
    user = await db.users.get(1)
    assert user is not None
    assert user.data == {"n": None}


async def test_many_rows_and_streams(db: Database) -> None:
    async with db.session() as session:
        rows = [person(db, number) for number in range(1, 501)]
        await session.execute(insert(users), rows)
        streamed = await session.stream(select(users.c.user_id).order_by(users.c.user_id))
        assert [row.user_id async for row in streamed] == list(range(1, 501))
        gone = await session.execute(delete(users).returning(users.c.user_id))
        assert len(gone.all()) == 500


async def test_an_error_leaves_nothing_and_no_value_in_its_message(db: Database) -> None:
    with pytest.raises(IntegrityError) as caught:
        async with db.session() as session:
            await session.execute(insert(users).values(**person(db, 1)))
            await session.execute(insert(chats).values(**person_chat(db, "my secret")))
    assert "my secret" not in str(caught.value)
    assert await db.users.count() == 0


def person_chat(db: Database, kind: str) -> dict[str, object]:
    return {"bot_id": db.bot_id, "chat_id": 1, "kind": kind}


async def test_a_session_in_a_transaction_is_a_part_of_it(db: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.tx():
            async with db.session() as session:
                await session.execute(insert(users).values(**person(db, 1)))
                await session.commit()
                await session.execute(insert(users).values(**person(db, 2)))
            assert await db.users.count() == 2
            _ = 1 / 0
    assert await db.users.count() == 0


async def test_a_session_that_fails_inside_takes_back_its_own_part_only(db: Database) -> None:
    async with db.tx() as tx:
        await tx.users.save(1)
        with pytest.raises(IntegrityError):
            async with db.session() as session:
                await session.execute(insert(users).values(**person(db, 2)))
                await session.execute(insert(users).values(**person(db, 1)))
        async with db.session() as session:
            await session.execute(insert(users).values(**person(db, 3)))
            await session.rollback()
            await session.execute(insert(users).values(**person(db, 4)))
            async with session.begin_nested() as part:
                await session.execute(insert(users).values(**person(db, 5)))
                await part.rollback()
            assert await count(session) == 2
    assert {user.user_id for user in await db.users.recent()} == {1, 4}


async def test_connections_come_back_after_errors_and_cancellation(
    db: Database, admin: asyncpg.Connection
) -> None:
    async def sleep() -> None:
        async with db.session() as session:
            await session.execute(insert(users).values(**person(db, 1)))
            await session.execute(text("SELECT 'cancelled', pg_sleep(20)"))

    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%''cancelled''%' "
        "AND state = 'active' AND pid <> pg_backend_pid()"
    )
    for _ in range(6):
        task = asyncio.create_task(sleep())
        await becomes(lambda: admin.fetchval(running), "it sleeps")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(DBAPIError):
            async with db.session() as session:
                await session.execute(text("SELECT nonsense"))
    stats = db._pool.stats()
    assert stats.in_use == 0
    assert await db.users.count() == 0
    async with db.session() as session:
        assert await count(session) == 0


async def test_a_session_whose_connection_breaks_fails_and_the_next_one_works(
    db: Database, admin: asyncpg.Connection
) -> None:
    async def sleep() -> None:
        async with db.session() as session:
            await session.execute(insert(users).values(**person(db, 1)))
            await session.execute(text("SELECT 'broken', pg_sleep(20)"))

    task = asyncio.create_task(sleep())
    await end_statement(admin, "broken")
    with pytest.raises((DBAPIError, DimsError)):
        await task
    async with db.session() as session:
        assert await count(session) == 0


async def test_sessions_in_each_others_way_are_done_again(db: Database) -> None:
    ready = asyncio.Barrier(2)
    runs = 0

    async def count_and_add(who: int, _: object) -> None:
        nonlocal runs
        runs += 1
        async with db.session() as session:
            number = await count(session)
            if runs <= 2:
                await ready.wait()
            await session.execute(insert(users).values(**person(db, 10 * number + who)))

    work = [
        db.run(partial(count_and_add, who), isolation="SERIALIZABLE", tries=10) for who in (1, 2)
    ]
    await asyncio.gather(*work)
    assert runs >= 3
    assert await db.users.count() == 2


async def test_sessions_of_two_bots_see_their_own_rows(site: StorageSite, db: Database) -> None:
    async with database_of(site) as other, db.session() as one, other.session() as two:
        await one.execute(insert(users).values(**person(db, 1)))
        await two.execute(insert(users).values(**person(other, 2)))
        assert (await one.execute(select(users.c.user_id))).scalars().all() == [1]
        assert (await two.execute(select(users.c.bot_id))).scalars().all() == [other.bot_id]
        with pytest.raises(DBAPIError, match="row-level security"):
            await two.execute(insert(users).values(**person(db, 3)))
        await two.rollback()


async def test_a_slow_statement_of_a_session_is_noticed(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()
    pool = pool_to(address, slow_s=0.1)
    db = Database(bot_id, pool, draw=SYSTEM.draw)
    async with db.session() as session:
        await session.execute(text("SELECT 'my secret', pg_sleep(0.2)"))
    assert [slow.sql for slow in pool.slow] == ["SELECT ?, pg_sleep(?)"]
    await db.close(5)


async def test_sessions_work_behind_a_pooler(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()
    with pooler(site, await roles_of(site)) as host:
        pool = pool_to(replace(address, host=host), through_pooler=True, max_size=6)
        db = Database(bot_id, pool, draw=SYSTEM.draw)

        async def work(number: int) -> None:
            for step in range(10):
                async with db.session() as session:
                    data = {"step": step}
                    await session.execute(
                        insert(users).values(**person(db, number * 100 + step, data=data))
                    )
                    mine = select(users.c.data).where(users.c.user_id == number * 100 + step)
                    assert (await session.execute(mine)).scalar_one() == data

        await asyncio.gather(*(work(number) for number in range(6)))
        assert await db.users.count() == 60
        await db.close(5)


def test_bot_db_without_sessions_imports_no_sqlalchemy() -> None:
    code = (
        "import sys, dims.storage.bot.database; print([m for m in sys.modules if 'alchemy' in m])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
