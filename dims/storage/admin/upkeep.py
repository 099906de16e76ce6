"""What a database needs from time to time: months of the audit log, old rows out, VACUUM.

Acts as the owner of the schema, on a connection of an administrator. Each part can be done at any
time, again, and while bots work; what stopped half way is finished by the next call.
"""

# Statements are put together from names in this file.
# ruff: noqa: S608

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from dims.storage.admin import auditing
from dims.storage.admin.inspection import as_owner
from dims.storage.admin.schema import audit_log, tenant_tables
from dims.storage.names import SCHEMA, Shape, quoted

KEEP_AUDIT_DAYS = 365
KEEP_DONE_DAYS = 7
"""Done rows of inbox and outbox are of use to people only, who ask soon or never."""
BATCH_ROWS = 2_000
"""Deleted at once: some ten milliseconds in which the bots concerned may wait."""
DEAD_SHARE, DEAD_FLOOR = 0.1, 1_000
"""A table needs VACUUM when a tenth of it is dead; autovacuum waits for a fifth."""
STALE_SHARE, STALE_FLOOR = 0.1, 50
"""As autovacuum's own (PostgreSQL manual, 19.10), which never counts a partitioned table."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Queue:
    """A table whose rows are of no more use some time after they are done."""

    table: str
    key: str
    done: str
    done_at: str


QUEUES = (
    Queue("inbox", "inbox_id", "done", "finished_at"),
    Queue("outbox", "outbox_id", "sent", "sent_at"),
)


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What was done, or in a dry run would be."""

    is_dry: bool
    months_made: int
    months_dropped: int
    rows_deleted: dict[str, int]
    """Done rows by table."""
    vacuumed: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    """Of the whole database."""


async def maintain(
    connection: asyncpg.Connection,
    shape: Shape,
    *,
    now: datetime,
    keep_audit_days: int = KEEP_AUDIT_DAYS,
    keep_done_days: int = KEEP_DONE_DAYS,
    dry_run: bool = False,
    say: Say = lambda _: None,
) -> Upkeep:
    """Does all of it, as of `now`. A month of the audit log goes once all of it is older than
    `keep_audit_days`."""
    before = await _bytes(connection)
    say("months of the audit log")
    made, dropped = await _months(connection, shape, now - timedelta(days=keep_audit_days), dry_run)
    deleted = {}
    for queue in QUEUES:
        say(f"done rows of {queue.table}")
        older_than = now - timedelta(days=keep_done_days)
        count = _count_done if dry_run else _delete_done
        deleted[queue.table] = await count(connection, shape, queue, older_than)
    needy = await _needy(connection)
    if not dry_run:
        for table in needy:
            say(f"VACUUM of {table}")
            await _vacuum(connection, shape, table)
    after = await _bytes(connection)
    return Upkeep(dry_run, made, dropped, deleted, tuple(needy), before, after)


async def count_rows(connection: asyncpg.Connection, shape: Shape, bot_id: str) -> int:
    """How many rows of a bot there are, those in the audit log not counted. Raises UsageError for
    what is no bot id."""
    shape.bot_role(bot_id)
    names = [table.fullname for table in tenant_tables() if table is not audit_log]
    counts = " + ".join(f"(SELECT count(*) FROM {name} WHERE bot_id = $1)" for name in names)
    async with as_owner(connection, shape):
        count: int = await connection.fetchval(f"SELECT {counts}", bot_id)
    return count


async def _months(
    connection: asyncpg.Connection, shape: Shape, before: datetime, dry_run: bool
) -> tuple[int, int]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL ROLE {quoted(shape.owner)}")
        # The months are locked for as long as it takes to make empty tables; nobody shall wait
        # behind us for more.
        await connection.execute("SET LOCAL lock_timeout = '2s'")
        made = await auditing.make_months(connection)
        dropped = await auditing.drop_months(connection, before)
    except BaseException:
        await transaction.rollback()
        raise
    if dry_run:
        await transaction.rollback()
    else:
        await transaction.commit()
    return made, dropped


async def _count_done(
    connection: asyncpg.Connection, shape: Shape, queue: Queue, older_than: datetime
) -> int:
    async with as_owner(connection, shape):
        count: int = await connection.fetchval(
            f"SELECT count(*) FROM {SCHEMA}.{queue.table} "
            f"WHERE status = '{queue.done}' AND {queue.done_at} < $1",
            older_than,
        )
    return count


async def _delete_done(
    connection: asyncpg.Connection, shape: Shape, queue: Queue, older_than: datetime
) -> int:
    """In batches, each a transaction: bots go on, and a stop half way keeps what was done."""
    deleted = 0
    while True:
        async with _unaudited(connection), as_owner(connection, shape):
            tag = await connection.execute(
                f"DELETE FROM {SCHEMA}.{queue.table} WHERE (bot_id, {queue.key}) IN ("
                f"SELECT bot_id, {queue.key} FROM {SCHEMA}.{queue.table} "
                f"WHERE status = '{queue.done}' AND {queue.done_at} < $1 "
                f"LIMIT {BATCH_ROWS} FOR UPDATE SKIP LOCKED)",
                older_than,
            )
        batch = int(tag.rpartition(" ")[2])
        deleted += batch
        if batch < BATCH_ROWS:
            return deleted


@contextlib.asynccontextmanager
async def _unaudited(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction whose deletions are not written down row by row, where we may say so.

    Else the audit log would grow by what the queues lose. Who is no superuser has it so.
    """
    async with connection.transaction():
        if await connection.fetchval(
            "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user"
        ):
            await connection.execute("SET LOCAL session_replication_role = replica")
        yield


async def _needy(connection: asyncpg.Connection) -> list[str]:
    """Tables with so many dead or changed rows that VACUUM or ANALYZE is worth its time."""
    # Else what we have just deleted would be counted in a second, when VACUUM is over.
    await connection.execute("SELECT pg_stat_force_next_flush()")
    rows = await connection.fetch(_NEEDY, DEAD_FLOOR, DEAD_SHARE, STALE_FLOOR, STALE_SHARE)
    return [row["name"] for row in rows]


async def _vacuum(connection: asyncpg.Connection, shape: Shape, table: str) -> None:
    """With all its partitions; never in a transaction, so the role is set for the session."""
    await connection.execute(f"SET ROLE {quoted(shape.owner)}")
    try:
        await connection.execute(f"VACUUM (ANALYZE, SKIP_LOCKED) {SCHEMA}.{quoted(table)}")
    finally:
        await connection.execute("RESET ROLE")


async def _bytes(connection: asyncpg.Connection) -> int:
    size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
    return size


_NEEDY = """\
SELECT p.relname::text AS name
FROM pg_catalog.pg_class AS p
JOIN pg_catalog.pg_inherits AS i ON i.inhparent = p.oid
JOIN pg_catalog.pg_stat_all_tables AS s ON s.relid = i.inhrelid
WHERE p.relnamespace = to_regnamespace('dims') AND p.relkind = 'p'
GROUP BY p.relname
HAVING sum(s.n_dead_tup) > $1::bigint + $2::float8 * sum(s.n_live_tup)
  OR sum(s.n_mod_since_analyze) > $3::bigint + $4::float8 * sum(s.n_live_tup)
ORDER BY sum(s.n_dead_tup) DESC, p.relname"""
