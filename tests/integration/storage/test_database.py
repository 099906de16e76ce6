"""`bot.db` and `bot.tx()` on a real server: what is committed, repeated, refused, and said."""

# ruff: noqa: PT012 (what raises is a whole block: that is what is tested)

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from fleet import WITHIN_S
from pages import python_of
from storage_site import (
    StorageSite,
    database_of,
    end_statement,
    pool_to,
    pooler,
    roles_of,
    storage_site,
)
from usual import pool_limits

from dims.errors import DimsError, StateError, TimedOutError, UsageError
from dims.storage.bot.database import Database
from dims.storage.bot.transaction import Isolation, Transaction, UndecidedError
from dims.storage.connections.pool import Pool
from dims.storage.connections.storage_errors import (
    ConflictError,
    ForbiddenError,
    LostError,
    UnavailableError,
)
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


ADD = "INSERT INTO chats (bot_id, chat_id, kind) VALUES ($1, $2, 'private')"
SLOW = "INSERT INTO chats (bot_id, chat_id, kind) SELECT $1, 1, 'private' FROM pg_sleep(20)"


# Raw SQL


async def test_raw_sql_reads_and_writes(db: Database) -> None:
    assert await db.execute(ADD, db.bot_id, 5) == "INSERT 0 1"
    assert (await db.fetchrow("SELECT chat_id, data FROM chats"))["data"] == {}
    assert await db.fetchval("SELECT count(*) FROM chats") == 1
    assert len(await db.fetch("SELECT * FROM chats")) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        " commit",
        "/* x */ ROLLBACK",
        "SET search_path = public",
        "LISTEN x",
        "SET LOCAL a.b = 1",
    ],
)
async def test_what_a_shared_connection_cannot_serve_is_refused(db: Database, sql: str) -> None:
    with pytest.raises(UsageError) as caught:
        await db.execute(sql)
    assert "bot.tx()" in caught.value.hint


async def test_an_error_names_the_bot_and_no_value(db: Database) -> None:
    await db.execute(ADD, db.bot_id, 123_456)
    with pytest.raises(ConflictError) as twice:
        await db.execute(ADD, db.bot_id, 123_456)
    with pytest.raises(DimsError) as odd:
        await db.execute(ADD, db.bot_id, "my secret")
    for caught in (twice, odd):
        assert str(caught.value).startswith(f"{db.bot_id}: ")
        assert "123456" not in str(caught.value)
        assert "my secret" not in str(caught.value)


