"""The roles of bots: made, given new passwords, removed. Acts on a connection of an administrator.

One bot, one login role, whose name is the tenant (see `names`). A role may do what the group of
bots may, and may not become it. Passwords travel as verifiers only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import asyncpg

from dims.errors import ServiceError, StateError
from dims.storage.admin.foundations import BOT_CONNECTIONS, BOT_SETTINGS, membership
from dims.storage.names import Shape, literal, quoted

_TOO_MUCH = """\
SELECT rolname::text AS name, concat_ws(' ', CASE WHEN rolcreatedb THEN 'NOCREATEDB' END,
  CASE WHEN rolcreaterole THEN 'NOCREATEROLE' END) AS less
FROM pg_catalog.pg_roles WHERE rolname = ANY($1::text[]) AND (rolcreatedb OR rolcreaterole)"""
"""A new role has neither. It is taken away only where it is: an administrator who may not give
CREATEDB may not say NOCREATEDB (PostgreSQL 16). Superuser, replication and row security only a
superuser could give or take."""


@dataclass(frozen=True, slots=True)
class LoginRole:
    """A role to be made, or given another password."""

    name: str
    verifier: str = field(repr=False)
    is_bot: bool
    """Whether it joins the group of bots; others are made by the first migration."""
    exists: bool


async def put_roles(
    connection: asyncpg.Connection, shape: Shape, roles: Iterable[LoginRole]
) -> None:
    """Makes roles that do not exist, and gives all of them their passwords, in one transaction.

    Raises ServiceError without the rights for that, StateError before the first migration.
    """
    roles = list(roles)
    options = membership(await _version(connection), inherit=True, may_set=False)
    found = await connection.fetch(_TOO_MUCH, [role.name for role in roles if role.is_bot])
    less = {row["name"]: row["less"] for row in found}
    script = "\n".join(
        f"{statement};"
        for role in roles
        for statement in _put(role, shape, options, less.get(role.name, ""))
    )
    with _explained("the roles of bots"):
        # Without parameters several statements go in one message, and are one transaction.
        await connection.execute(script)


def _put(role: LoginRole, shape: Shape, options: str, less: str) -> Iterator[str]:
    name, password = quoted(role.name), literal(role.verifier)
    if not role.is_bot:
        yield f"ALTER ROLE {name} LOGIN PASSWORD {password}"
        return
    verb = "ALTER" if role.exists else "CREATE"
    limit = f"CONNECTION LIMIT {BOT_CONNECTIONS}"
    yield f"{verb} ROLE {name} LOGIN INHERIT {less} {limit} PASSWORD {password}"
    yield f"GRANT {quoted(shape.bot)} TO {name}{options}"
    for setting, value in BOT_SETTINGS.items():
        yield f"ALTER ROLE {name} SET {setting} = {literal(value)}"


async def end_sessions(connection: asyncpg.Connection, shape: Shape, bot_id: str) -> int:
    """Ends all connections of a bot's role; how many there were."""
    ended: int = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1",
        shape.bot_role(bot_id),
    )
    return ended


async def drop_bot_role(connection: asyncpg.Connection, shape: Shape, bot_id: str) -> bool:
    """Removes the role of a bot and ends its connections; its rows stay. False when there was
    none."""
    role = shape.bot_role(bot_id)
    if not await connection.fetchval("SELECT to_regrole($1) IS NOT NULL", quoted(role)):
        return False
    with _explained(bot_id):
        # First, and for good: who is thrown out must not come back before the role is gone.
        await connection.execute(f"ALTER ROLE {quoted(role)} NOLOGIN PASSWORD NULL")
        await end_sessions(connection, shape, bot_id)
        await connection.execute(f"DROP ROLE {quoted(role)}")
    return True


async def erase_bot(connection: asyncpg.Connection, shape: Shape, bot_id: str) -> int:
    """Deletes all rows of a bot, as the owner, in one transaction; how many. What the audit log
    has of it stays, and says who erased it."""
    # SQLAlchemy takes a third of a second to import, which every start of the steward would pay.
    from dims.storage.admin.schema import audit_log, tenant_tables  # noqa: PLC0415

    shape.bot_role(bot_id)
    erased = 0
    async with connection.transaction():
        for table in tenant_tables():
            if table is not audit_log:
                tag = await connection.execute(
                    f"DELETE FROM {table.fullname} WHERE bot_id = $1",  # noqa: S608 (our names)
                    bot_id,
                )
                erased += int(tag.rpartition(" ")[2])
        if erased:
            await connection.execute("DELETE FROM dims.audit_log WHERE bot_id = $1", bot_id)
            await connection.execute(
                "INSERT INTO dims.audit_log (bot_id, actor, action, table_name, row_key) "
                "VALUES ($1, session_user, 'delete', 'bots', "
                "jsonb_build_object('bot_id', $1::text))",
                bot_id,
            )
    return erased


async def _version(connection: asyncpg.Connection) -> int:
    version: int = await connection.fetchval("SELECT current_setting('server_version_num')::int")
    return version


@contextlib.contextmanager
def _explained(whose: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise ServiceError(
            f"{whose}: not enough rights to change database roles: {error}",
            hint="connect as the administrator that made the database",
        ) from error
    except asyncpg.UndefinedObjectError as error:
        raise StateError(f"{whose}: {error}", hint="`dims db migrate` makes the roles") from error
