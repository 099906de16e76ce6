"""Roles whose passwords a test knows: put as the steward puts them, and sealed nowhere."""

from __future__ import annotations

import asyncpg

from dims.storage.admin.scram import verifier
from dims.storage.admin.tenancy import LoginRole, put_roles
from dims.storage.names import Shape, quoted
from dims.system.sealed import new_password


async def put_bot(connection: asyncpg.Connection, shape: Shape, bot_id: str) -> str:
    """Makes the role of a bot, or gives it another password; the password."""
    return await _put(connection, shape, shape.bot_role(bot_id), is_bot=True)


async def give_password(connection: asyncpg.Connection, shape: Shape, role: str) -> str:
    """Another password for a role that the first migration made; the password."""
    return await _put(connection, shape, role, is_bot=False)


async def _put(connection: asyncpg.Connection, shape: Shape, role: str, *, is_bot: bool) -> str:
    exists = await connection.fetchval("SELECT to_regrole($1) IS NOT NULL", quoted(role))
    password = new_password()
    await put_roles(connection, shape, [LoginRole(role, verifier(password), is_bot, exists)])
    return password