async def test_an_error_costs_no_connection(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()
    pool = pool_to(address, max_size=1)
    db = Database(bot_id, pool, draw=SYSTEM.draw)
    for _ in range(3):
        with pytest.raises(ForbiddenError):
            await db.execute(ADD, "bot0", 1)
    assert pool.stats().connects == 1
    await db.close(WITHIN_S)


async def test_a_row_for_another_bot_is_refused(db: Database) -> None:
    with pytest.raises(ForbiddenError):
        await db.execute(ADD, "bot0", 1)


# Transactions


async def test_a_block_commits_and_bot_db_is_a_part_of_it(db: Database) -> None:
    async with db.tx() as tx:
        await tx.users.save(1, first_name="Ada")
        await db.users.save(2, first_name="Bo")
        with db.outside():
            assert await db.users.count() == 0
        assert await db.users.count() == 2
    assert await db.users.count() == 2


async def test_a_block_that_raises_leaves_nothing(db: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.tx():
            await db.users.save(1)
            _ = 1 / 0
    assert await db.users.count() == 0


async def test_an_inner_block_is_rolled_back_alone(db: Database) -> None:
    async with db.tx() as tx:
        await db.users.save(1)
        with pytest.raises(ConflictError):
            async with db.tx() as inner:
                await inner.users.save(2)
                await inner.execute(ADD, db.bot_id, 1)
                await inner.execute(ADD, db.bot_id, 1)
        async with db.tx():
            await db.users.save(3)
        await tx.users.save(4)
    assert {user.user_id for user in await db.users.recent()} == {1, 3, 4}


async def test_the_outer_block_is_not_used_while_an_inner_one_is_open(db: Database) -> None:
    async with db.tx() as outer:
        async with db.tx():
            with pytest.raises(UsageError):
                await outer.users.save(1)
        await outer.users.save(2)
    assert [user.user_id for user in await db.users.recent()] == [2]


async def test_an_error_that_was_caught_inside_does_not_pass_as_a_commit(db: Database) -> None:
    with pytest.raises(StateError, match="rolled back"):
        async with db.tx():
            await db.users.save(1)
            with pytest.raises(DimsError):
                await db.fetch("SELECT nonsense")
    with pytest.raises(StateError, match="rolled back"):
        async with db.tx(), db.tx():
            with pytest.raises(DimsError):
                await db.fetch("SELECT nonsense")
    assert await db.users.count() == 0


async def test_a_commit_smuggled_in_is_noticed(db: Database) -> None:
    with pytest.raises(StateError, match="ended the transaction"):
        async with db.tx():
            await db.execute("DELETE FROM chats; COMMIT")
    with pytest.raises(UsageError):
        async with db.tx() as tx:
            await tx.execute("COMMIT")


async def test_tasks_inside_share_the_transaction_in_turns(db: Database) -> None:
    async def inner(number: int) -> None:
        async with db.tx():
            await db.users.save(number)

    async with db.tx():
        await asyncio.gather(*(db.users.save(number) for number in range(1, 6)))
        await asyncio.gather(*(inner(number) for number in range(6, 10)))
    assert await db.users.count() == 9


async def test_a_task_that_outlives_its_transaction_does_not_write_outside(db: Database) -> None:
    over = asyncio.Event()

    async def late() -> None:
        await over.wait()
        await db.users.save(1)

    async def late_in_its_own() -> None:
        await over.wait()
        async with db.tx():
            await db.users.save(2)

    async with db.tx():
        heir, careful = asyncio.create_task(late()), asyncio.create_task(late_in_its_own())
        with db.outside():
            freed = asyncio.create_task(db.users.save(3))
    over.set()
    with pytest.raises(StateError, match="has ended"):
        await heir
    await careful
    await freed
    assert {user.user_id for user in await db.users.recent()} == {2, 3}


async def test_callbacks_run_after_the_commit_of_what_stays(db: Database) -> None:
    heard: list[object] = []

    async def outer() -> None:
        heard.append(await db.users.count())

    async with db.tx() as tx:
        tx.on_commit(outer)
        tx.on_commit(lambda: 1 / 0)
        async with db.tx() as inner:
            inner.on_commit(lambda: heard.append("inner"))
        with pytest.raises(KeyError):
            async with db.tx() as lost:
                lost.on_commit(lambda: heard.append("lost"))
                raise KeyError
        await tx.users.save(1)
        assert heard == []
    assert heard == [1, "inner"]
    with pytest.raises(KeyError):
        async with db.tx() as tx:
            tx.on_commit(lambda: heard.append("never"))
            raise KeyError
    assert heard == [1, "inner"]


async def test_a_cancelled_transaction_is_rolled_back_and_gives_its_connection_back(
    db: Database, admin: asyncpg.Connection
) -> None:
    async def work() -> None:
        async with db.tx():
            await db.users.save(1)
            begun.set()
            await db.fetch("SELECT 'cancel me', pg_sleep(20)")

    begun = asyncio.Event()
    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.users.count() == 0
    async with db.tx():
        await db.users.save(2)
    assert await db.users.count() == 1


async def test_isolation_and_read_only_are_what_was_asked_for(db: Database) -> None:
    async with db.tx(isolation=Isolation.SERIALIZABLE, read_only=True) as tx:
        assert await tx.fetchval("SHOW transaction_isolation") == "serializable"
        with pytest.raises(UsageError):
            async with db.tx(isolation="SERIALIZABLE"):
                pass
        with pytest.raises(DimsError):
            async with db.tx():
                await db.users.save(1)
    with pytest.raises(UsageError, match="SNAPSHOT"):
        async with db.tx(isolation="SNAPSHOT; DROP TABLE users"):
            pass


async def test_what_could_not_be_serialized_is_done_again(db: Database) -> None:
    """Each of both writes what depends on what the other has not written yet."""
    ready = asyncio.Barrier(2)
    runs = 0

    async def count_and_add(tx: Transaction) -> int:
        nonlocal runs
        runs += 1
        count = await tx.users.count()
        if runs <= 2:
            await ready.wait()
        await tx.users.save(count + 1)
        return count

    work = [db.run(count_and_add, isolation=Isolation.SERIALIZABLE, tries=10) for _ in range(2)]
    assert sorted(await asyncio.gather(*work)) == [0, 1]
    assert runs >= 3
    assert {user.user_id for user in await db.users.recent()} == {1, 2}


async def test_other_errors_are_not_run_again(db: Database) -> None:
    runs = 0

    async def fail(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        await tx.fetch("SELECT nonsense")

    with pytest.raises(DimsError):
        await db.run(fail)
    assert runs == 1


# Connections that break


@pytest.fixture
async def slow_commit(admin: asyncpg.Connection) -> AsyncIterator[str]:
    """A table whose transactions take 20 s to commit."""
    await admin.execute(
        "CREATE TABLE public.slow (n int); GRANT INSERT, SELECT ON public.slow TO PUBLIC; "
        "GRANT USAGE ON SCHEMA public TO PUBLIC; "
        "CREATE FUNCTION public.wait() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN PERFORM pg_sleep(20); RETURN NULL; END'; "
        "GRANT EXECUTE ON FUNCTION public.wait() TO PUBLIC; "
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON public.slow DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION public.wait()"
    )
    yield "public.slow"
    await admin.execute("DROP TABLE public.slow; DROP FUNCTION public.wait")


async def test_a_commit_that_nobody_answers_says_so(
    db: Database, admin: asyncpg.Connection, slow_commit: str
) -> None:
    heard: list[str] = []

    async def work() -> None:
        async with db.tx() as tx:
            tx.on_commit(lambda: heard.append("committed"))
            await tx.execute(f"INSERT INTO {slow_commit} VALUES (1)")  # noqa: S608

    task = asyncio.create_task(work())
    await end_statement(admin, "COMMIT")
    with pytest.raises(UndecidedError, match="either all"):
        await task
    assert heard == []
    assert await db.users.count() == 0


async def test_a_connection_that_is_gone_before_the_commit_is_no_riddle(
    db: Database, admin: asyncpg.Connection
) -> None:
    with pytest.raises(UnavailableError, match="nothing of it is done") as caught:
        async with db.tx() as tx:
            await tx.users.save(1)
            gone = asyncio.Event()
            tx.connection.add_termination_listener(lambda _: gone.set())
            await admin.execute("SELECT pg_terminate_backend($1)", tx.connection.get_server_pid())
            await gone.wait()
    assert not isinstance(caught.value, LostError)
    assert await db.users.count() == 0


async def test_a_read_whose_connection_breaks_is_repeated(
    db: Database, admin: asyncpg.Connection
) -> None:
    read = asyncio.create_task(db.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.5) AS broken"))
    pid = await end_statement(admin, "broken")
    assert await read != pid


async def test_a_write_whose_connection_breaks_is_not(
    db: Database, admin: asyncpg.Connection
) -> None:
    write = asyncio.create_task(db.execute(SLOW, db.bot_id))
    await end_statement(admin, "FROM pg_sleep(20)")
    with pytest.raises(LostError):
        await write
    assert await db.chats.count() == 0


async def test_a_transaction_whose_connection_breaks_fails_as_a_whole(
    db: Database, admin: asyncpg.Connection
) -> None:
    async def work() -> None:
        async with db.tx():
            await db.users.save(1)
            async with db.tx():
                await db.execute(SLOW, db.bot_id)

    task = asyncio.create_task(work())
    await end_statement(admin, "FROM pg_sleep(20)")
    with pytest.raises(LostError):
        await task
    assert await db.users.count() == 0


# What is being worked on


async def test_the_audit_log_knows_what_was_worked_on(
    site: StorageSite, admin: asyncpg.Connection
) -> None:
    said: list[str | None] = ["it's \\ 1"]
    async with database_of(site, correlation=lambda: said[0]) as db:
        await db.settings.set("alone", 1)
        async with db.tx():
            await db.settings.set("inside", 1)
            await db.execute("DELETE FROM bot_settings WHERE key = 'alone'")
        said[0] = None
        await db.settings.set("nothing", 1)
        rows = await admin.fetch(
            "SELECT after ->> 'key' AS key, correlation_id FROM dims.audit_log WHERE bot_id = $1 "
            "AND table_name = 'bot_settings'",
            db.bot_id,
        )
    assert {tuple(row) for row in rows} == {
        ("alone", "it's \\ 1"),
        ("inside", "it's \\ 1"),
        (None, "it's \\ 1"),
        ("nothing", None),
    }


# The replica


async def test_reads_go_to_the_replica_unless_the_bot_has_just_written(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()
    primary, replica = pool_to(address), pool_to(address)
    db = Database(bot_id, primary, replica=replica, replica_lag_s=0.2, draw=SYSTEM.draw)
    await db.users.count()
    assert (primary.stats().acquired, replica.stats().acquired) == (0, 1)
    async with db.primary():
        await db.users.count()
    assert (primary.stats().acquired, replica.stats().acquired) == (1, 1)
    await db.users.save(1)
    await db.users.count()
    assert (primary.stats().acquired, replica.stats().acquired) == (3, 1)
    async with asyncio.timeout(5):
        while replica.stats().acquired == 1:
            await db.users.count()
    async with db.tx():
        await db.users.count()
    seen = replica.stats().acquired
    await db.users.count()
    assert replica.stats().acquired == seen
    await db.close(5)


async def test_without_its_replica_a_bot_reads_the_primary(
    site: StorageSite, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse() -> asyncpg.Connection:
        raise UnavailableError("nobody there")

    bot_id, address = await site.new_bot()
    replica = Pool(refuse, pool_limits(acquire_s=0.1), name="replica", draw=SYSTEM.draw)
    db = Database(bot_id, pool_to(address), replica=replica, draw=SYSTEM.draw)
    for _ in range(3):
        assert await db.users.count() == 0
    with pytest.raises(DimsError, match="nonsense"):
        await db.fetch("SELECT nonsense")
    assert len([text for text in caplog.messages if "the replica failed" in text]) == 1
    await db.close(5)


async def test_a_replica_that_is_read_only_is_not_asked_to_write(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()

    async def read_only() -> asyncpg.Connection:
        return await asyncpg.connect(
            host=address.host, user=address.user, password=address.password,
            database=address.database, server_settings={"default_transaction_read_only": "on"},
        )  # fmt: skip

    replica = Pool(read_only, pool_limits(), name="replica", draw=SYSTEM.draw)
    db = Database(bot_id, pool_to(address), replica=replica, replica_lag_s=0, draw=SYSTEM.draw)
    row = "INSERT INTO chats (bot_id, chat_id, kind) VALUES ($1, 1, 'private') RETURNING chat_id"
    assert await db.fetchval(row, bot_id) == 1
    await db.chats.save(2)
    assert await db.fetchval("SHOW transaction_read_only") == "on"
    await db.close(5)


# The way in


async def test_statements_of_many_tasks_do_not_meet_behind_a_pooler(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()
    with pooler(site, await roles_of(site)) as host:
        pool = pool_to(replace(address, host=host), through_pooler=True, max_size=8)
        db = Database(bot_id, pool, draw=SYSTEM.draw)
        await asyncio.gather(*(db.users.save(number) for number in range(1, 50)))

        async def ask(number: int) -> None:
            for _ in range(20):
                user = await db.users.get(number)
                assert user is not None
                assert user.user_id == number
                assert await db.fetchval("SELECT $1::int + 1", number) == number + 1
                async with db.tx():
                    assert await db.users.count() == 49

        await asyncio.gather(*(ask(number) for number in range(1, 9)))
        await db.close(5)


async def test_nobody_waits_for_a_connection_for_ever(site: StorageSite) -> None:
    bot_id, address = await site.new_bot()
    db = Database(bot_id, pool_to(address, max_size=1, acquire_s=0.1), draw=SYSTEM.draw)
    async with db.tx():
        with db.outside(), pytest.raises(TimedOutError, match="no database connection"):
            await db.users.count()
    await db.close(5)


# The page for authors


EXAMPLES = python_of("docs/storage.md")[1:]
"""The first is a bot's handlers, and is run as a bot."""


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_the_examples_of_the_page_for_authors_run(db: Database, example: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(example, "docs/storage.md", "exec"), names)  # noqa: S102
    bot = SimpleNamespace(id=db.bot_id, db=db, tx=db.tx, log=logging.getLogger("bot"))
    await names["example"](bot)
