"""What a connection does that times its statements itself."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
from fleet import WITHIN_S
from storage_site import StorageSite, storage_site

from dims.storage.connections.connecting import connect
from dims.storage.connections.timed import Timed, TimedConnection


@pytest.fixture(scope="module")
def site() -> Iterator[StorageSite]:
    with storage_site() as made:
        yield made


@pytest.fixture
async def connection(site: StorageSite) -> AsyncIterator[TimedConnection]:
    made = await connect(site.owner, timeout_s=WITHIN_S, application_name="test")
    yield made
    await made.close()


async def test_every_statement_is_told_and_failed_ones_too(connection: TimedConnection) -> None:
    told: list[Timed] = []
    connection.add_query_logger(told.append)
    assert await connection.fetchval("SELECT 1") == 1
    assert (await connection.fetchrow("SELECT $1::int", 2))[0] == 2
    assert len(await connection.fetch("VALUES (1), (2)")) == 2
    assert await connection.execute("SELECT 3") == "SELECT 1"
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.execute("SELECT * FROM nowhere")
    assert [record.query for record in told] == [
        "SELECT 1", "SELECT $1::int", "VALUES (1), (2)", "SELECT 3", "SELECT * FROM nowhere",
    ]  # fmt: skip
    assert all(0 < record.elapsed < WITHIN_S for record in told)


async def test_a_statement_beyond_the_limit_is_cancelled_and_the_next_one_runs(
    connection: TimedConnection,
) -> None:
    connection.limit(0.05)
    assert await connection.fetchval("SELECT 1") == 1
    with pytest.raises(TimeoutError):
        await connection.fetch("SELECT pg_sleep(60)")
    connection.limit(WITHIN_S)
    assert await connection.fetchval("SELECT 2") == 2


async def test_whoever_cancels_a_late_statement_is_not_told_of_a_limit(
    connection: TimedConnection,
) -> None:
    connection.limit(WITHIN_S)
    task = asyncio.create_task(connection.fetch("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    assert connection.is_busy
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await connection.fetchval("SELECT 1") == 1


async def test_a_second_statement_at_the_same_time_is_refused_and_the_first_one_stays_limited(
    connection: TimedConnection,
) -> None:
    connection.limit(0.2)
    task = asyncio.create_task(connection.fetch("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    assert connection.is_busy
    with pytest.raises(asyncpg.InterfaceError, match="another operation"):
        await connection.fetch("SELECT 1")
    with pytest.raises(TimeoutError):
        await task


async def test_a_limit_holds_where_the_server_stands_still(site: StorageSite) -> None:
    connection = await connect(site.owner, timeout_s=WITHIN_S, application_name="test")
    connection.limit(0.05)
    pid = connection.get_server_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            await connection.fetchval("SELECT 1")
    finally:
        connection.terminate()
        os.kill(pid, signal.SIGCONT)
