"""A database made ready for bots: its schema, their roles, their rows, room for the audit log."""

from __future__ import annotations

import logging

import asyncpg

from dims.addresses import PostgresAddress
from dims.errors import TimedOutError
from dims.services.steward.roles import Roles
from dims.services.steward.upgrade import bring_up_to_date, make_room_for_audit
from dims.storage.names import Shape, quoted

_log = logging.getLogger(__name__)


async def prepare(
    connection: asyncpg.Connection,
    address: PostgresAddress,
    shape: Shape,
    roles: Roles,
    *,
    migrates: bool,
) -> str:
    """Makes what is missing, as an administrator; returns the revision. Safe to repeat.

    Raises StateError for a schema that must not be used or changed, ServiceError without the rights
    for it, TimedOutError for tables that others have locked, and whatever DimsError a migration
    raises.
    """
    try:
        return await _prepare(connection, address, shape, roles, migrates)
    except asyncpg.LockNotAvailableError as error:
        from dims.migrations.advisory_lock import IN_THE_WAY, listed  # noqa: PLC0415 (SQLAlchemy)

        who = listed(await connection.fetch(IN_THE_WAY)) or "somebody who has left since"
        raise TimedOutError(
            f"tables of the database are locked by others: {who}",
            hint="wait, or end it if it is stuck: SELECT pg_terminate_backend(pid)",
        ) from error


async def _prepare(
    connection: asyncpg.Connection,
    address: PostgresAddress,
    shape: Shape,
    roles: Roles,
    migrates: bool,
) -> str:
    revision = await bring_up_to_date(connection, address, shape, migrates=migrates)
    changed = await roles.settle(connection)
    if changed:
        _log.info("made or changed %d roles", changed)
    async with connection.transaction():
        await connection.execute(f"SET LOCAL ROLE {quoted(shape.owner)}")
        await connection.execute(
            "INSERT INTO dims.bots (bot_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
            list(roles.bots),
        )
    await make_room_for_audit(connection, shape)
    return revision
