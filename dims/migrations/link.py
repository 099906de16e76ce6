"""One connection to the server for migrations, its errors in our words."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from dims.addresses import PostgresAddress
from dims.errors import ServiceError, StateError
from dims.storage.admin.foundations import Server
from dims.storage.connections.connecting import connect

DRIVER = "postgresql+asyncpg://"
APPLICATION = "dims migrations"
CONNECTS_WITHIN_S = 10.0
STATEMENT_SHOWN = 80
"""Characters of a statement that failed: enough to find it."""
OLDEST = 150_000
"""security_invoker views need PostgreSQL 15."""
LOCK_NOT_AVAILABLE = "55P03"
DEADLOCK = "40P01"
_WITHOUT_RIGHTS = "42501"
_NO_MEMORY = "53200"
_DISK_FULL = "53100"


@contextlib.asynccontextmanager
async def connected(address: PostgresAddress) -> AsyncIterator[AsyncConnection]:
    """A connection of its own, closed at the end. Raises ServiceError or TimedOutError when
    there is none to get.

    Connect to the server itself: a pooler in transaction mode loses the migration lock.
    """

    async def make() -> asyncpg.Connection:
        # SQLAlchemy brings its own codecs of JSON.
        return await connect(
            address, timeout_s=CONNECTS_WITHIN_S, application_name=APPLICATION, json_codecs=False
        )

    engine = create_async_engine(DRIVER, poolclass=NullPool, async_creator=make)
    try:
        try:
            connection = await engine.connect()
        except (OSError, asyncpg.PostgresError, SQLAlchemyError) as error:
            raise ServiceError(
                f"cannot talk to PostgreSQL at {address}: {_first_line(error)}",
                hint="the connection broke: try again",
            ) from error
        try:
            yield connection
        finally:
            # A connection that was cut off closes as well as it can.
            with contextlib.suppress(SQLAlchemyError, OSError):
                await connection.close()
    finally:
        await engine.dispose()


def server_of(connection: Connection) -> Server:
    """The server at the other end. Raises ServiceError for one that is too old."""
    row = connection.exec_driver_sql(
        "SELECT current_setting('server_version_num')::int AS version, "
        "current_database()::text AS database, session_user::text AS name, "
        "(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user) AS mighty"
    ).one()
    if row.version < OLDEST:
        raise ServiceError(
            f"PostgreSQL {row.version // 10_000} is too old, DIMS needs {OLDEST // 10_000}",
            hint="upgrade the server, or use `storage.database: embedded`",
        )
    return Server(row.version, row.database, row.name, row.mighty)


def sqlstate(error: DBAPIError) -> str:
    """The five characters of PostgreSQL's own error, empty for others (manual, appendix A)."""
    return str(getattr(error.orig, "sqlstate", None) or "")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of the server as ours: `what` failed, and nothing of it was kept."""
    try:
        yield
    except DBAPIError as error:
        message = f"{what} failed, nothing of it was kept: {_first_line(error.orig or error)}"
        match sqlstate(error):
            case "":
                raise ServiceError(message, hint="the connection broke: try again") from error
            case code if code == _WITHOUT_RIGHTS:
                hint = "connect as the administrator that made the database, or as the migrator"
            case code if code == _NO_MEMORY:
                hint = "raise max_locks_per_transaction of the server, or use fewer partitions"
            case code if code == _DISK_FULL:
                hint = "make room on the server's disk and try again"
            case _:
                statement = " ".join((error.statement or "").split())[:STATEMENT_SHOWN]
                hint = f"mend that and try again; the statement: {statement}"
        raise StateError(message, hint=hint) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text.removeprefix(f"{type(error.__cause__)}: ") or type(error).__name__
