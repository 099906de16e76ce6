"""What the server says of a fleet's database, for people who look after it. Asks, changes nothing.

Works for any administrator. What asks for the owner's rights is asked as the owner; what another
role's statements are is not told to one who is neither superuser nor a member of
`pg_read_all_stats`.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

import asyncpg

from dims.storage.names import Shape, quoted

Connection = asyncpg.Connection
"""For those who hand one on without knowing the driver."""
SLOW_S = 1.0
"""A statement that runs for longer is slow."""
STALLED_S = 5.0
"""A transaction in which nothing happens for longer keeps others waiting, and VACUUM from work."""
SQL_SHOWN = 500
SKEWED = 2.0
"""A partition is too large when it has so many times its share."""
SMALL_BYTES = 16 << 20
"""Below, sizes of partitions are those of empty indexes."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """The server and our connection to it."""

    version: str
    source: str
    """`system` or `wheel` for one that may be asked, else empty."""
    tls: str
    """Version and cipher; empty without."""
    uptime_s: float
    database_bytes: int
    max_connections: int
    reserved: int
    """Of those, for superusers and the like only."""
    connections: Mapping[str, int]
    """Open ones by kind of role: `bots`, `migrator`, `operator`, `auditor`, `admin`, `others`."""
    is_replica: bool


@dataclass(frozen=True, slots=True)
class TableSize:
    """One table over all its partitions, with indexes."""

    table: str
    bytes: int
    rows_estimate: int
    partitions: int
    largest_percent: float
    """Of the table, in its largest partition."""
    note: str


@dataclass(frozen=True, slots=True)
class Running:
    """A statement that takes long, or a transaction that stands still."""

    pid: int
    role: str
    state: str
    took_s: float
    sql: str


@dataclass(frozen=True, slots=True)
class Tidiness:
    """What VACUUM would care about."""

    live_rows: int
    dead_rows: int
    vacuumed_s: float | None
    """Since any table was vacuumed, by anybody; None: never."""
    oldest_transaction_s: float | None
    """How long the oldest open transaction has been open; None: there is none."""
    wraparound_percent: float
    """How near the database is to the point where it stops to protect its data."""


@dataclass(frozen=True, slots=True)
class AuditFacts:
    """The months of the audit log."""

    months: tuple[str, ...]
    """Such as `2026-11`, in order."""
    bytes: int
    unplaced_rows: int
    """Estimate of those in no month's partition."""


@dataclass(frozen=True, slots=True)
class RoleRights:
    """One role of ours."""

    role: str
    may_login: bool
    member_of: tuple[str, ...]
    connections: int
    """Open now."""
    rights: Mapping[str, tuple[str, ...]]
    """Tables and views by what was given to this very role: `SELECT`, `UPDATE OF COLUMNS`, ..."""


