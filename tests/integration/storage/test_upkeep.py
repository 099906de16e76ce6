"""Upkeep and inspection on a real PostgreSQL, as a superuser and as one who is none."""

# Statements are put together from names of this file.
# ruff: noqa: S608

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import asyncpg
import pytest
from embedded import USERS, Service, place_for
from roles import put_bot

from dims.addresses import PostgresAddress
from dims.migrations.runner import Migrations
from dims.storage.admin import inspection, tenancy, upkeep
from dims.storage.admin.administration import connected
from dims.storage.names import Shape

_numbers = itertools.count()
DAY = "interval '1 day'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresAddress]:
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        password = (place.state / "postgres.password").read_text().strip()
        try:
            yield PostgresAddress(str(place.sockets("postgres")), user="dims", password=password)
        finally:
            service.end()


@dataclass
class Site:
    """A migrated database, and a connection of who looks after it."""

    address: PostgresAddress
    shape: Shape
    admin: asyncpg.Connection

    async def add(self, table: str, rows: str) -> None:
        """Rows as the owner of the schema, who may write for anybody."""
        async with inspection.as_owner(self.admin, self.shape):
            await self.admin.execute(f"INSERT INTO dims.{table} {rows}")

    async def count(self, table: str, where: str = "true") -> int:
        async with inspection.as_owner(self.admin, self.shape):
            return int(
                await self.admin.fetchval(f"SELECT count(*) FROM dims.{table} WHERE {where}")
            )


@pytest.fixture(params=["superuser", "ordinary"])
async def site(server: PostgresAddress, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    name = f"keep{next(_numbers)}"
    shape = Shape(partitions=2, prefix=name)
    address = replace(server, database=name)
    async with connected(server) as postgres:
        await postgres.execute(f"CREATE ROLE {name}_dba LOGIN CREATEROLE PASSWORD 'dba'")
        owner = f"{name}_dba" if request.param == "ordinary" else "dims"
        await postgres.execute(f"CREATE DATABASE {name} OWNER {owner}")
        if request.param == "ordinary":
            address = address.as_user(owner, "dba")
        await Migrations(address, shape=shape).migrate()
        async with connected(address) as admin:
            yield Site(address, shape, admin)
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
        for role in await postgres.fetch(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1) "
            "ORDER BY rolname LIKE '%_dba'", name,
        ):  # fmt: skip
            await postgres.execute(f'DROP ROLE "{role["rolname"]}"')


DONE = (
    "(bot_id, inbox_id, dedupe_key, kind, layer, payload, status, finished_at) "
    "SELECT 'bot' || n % 3, n, n, 'k', 1, '', "
    "CASE n % 4 WHEN 0 THEN 'new' WHEN 1 THEN 'dead' ELSE 'done' END, now() - n % 2 * 10 * "
)


async def test_only_old_done_rows_leave_the_queues(site: Site) -> None:
    await site.add("inbox", f"{DONE} {DAY} FROM generate_series(1, 12000) AS n")
    rehearsed = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC), dry_run=True)
    assert rehearsed.rows_deleted == {"inbox": 3000, "outbox": 0}
    assert await site.count("inbox") == 12_000
    said: list[str] = []
    # More than one batch, and the last of them not full.
    assert upkeep.BATCH_ROWS < 3000
    done = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC), say=said.append)
    assert done.rows_deleted == {"inbox": 3000, "outbox": 0}
    assert await site.count("inbox") == 9000
    assert await site.count("inbox", "status = 'done'") == 3000
    assert await site.count("inbox", f"status = 'done' AND finished_at < now() - 7 * {DAY}") == 0
    assert any("inbox" in text for text in said)
    # Who may not say so has each of them written down.
    written = await site.count("audit_log", "action = 'delete'")
    is_superuser = site.address.user == "dims"
    assert written == (0 if is_superuser else 3000)
    none = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC))
    assert none.rows_deleted == {"inbox": 0, "outbox": 0}
    assert "inbox" not in none.vacuumed


