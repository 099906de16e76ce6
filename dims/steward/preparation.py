"""A database made ready for bots: its schema, their roles, their rows, room for the audit log."""

from __future__ import annotations

import logging

import asyncpg  # type: ignore[import-untyped]

from dims.configuration.server_urls import PostgresAddress
from dims.steward.roles import Roles
from dims.steward.schema import bring_up_to_date, make_room_for_audit
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
    for it, and whatever DimsError a migration raises.
    """
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
