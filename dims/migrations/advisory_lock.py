"""The migration lock and who holds it; what the current transaction has locked. SQL and readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

LOCK_KEY = int.from_bytes(b"DIMS\0mig", "big")
"""Of the advisory lock: any number, the same for ever. Advisory locks belong to one database."""
_HOLDER = """\
SELECT l.pid, coalesce(a.usename::text, '?') AS usename,
  coalesce(host(a.client_addr), 'this machine') AS host,
  coalesce(nullif(a.application_name, ''), 'unnamed') AS application
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.pid <> pg_backend_pid() AND l.objsubid = 1
  AND l.classid = ($1::bigint >> 32)::int::oid AND l.objid = ($1::bigint & 4294967295)::oid
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
LIMIT 1"""
IN_THE_WAY = """\
SELECT DISTINCT l.pid, coalesce(a.usename::text, '?') AS usename, c.relname::text AS what
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relnamespace = to_regnamespace('dims')
  AND c.relkind IN ('r', 'p')
ORDER BY l.pid LIMIT 5"""
_TAKEN = """\
SELECT c.relname::text AS name, l.mode
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm')
  AND c.relnamespace = to_regnamespace('dims') AND l.granted"""
MODES = {
    "AccessShareLock": "lets everything go on",
    "RowShareLock": "lets reads and writes go on",
    "RowExclusiveLock": "lets reads and writes go on",
    "ShareUpdateExclusiveLock": "lets reads and writes go on",
    "ShareLock": "keeps writes waiting",
    "ShareRowExclusiveLock": "keeps writes waiting",
    "ExclusiveLock": "keeps writes waiting",
    "AccessExclusiveLock": "keeps reads and writes waiting",
}
"""From weak to strong (PostgreSQL manual, 13.3.1)."""
_STRENGTH = {mode: strength for strength, mode in enumerate(MODES)}


@dataclass(frozen=True, slots=True)
class Lock:
    """The strongest lock on one table."""

    table: str
    mode: str

    @property
    def effect(self) -> str:
        """What it does to the bots."""
        return MODES[self.mode]


def try_lock(connection: Connection) -> None:
    """Takes the migration lock for this session; waits as long as lock_timeout says."""
    connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK_KEY})")


def holder(connection: Connection) -> str:
    """Who holds the migration lock, in words; empty when nobody does."""
    row = connection.exec_driver_sql(_HOLDER, (LOCK_KEY,)).one_or_none()
    if row is None:
        return ""
    return f"pid {row.pid} ({row.application}, role {row.usename}, on {row.host})"


def in_the_way(connection: Connection) -> str:
    """Who uses our tables, in words; empty when nobody does."""
    return listed(connection.exec_driver_sql(IN_THE_WAY))


def listed(rows: Iterable[Sequence[object]]) -> str:
    """Who is in the way, in words; `rows` are those of IN_THE_WAY."""
    return ", ".join(f"pid {pid} (role {role}, {what})" for pid, role, what in rows)


def tables(connection: Connection) -> set[str]:
    """All tables and views there are."""
    rows = connection.exec_driver_sql(
        "SELECT relname::text AS name FROM pg_catalog.pg_class "
        "WHERE relnamespace = to_regnamespace('dims') AND relkind IN ('r', 'p', 'v', 'm')"
    )
    return {row.name for row in rows}


def taken(connection: Connection, among: set[str]) -> list[Lock]:
    """What this transaction has locked, of the tables that were there before, strongest first.

    A table that it has dropped is no longer found by name, and is left to the caller to tell.
    """
    strongest: dict[str, str] = {}
    for row in connection.exec_driver_sql(_TAKEN):
        if row.name in among:
            known = strongest.get(row.name, row.mode)
            strongest[row.name] = max(known, row.mode, key=_STRENGTH.__getitem__)
    for gone in among - tables(connection):
        strongest[gone] = "AccessExclusiveLock"
    order = sorted(strongest.items(), key=lambda item: (-_STRENGTH[item[1]], item[0]))
    return [Lock(name, mode) for name, mode in order]