async def test_sent_rows_of_the_outbox_leave_too(site: Site) -> None:
    columns = "(bot_id, outbox_id, random_id, method, layer, payload, status, sent_at)"
    await site.add("outbox", f"{columns} VALUES ('a', 1, 1, 'm', 1, '', 'sent', now() - 9 * {DAY}),"
                   f"('a', 2, 2, 'm', 1, '', 'pending', NULL)")  # fmt: skip
    done = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC), keep_done_days=8)
    assert done.rows_deleted["outbox"] == 1
    assert await site.count("outbox", "status = 'pending'") == 1


async def test_months_are_made_ahead_and_dropped_when_all_of_them_is_old(site: Site) -> None:
    async with inspection.as_owner(site.admin, site.shape):
        for name, first, end in (("2020_01", "2020-01-01", "2020-02-01"),
                                 ("2020_02", "2020-02-01", "2020-03-01")):  # fmt: skip
            await site.admin.execute(
                f"CREATE TABLE dims.audit_log_{name} PARTITION OF dims.audit_log "
                f"FOR VALUES FROM ('{first}') TO ('{end}')"
            )
        newest = (await inspection.audit_facts(site.admin)).months[-1]
        await site.admin.execute(f"DROP TABLE dims.audit_log_{newest.replace('-', '_')}")
    before = await inspection.audit_facts(site.admin)
    rehearsed = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC), dry_run=True)
    assert (rehearsed.months_made, rehearsed.months_dropped) == (1, 2)
    assert await inspection.audit_facts(site.admin) == before
    done = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC))
    assert (done.months_made, done.months_dropped) == (1, 2)
    after = (await inspection.audit_facts(site.admin)).months
    assert len(after) == 3
    assert after[-1] == newest


async def test_vacuum_removes_dead_rows_and_knows_how_many_are_left(site: Site) -> None:
    await site.add("users", "(bot_id, user_id) SELECT 'a', n FROM generate_series(1, 9000) AS n")
    async with inspection.as_owner(site.admin, site.shape):
        await site.admin.execute("DELETE FROM dims.users WHERE user_id > 3000")
    done = await upkeep.maintain(site.admin, site.shape, now=datetime.now(UTC))
    assert "users" in done.vacuumed
    sizes = {one.table: one for one in await inspection.table_sizes(site.admin, site.shape)}
    assert sizes["users"].rows_estimate == 3000
    tidy = await inspection.tidiness(site.admin)
    assert tidy.dead_rows == 0
    assert tidy.vacuumed_s is not None


async def test_rows_of_a_bot_are_counted_and_erased(site: Site) -> None:
    await site.add("users", "(bot_id, user_id) VALUES ('a', 1), ('a', 2), ('b', 1)")
    assert await upkeep.count_rows(site.admin, site.shape, "a") == 2
    async with inspection.as_owner(site.admin, site.shape):
        assert await tenancy.erase_bot(site.admin, site.shape, "a") == 2
    assert await upkeep.count_rows(site.admin, site.shape, "a") == 0
    assert await upkeep.count_rows(site.admin, site.shape, "b") == 1


async def test_what_takes_long_is_seen(site: Site) -> None:
    async with connected(site.address) as other:
        await other.execute("BEGIN")
        await other.fetchval("SELECT 'stands still'")
        assert await inspection.running(site.admin) == []
        seen = await inspection.running(site.admin, stalled_s=0.0)
        assert [(one.state, one.sql) for one in seen] == [
            ("idle in transaction", "SELECT 'stands still'")
        ]


async def test_server_and_roles_are_told(site: Site) -> None:
    await put_bot(site.admin, site.shape, "one")
    facts = await inspection.server_facts(site.admin, site.shape)
    assert facts.max_connections == 100
    assert sum(facts.connections.values()) >= 1
    assert facts.connections["admin"] >= 1
    assert not facts.is_replica
    assert await inspection.replica_lag_s(site.admin) is None
    rights = {one.role: one for one in await inspection.rights(site.admin, site.shape)}
    assert rights[site.shape.bot_role("one")].member_of == (site.shape.bot,)
    assert rights[site.shape.bot].rights["SELECT"]
    assert "access_hash" not in str(rights[site.shape.operator].rights)
    assert site.shape.bot_role("one") in await inspection.login_roles(site.admin, site.shape)
