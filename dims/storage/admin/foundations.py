"""What must be there before the first revision: roles, rights on the database, an empty schema.

Made by an administrator: a superuser, or who may create roles and owns the database. Never undone
by a rollback, as roles belong to the whole server and outlive a database.
"""

# Statements are put together from names that `Shape.check` has let through.
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from dims.storage.names import SCHEMA, Shape, literal, quoted

MEMBERSHIP_OPTIONS_SINCE = 160_000
"""GRANT ... WITH INHERIT, SET: PostgreSQL 16."""
BOT_CONNECTIONS = 10
BOT_SETTINGS = {
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "lock_timeout": "10s",
    "search_path": SCHEMA,
}
"""Defaults of a bot's sessions, which it may change: they guard against accidents, not attacks."""
SHARED_FUNCTIONS = r"^(lo_|lo(write|read)$|pg_(try_)?advisory_)"
"""Of pg_catalog: large objects and advisory locks are one room for all tenants of a database. With
the latter, a bot could keep every migration waiting."""


@dataclass(frozen=True, slots=True)
class Server:
    """What has to be known of the server one is connected to."""

    version: int
    """As server_version_num: 150018 is 15.18."""
    database: str
    user: str
    is_superuser: bool


def membership(server_version: int, *, inherit: bool, may_set: bool) -> str:
    """The end of GRANT role TO role: what a member gets. Before PostgreSQL 16 a member may always
    SET ROLE, and inherits as its own INHERIT attribute says."""
    if server_version < MEMBERSHIP_OPTIONS_SINCE:
        return ""
    return f" WITH INHERIT {str(inherit).upper()}, SET {str(may_set).upper()}, ADMIN FALSE"


def roles(shape: Shape, server: Server, existing: Collection[str]) -> Iterator[str]:
    """Makes the roles that do not exist, and puts right what those may be that do."""
    attributes = {
        shape.owner: "NOLOGIN NOINHERIT",
        shape.migrator: "LOGIN NOINHERIT",
        shape.operator: "LOGIN INHERIT",
        shape.auditor: "LOGIN INHERIT",
        shape.bot: "NOLOGIN NOINHERIT",
    }
    # Only a superuser may even say NOSUPERUSER of a role that is there.
    nothing = "NOCREATEDB NOCREATEROLE"
    if server.is_superuser:
        nothing += " NOSUPERUSER NOREPLICATION NOBYPASSRLS"
    for role, what in attributes.items():
        verb = "ALTER" if role in existing else "CREATE"
        yield f"{verb} ROLE {quoted(role)} {what} {nothing}"
    options = membership(server.version, inherit=False, may_set=True)
    yield f"GRANT {quoted(shape.owner)} TO {quoted(shape.migrator)}{options}"
    if not server.is_superuser and server.user != shape.migrator:
        yield f"GRANT {quoted(shape.owner)} TO {quoted(server.user)}{options}"


def database(shape: Shape, server: Server) -> Iterator[str]:
    """Closes the database to the public and opens it to our roles."""
    name = quoted(server.database)
    comers = (shape.migrator, shape.operator, shape.auditor, shape.bot)
    yield f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"
    yield f"GRANT CONNECT ON DATABASE {name} TO {', '.join(quoted(role) for role in comers)}"
    yield f"GRANT CREATE ON DATABASE {name} TO {quoted(shape.owner)}"
    yield "REVOKE ALL ON SCHEMA public FROM PUBLIC"
    yield "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC"
    yield "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC"
    if server.is_superuser:
        yield _close_shared_functions(shape)


def schema(shape: Shape) -> Iterator[str]:
    """The empty schema, and what is remembered of how it was made. As the owner."""
    readers = ", ".join(quoted(r) for r in (shape.bot, shape.operator, shape.auditor))
    # As the owner itself: an administrator that is no superuser does not have its rights.
    for what in ("FUNCTIONS", "TYPES"):
        yield f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON {what} FROM PUBLIC"
    yield f"CREATE SCHEMA {SCHEMA} AUTHORIZATION {quoted(shape.owner)}"
    yield f"GRANT USAGE ON SCHEMA {SCHEMA} TO {readers}"
    yield (
        f"CREATE TABLE {SCHEMA}.installation (partitions integer NOT NULL, prefix text NOT NULL, "
        "made_at timestamptz NOT NULL DEFAULT now())"
    )
    yield f"CREATE UNIQUE INDEX installation_one ON {SCHEMA}.installation ((true))"
    yield (
        f"INSERT INTO {SCHEMA}.installation (partitions, prefix) "
        f"VALUES ({shape.partitions}, {literal(shape.prefix)})"
    )
    yield (
        f"CREATE TABLE {SCHEMA}.alembic_version "
        "(version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)"
    )
    for table in ("installation", "alembic_version"):
        yield f"GRANT SELECT ON {SCHEMA}.{table} TO {quoted(shape.operator)}"


def _close_shared_functions(shape: Shape) -> str:
    """The owner keeps advisory locks: migrations need one."""
    return f"""\
DO $ground$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_catalog.pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
    AND proname ~ {literal(SHARED_FUNCTIONS)}
  LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I, %I', f,
      {literal(shape.owner)}, {literal(shape.migrator)});
  END LOOP;
END
$ground$"""