@contextlib.asynccontextmanager
async def as_owner(connection: asyncpg.Connection, shape: Shape) -> AsyncIterator[None]:
    """A transaction as the owner of the schema."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quoted(shape.owner)}")
        yield


async def server_facts(connection: asyncpg.Connection, shape: Shape) -> ServerFacts:
    """The server."""
    row = await connection.fetchrow(_SERVER)
    kinds = (shape.bot_prefix, shape.migrator, shape.operator, shape.auditor)
    counts = await connection.fetch(_CONNECTIONS, *kinds)
    return ServerFacts(
        version=row["version"].partition(" ")[0],
        source=await _source(connection) if row["is_superuser"] else "",
        tls=row["tls"] or "",
        uptime_s=row["uptime_s"],
        database_bytes=row["database_bytes"],
        max_connections=row["max_connections"],
        reserved=row["reserved"],
        connections={count["kind"]: count["n"] for count in counts},
        is_replica=row["is_replica"],
    )


async def replica_lag_s(connection: asyncpg.Connection) -> float | None:
    """How far a replica is behind, in seconds; None for what is no replica, or has heard
    nothing yet."""
    lag_s: float | None = await connection.fetchval(_LAG)
    return lag_s


async def table_sizes(connection: asyncpg.Connection, shape: Shape) -> list[TableSize]:
    """All tables of tenants, the largest first."""
    async with as_owner(connection, shape):
        rows = await connection.fetch(_SIZES)
    return [
        TableSize(
            row["table_name"],
            row["bytes"],
            row["rows_estimate"],
            row["partitions"],
            row["largest_percent"],
            _note(row["table_name"], row["bytes"], row["partitions"], row["largest_percent"]),
        )
        for row in rows
    ]


async def running(
    connection: asyncpg.Connection, *, slow_s: float = SLOW_S, stalled_s: float = STALLED_S
) -> list[Running]:
    """What takes long right now in this database, the longest first."""
    rows = await connection.fetch(_RUNNING, slow_s, stalled_s, SQL_SHOWN)
    return [Running(*row) for row in rows]


async def tidiness(connection: asyncpg.Connection) -> Tidiness:
    """How tidy the tables are."""
    return Tidiness(*await connection.fetchrow(_TIDINESS))


async def audit_facts(connection: asyncpg.Connection) -> AuditFacts:
    """The audit log."""
    rows = await connection.fetch(_AUDIT)
    months = tuple(row["name"].replace("_", "-") for row in rows if row["name"] != "rest")
    unplaced = sum(row["rows_estimate"] for row in rows if row["name"] == "rest")
    return AuditFacts(months, sum(row["bytes"] for row in rows), unplaced)


async def login_roles(connection: asyncpg.Connection, shape: Shape) -> list[str]:
    """Roles of ours that may log in: bots, operator, auditor, migrator; sorted."""
    others = [shape.migrator, shape.operator, shape.auditor]
    rows = await connection.fetch(_ROLES, shape.bot_prefix, others)
    return [row["name"] for row in rows]


async def rights(connection: asyncpg.Connection, shape: Shape) -> list[RoleRights]:
    """Roles and what each was given, bots last. What the owner may is not listed: everything."""
    groups = [shape.owner, shape.migrator, shape.operator, shape.auditor, shape.bot]
    found = []
    for row in await connection.fetch(_RIGHTS, groups, shape.bot_prefix):
        given: dict[str, list[str]] = defaultdict(list)
        for text in row["given"]:
            right, _, table = text.rpartition(" ")
            given[right].append(table)
        member_of = tuple(row["member_of"])
        tables = {right: tuple(names) for right, names in given.items()}
        found.append(
            RoleRights(row["name"], row["may_login"], member_of, row["connections"], tables)
        )
    return found


async def _source(connection: asyncpg.Connection) -> str:
    directory = await connection.fetchval(
        "SELECT setting FROM pg_catalog.pg_config WHERE name = 'BINDIR'"
    )
    return "wheel" if "pginstall" in PurePath(directory or "").parts else "system"


def _note(table: str, size_bytes: int, partitions: int, largest_percent: float) -> str:
    if table == "audit_log":
        return "by month"
    if size_bytes < SMALL_BYTES:
        return "small"
    if largest_percent > SKEWED * 100 / partitions:
        return f"skewed: one partition of {partitions} holds {largest_percent:g} %"
    return "even"


_SERVER = """\
SELECT current_setting('server_version') AS version,
  (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS is_superuser,
  (SELECT concat_ws(' ', version, cipher) FROM pg_catalog.pg_stat_ssl
    WHERE pid = pg_backend_pid() AND ssl) AS tls,
  extract(epoch FROM now() - pg_postmaster_start_time())::float8 AS uptime_s,
  pg_database_size(current_database()) AS database_bytes,
  current_setting('max_connections')::int AS max_connections,
  current_setting('superuser_reserved_connections')::int
    + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,
  pg_is_in_recovery() AS is_replica"""
_CONNECTIONS = """\
SELECT CASE WHEN starts_with(usename::text, $1) THEN 'bots' WHEN usename = $2 THEN 'migrator'
  WHEN usename = $3 THEN 'operator' WHEN usename = $4 THEN 'auditor'
  WHEN usename = session_user THEN 'admin' ELSE 'others' END AS kind, count(*)::int AS n
FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1 ORDER BY 1"""
_LAG = """\
SELECT CASE WHEN NOT pg_is_in_recovery() THEN NULL
  WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
  ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END::float8"""
_SIZES = """\
SELECT table_name, sum(bytes)::bigint AS bytes, sum(rows_estimate)::bigint AS rows_estimate,
  count(*)::int AS partitions, max(percent_of_table)::float8 AS largest_percent
FROM dims.partition_sizes GROUP BY 1 ORDER BY 2 DESC, 1"""
_RUNNING = """\
SELECT pid, usename::text, state,
  extract(epoch FROM now() - CASE state WHEN 'active' THEN query_start ELSE state_change END)
    ::float8 AS took_s,
  left(regexp_replace(query, '\\s+', ' ', 'g'), $3::int) AS sql
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND (state = 'active' AND now() - query_start > make_interval(secs => $1::float8)
    OR state LIKE 'idle in transaction%'
      AND now() - state_change > make_interval(secs => $2::float8))
ORDER BY took_s DESC LIMIT 20"""
_TIDINESS = """\
SELECT coalesce(sum(n_live_tup), 0)::bigint, coalesce(sum(n_dead_tup), 0)::bigint,
  extract(epoch FROM now() - max(greatest(last_vacuum, last_autovacuum)))::float8,
  (SELECT extract(epoch FROM now() - min(xact_start))::float8 FROM pg_catalog.pg_stat_activity
    WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'),
  (SELECT 100.0 * age(datfrozenxid) / 2100000000 FROM pg_catalog.pg_database
    WHERE datname = current_database())::float8
FROM pg_catalog.pg_stat_all_tables WHERE schemaname = 'dims'"""
_AUDIT = """\
SELECT regexp_replace(c.relname, '^audit_log_', '') AS name,
  pg_total_relation_size(c.oid) AS bytes, greatest(c.reltuples, 0)::bigint AS rows_estimate
FROM pg_catalog.pg_class AS p JOIN pg_catalog.pg_inherits AS i ON i.inhparent = p.oid
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
WHERE p.relnamespace = to_regnamespace('dims') AND p.relname = 'audit_log' ORDER BY 1"""
_ROLES = """\
SELECT rolname::text AS name FROM pg_catalog.pg_roles
WHERE rolcanlogin AND (starts_with(rolname::text, $1) OR rolname = ANY ($2::text[])) ORDER BY 1"""
_RIGHTS = """\
WITH ours AS (
  SELECT oid, rolname::text AS name, rolcanlogin AS may_login FROM pg_catalog.pg_roles
  WHERE rolname = ANY ($1::text[]) OR starts_with(rolname::text, $2)
), given AS (
  SELECT a.grantee, a.privilege_type AS privilege, c.relname::text AS what
  FROM pg_catalog.pg_class AS c, aclexplode(c.relacl) AS a
  WHERE c.relnamespace = to_regnamespace('dims') AND c.relkind IN ('r', 'p', 'v')
    AND a.grantee <> c.relowner
  UNION SELECT a.grantee, a.privilege_type || ' OF COLUMNS', c.relname::text
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS t ON t.attrelid = c.oid,
    aclexplode(t.attacl) AS a
  WHERE c.relnamespace = to_regnamespace('dims') AND a.grantee <> c.relowner
)
SELECT o.name, o.may_login,
  ARRAY(SELECT m.roleid::regrole::text FROM pg_catalog.pg_auth_members AS m
    WHERE m.member = o.oid ORDER BY 1) AS member_of,
  (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE usename = o.name) AS connections,
  ARRAY(SELECT g.privilege || ' ' || g.what FROM given AS g WHERE g.grantee = o.oid ORDER BY 1)
    AS given
FROM ours AS o ORDER BY starts_with(o.name, $2), o.name"""
