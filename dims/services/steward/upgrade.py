"""The revision of the database, looked at and brought up to date.

A database that is up to date is recognised by one query: Alembic and SQLAlchemy, half a second to
import, are loaded only when there is something to do.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import asyncpg

from dims.addresses import PostgresAddress
from dims.errors import StateError
from dims.migrations.head import head
from dims.storage.admin import auditing
from dims.storage.names import SCHEMA, Shape, quoted

if TYPE_CHECKING:
    from dims.migrations.runner import MigrationProgress

LOCK_WITHIN_S = 3.0
TRIES = 2
"""Less patience than `dims db migrate` has: who is in the way is told soon, and each restart of the
steward tries again."""

_log = logging.getLogger(__name__)


async def bring_up_to_date(
    connection: asyncpg.Connection, address: PostgresAddress, shape: Shape, *, migrates: bool
) -> str:
    """Migrates if that is needed and allowed; returns the revision.

    Raises StateError for a schema that is ahead, or behind when it must not migrate, and whatever
    DimsError a migration raises, of which nothing was kept then.
    """
    found = await _revision(connection, shape)
    if found == head():
        return found
    if not migrates:
        raise StateError(
            f"the database is at revision {found or 'none'}, this DIMS needs {head()}",
            hint="`dims db migrate`, or `storage.migrate: true`",
        )
    from dims.migrations.runner import MigrationLimits, Migrations  # noqa: PLC0415 (see above)

    limits = MigrationLimits(migration_lock_s=LOCK_WITHIN_S, tries=TRIES)
    report = await Migrations(address, shape=shape, limits=limits, progress=_tell).migrate()
    _log.info("the database is at revision %s, it was at %s", report.after, report.before)
    return str(report.after)


async def make_room_for_audit(connection: asyncpg.Connection, shape: Shape) -> int:
    """Makes the coming months of the audit log; how many were missing."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quoted(shape.owner)}")
        return await auditing.make_months(connection)


async def _revision(connection: asyncpg.Connection, shape: Shape) -> str | None:
    """What a migration left; None where none ever ran, or another's is: the runner says which."""
    owner = await connection.fetchval(
        "SELECT pg_catalog.pg_get_userbyid(c.relowner)::text FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relname = 'alembic_version'",
        SCHEMA,
    )
    if owner != shape.owner:
        return None
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quoted(shape.owner)}")
        version: str | None = await connection.fetchval(
            f"SELECT version_num FROM {SCHEMA}.alembic_version"  # noqa: S608 (our own name)
        )
    return version


def _tell(progress: MigrationProgress) -> None:
    if not progress.statements:
        _log.info("%s (%d of %d)", progress.text, progress.number, progress.steps)
