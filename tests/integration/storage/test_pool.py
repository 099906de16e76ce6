"""The worker's pool on a real server: who is served, what is open, what a crash leaves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from embedded import USERS, Service, place_for
from twin_postgres import check_twin
from usual import pool_limits

from dims.addresses import PostgresAddress
from dims.errors import ServiceError, TimedOutError
from dims.storage.connections.connecting import connect
from dims.storage.connections.pool import Pool, PoolLimits
from dims.storage.connections.storage_errors import (
    LostError,
    StorageError,
    UnavailableError,
    translate,
)
from dims.system.clock import SYSTEM

LIMITS = pool_limits(max_size=3, idle_s=30, acquire_s=10)
WITHIN_S = 20.0


class Site:
    """A server, and what it knows of our connections."""

    def __init__(self, service: Service) -> None:
        self.service = service
        place = service.place
        password = (place.state / "postgres.password").read_text().strip()
        self.address = PostgresAddress(
            host=str(place.sockets("postgres")), user="dims", password=password
        )
        self.admin: asyncpg.Connection

    async def connect(self, name: str = "a bot") -> asyncpg.Connection:
        return await connect(self.address, timeout_s=10, application_name=name)

    async def backends(self, name: str = "a bot") -> list[int]:
        rows = await self.admin.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = $1", name
        )
        return [row["pid"] for row in rows]

    async def end(self, pid: int) -> None:
        """Cuts off one connection, and waits until its process has gone."""
        await self.admin.execute("SELECT pg_terminate_backend($1, 10000)", pid)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with place_for(USERS[0]) as place:
        made = Service(place, "postgres")
        made.ready()
        try:
            yield made
        finally:
            made.end()


@pytest.fixture
async def site(service: Service) -> AsyncIterator[Site]:
    made = Site(service)
    made.admin = await made.connect("admin")
    yield made
    left = await made.backends()
    await made.admin.close()
    assert left == []


@asynccontextmanager
async def pool_of(
    site: Site,
    limits: PoolLimits = LIMITS,
    opener: Callable[[], Awaitable[asyncpg.Connection]] | None = None,
    **options: Any,
) -> AsyncIterator[Pool]:
    made = Pool(opener or site.connect, limits, name="alpha", **options, draw=SYSTEM.draw)
    try:
        yield made
    finally:
        await made.close(5)
        assert made.open == 0


async def eventually(fact: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + WITHIN_S
    while not fact():
        assert time.monotonic() < until_s, what
        await asyncio.sleep(0.005)


async def test_the_twin_of_the_unit_tests_does_as_a_real_connection(site: Site) -> None:
    await check_twin(site.connect)


async def test_one_after_the_other_uses_one_connection(site: Site) -> None:
    async with pool_of(site) as pool:
        pids = set()
        for _ in range(20):
            async with pool.acquire() as connection:
                pids.add(await connection.fetchval("SELECT pg_backend_pid()"))
        assert len(pids) == 1
        assert (pool.stats().acquired, pool.stats().connects, pool.open) == (20, 1, 1)


async def test_a_plain_read_is_one_round_trip(site: Site) -> None:
    async with pool_of(site) as pool:
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
            pid = connection.get_server_pid()
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT 1")
        last = await site.admin.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
        assert last == "SELECT 1"
        assert pool.stats().idle == 1


async def test_whoever_asks_first_is_served_first(site: Site) -> None:
    served: list[int] = []

    async def ask(number: int, pool: Pool) -> None:
        async with pool.acquire() as connection:
            served.append(number)
            await connection.fetchval("SELECT 1")

    async with pool_of(site, pool_limits(max_size=1)) as pool, asyncio.TaskGroup() as tasks:
        for number in range(30):
            tasks.create_task(ask(number, pool))
    assert served == list(range(30))


async def test_never_more_than_allowed_are_known_to_the_server(site: Site) -> None:
    seen: list[int] = []
    async with pool_of(site, pool_limits(max_size=8, acquire_s=30), allowed=2) as pool:

        async def use() -> None:
            async with pool.acquire() as connection:
                await connection.fetchval("SELECT pg_sleep(0.01)")

        async def look() -> None:
            while pool.stats().acquired < 60:
                seen.append(len(await site.backends()))
                assert pool.open <= 2

        await asyncio.gather(look(), *(use() for _ in range(60)))
    assert max(seen) <= 2


async def test_a_smaller_allowance_closes_idle_connections_at_once(site: Site) -> None:
    async with pool_of(site) as pool:
        leases = [pool.acquire() for _ in range(3)]
        for lease in leases:
            await lease.__aenter__()
        for lease in leases:
            await lease.__aexit__(None, None, None)
        assert pool.stats().idle == 3
        pool.allow(1)
        assert pool.stats().idle == 1
        await eventually(lambda: pool.open == 1, "two are closed")
        assert len(await site.backends()) == 1


async def test_open_counts_until_the_server_has_let_go(site: Site) -> None:
    async with pool_of(site) as pool:
        for _ in range(20):
            pool.allow(1)
            async with pool.acquire():
                pass
            pool.allow(0)
            await eventually(lambda: pool.open == 0, "it is closed")
            assert await site.backends() == []
        pool.allow(1)


async def test_a_busy_connection_beyond_the_allowance_is_closed_after_use(site: Site) -> None:
    async with pool_of(site) as pool:
        async with pool.acquire() as connection:
            pool.allow(0)
            assert await connection.fetchval("SELECT 1") == 1
            assert pool.open == 1
        await eventually(lambda: pool.open == 0, "it is closed")


async def test_with_nothing_allowed_one_waits_until_something_is(site: Site) -> None:
    async with pool_of(site, allowed=0) as pool:
        asked = asyncio.create_task(_one(pool))
        await eventually(lambda: pool.wanted == 1, "somebody waits")
        assert pool.open == 0
        pool.allow(1)
        assert await asked == 1


async def test_a_used_up_budget_is_named_in_the_error(site: Site) -> None:
    async with pool_of(site, allowed=0) as pool:
        with pytest.raises(TimedOutError, match="budget is used up") as caught:
            await _one(pool, timeout_s=0.05)
        assert "storage.connections" in caught.value.hint
        assert "0 in use, 1 waits" in str(caught.value)
        assert (pool.wanted, pool.open) == (0, 0)


async def test_all_in_use_is_named_in_the_error(site: Site) -> None:
    async with pool_of(site, pool_limits(max_size=1)) as pool, pool.acquire():
        with pytest.raises(TimedOutError, match=r"within 0\.05 s: 1 in use, 1 waits(\n|$)"):
            await _one(pool, timeout_s=0.05)


async def test_idle_connections_are_given_back(site: Site) -> None:
    async with pool_of(site, pool_limits(idle_s=0.1)) as pool:
        assert await _one(pool) == 1
        assert pool.open == 1
        await eventually(lambda: pool.open == 0, "it is given back")
        assert await _one(pool) == 1


async def test_a_connection_that_broke_while_idle_is_replaced_silently(site: Site) -> None:
    async with pool_of(site) as pool:
        async with pool.acquire() as connection:
            pid = connection.get_server_pid()
        await site.end(pid)
        async with pool.acquire() as connection:
            assert connection.get_server_pid() != pid
            assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_that_broke_in_use_is_not_given_to_the_next(site: Site) -> None:
    async with pool_of(site, pool_limits(max_size=1)) as pool:

        async def broken_while_it_runs() -> None:
            async with pool.acquire() as connection, asyncio.TaskGroup() as tasks:
                tasks.create_task(site.end(connection.get_server_pid()))
                await _translated(connection.fetchval("SELECT pg_sleep(60)"))

        async def broken_before() -> None:
            async with pool.acquire() as connection:
                await site.end(connection.get_server_pid())
                await _translated(connection.fetchval("SELECT 1"))

        with pytest.raises(ExceptionGroup) as caught:
            await broken_while_it_runs()
        assert [type(one) for one in caught.value.exceptions] == [LostError]
        with pytest.raises(UnavailableError, match="is closed") as late:
            await broken_before()
        assert not isinstance(late.value, LostError), "it was not even sent"
        assert await _one(pool) == 1


async def test_a_session_that_was_changed_is_reset(site: Site) -> None:
    async with pool_of(site, pool_limits(max_size=1)) as pool:
        async with pool.acquire(raw=True) as connection:
            await connection.execute("SET search_path = pg_catalog; LISTEN news")
            pid = connection.get_server_pid()
        async with pool.acquire() as connection:
            assert connection.get_server_pid() == pid
            assert "public" in await connection.fetchval("SHOW search_path")
            heard = "SELECT count(*) FROM pg_listening_channels()"
            assert await connection.fetchval(heard) == 0


async def test_a_transaction_left_open_is_ended_and_said(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool_of(site, pool_limits(max_size=1)) as pool:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN")
        async with pool.acquire() as connection:
            assert not connection.is_in_transaction()
        assert "inside a transaction" in caplog.text


async def test_a_statement_that_is_cancelled_leaves_a_connection_that_works(site: Site) -> None:
    async with pool_of(site, pool_limits(max_size=1)) as pool:

        async def hang() -> None:
            async with pool.acquire() as connection:
                await connection.fetchval("SELECT pg_sleep(60)")

        for _ in range(5):
            hanging = asyncio.create_task(hang())
            await eventually(lambda: pool.stats().in_use == 1, "it hangs")
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            assert await _one(pool) == 1
        assert pool.stats().connects == 1


async def test_a_cancelled_begin_leaves_a_connection_for_transactions(site: Site) -> None:
    async with pool_of(site, pool_limits(max_size=1)) as pool:

        async def begin() -> None:
            async with pool.acquire() as connection, connection.transaction():
                pass

        for turns in range(12):
            beginning = asyncio.create_task(begin())
            for _ in range(turns):
                await asyncio.sleep(0)
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            async with pool.acquire() as connection, connection.transaction():
                assert await connection.fetchval("SELECT 1") == 1


async def test_whoever_is_cancelled_while_waiting_takes_nothing_along(site: Site) -> None:
    async with pool_of(site, pool_limits(max_size=2)) as pool:
        for round_ in range(50):
            tasks = [asyncio.create_task(_one(pool)) for _ in range(6)]
            for turn in range(round_ % 7):
                await asyncio.sleep(0)
                tasks[turn % 6].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await eventually(lambda: pool.wanted == 0, "nobody has one")
        assert pool.open <= 2
        assert await _one(pool) == 1


async def test_a_crash_of_the_server_leads_to_one_attempt_at_a_time(service: Service) -> None:
    site = Site(service)
    under_way = crowd = attempts = 0
    is_back = True

    async def opener() -> asyncpg.Connection:
        nonlocal under_way, crowd, attempts, is_back
        under_way += 1
        attempts += 1
        crowd = crowd if is_back else max(crowd, under_way)
        try:
            opened = await site.connect()
        finally:
            under_way -= 1
        is_back = True
        return opened

    async with pool_of(site, pool_limits(max_size=4, acquire_s=20), opener) as pool:
        await asyncio.gather(*(_one(pool) for _ in range(8)))
        async with pool.acquire() as connection:
            victim = connection.get_server_pid()
        os.kill(victim, signal.SIGKILL)  # The postmaster ends all others and recovers.
        await eventually(lambda: pool.open == 0, "all have broken")
        attempts, is_back = 0, False
        assert await asyncio.gather(*(_one(pool) for _ in range(12))) == [1] * 12
    assert crowd == 1
    assert attempts < 40


async def test_while_the_server_is_down_everybody_waits_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with place_for(USERS[0]) as place:
        first = Service(place, "postgres")
        first.ready()
        site = Site(first)
        first.end()
        pool = Pool(site.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        with pytest.raises(TimedOutError, match="there is no socket"):
            await _one(pool, timeout_s=0.3)
        asked = [asyncio.create_task(_one(pool, timeout_s=30)) for _ in range(5)]
        second = Service(place, "postgres")
        await asyncio.to_thread(second.ready)
        assert await asyncio.gather(*asked) == [1] * 5
        await pool.close(5)
        second.end()
    warned = [r for r in caplog.records if r.name == "dims.storage" and "socket" in r.getMessage()]
    assert len(warned) == 1, "said once, not at every attempt"
    assert all(site.address.password not in r.getMessage() for r in caplog.records)


async def test_a_wrong_password_is_told_to_everybody_at_once(site: Site) -> None:
    wrong = site.address.as_user("dims", "wr0ng-secret")
    attempts = 0

    async def opener() -> asyncpg.Connection:
        nonlocal attempts
        attempts += 1
        return await connect(wrong, timeout_s=5, application_name="a bot")

    async with pool_of(site, LIMITS, opener) as pool:
        began_s = time.monotonic()
        results = await asyncio.gather(*(_one(pool) for _ in range(5)), return_exceptions=True)
        again = await asyncio.gather(_one(pool), return_exceptions=True)
        took_s = time.monotonic() - began_s
    assert {type(result) for result in (*results, *again)} == {StorageError}
    assert all("password for 'dims' is wrong" in str(result) for result in results)
    assert "wr0ng-secret" not in repr(results)
    assert attempts == 1
    assert took_s < LIMITS.acquire_s / 2


async def test_closing_waits_for_what_is_in_use(site: Site) -> None:
    pool = Pool(site.connect, LIMITS, name="alpha", draw=SYSTEM.draw)

    async def work() -> int:
        async with pool.acquire() as connection:
            return int(await connection.fetchval("SELECT 1 FROM pg_sleep(0.2)"))

    working = asyncio.create_task(work())
    await eventually(lambda: pool.stats().in_use == 1, "it works")
    closing = asyncio.create_task(pool.close(10))
    assert await working == 1
    await closing
    assert pool.open == 0
    assert await site.backends() == []
    with pytest.raises(ServiceError, match="closed"):
        await _one(pool)


async def test_closing_cuts_off_what_does_not_end(site: Site) -> None:
    pool = Pool(site.connect, LIMITS, name="alpha", draw=SYSTEM.draw)

    async def hang() -> None:
        async with pool.acquire() as connection:
            await connection.fetchval("SELECT pg_sleep(3)")

    hanging = asyncio.create_task(hang())
    await eventually(lambda: pool.stats().in_use == 1, "it hangs")
    await pool.close(0.1)
    with pytest.raises(asyncpg.PostgresError):
        await hanging
    assert pool.open == 0
    for pid in await site.backends():
        await site.end(pid)


async def test_closing_refuses_whoever_waits(site: Site) -> None:
    pool = Pool(site.connect, LIMITS, name="alpha", allowed=0, draw=SYSTEM.draw)
    waiting = asyncio.create_task(_one(pool))
    await eventually(lambda: pool.wanted == 1, "somebody waits")
    await pool.close(1)
    with pytest.raises(ServiceError, match="closed"):
        await waiting


async def test_slow_statements_are_logged_without_values(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dims.storage")
    sql = "SELECT pg_sleep(0.06),\n  'S3CRET', $1::text, 4711  -- S3CRET"
    async with pool_of(site, pool_limits(slow_s=0.05)) as pool, pool.acquire() as connection:
        await connection.fetchval(sql, "S3CRET parameter")
        await connection.fetchval("SELECT 1")
        await eventually(lambda: pool.stats().slow == 1, "it is noted")
        (query,) = pool.slow
        assert query.sql == "SELECT pg_sleep(?), ?, $1::text, ?"
        assert 0.05 <= query.took_s < WITHIN_S
        assert abs(query.at_s - time.time()) < WITHIN_S
    assert "alpha: a statement took 0." in caplog.text
    assert "S3CRET" not in caplog.text
    assert "4711" not in caplog.text


async def test_changes_are_told(site: Site) -> None:
    told: list[tuple[int, int]] = []
    pool = Pool(
        site.connect,
        LIMITS,
        name="alpha",
        on_change=lambda: told.append((pool.open, pool.wanted)),
        draw=SYSTEM.draw,
    )
    assert await _one(pool) == 1
    await pool.close(5)
    assert told == [(1, 1), (1, 0), (0, 0)]


async def _one(pool: Pool, timeout_s: float | None = None) -> int:
    async with pool.acquire(timeout_s) as connection:
        return int(await connection.fetchval("SELECT 1"))


async def _translated(answer: Awaitable[object]) -> object:
    try:
        return await answer
    except Exception as error:
        raise translate(error) or error from error
