"""SQLAlchemy sessions on a transaction of ours. The only module of a worker that imports
SQLAlchemy, and only when a bot asks for a session.

SQLAlchemy gets a connection that is lent: its BEGIN, COMMIT and close do nothing, for the
transaction belongs to `bot.tx()`, and what a session commits or rolls back is a savepoint of it.
JSON is as on all our connections: text goes in, Python values come out, as SQLAlchemy's dialect has
it too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import asyncpg
from sqlalchemy import Connection, NullPool
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from dims.storage.bot.transaction import Transaction
from dims.storage.connections.timed import TimedConnection


class Transactions(Protocol):
    """What is needed of a Database."""

    def current(self) -> Transaction | None:
        """The open transaction of this task."""

    def tx(self) -> Any:
        """A new one."""


class Sessions:
    """The sessions of one database: one engine, which has no connection of its own."""

    def __init__(self, database: Transactions) -> None:
        self._database = database
        self._engine = create_async_engine(
            f"{Dialect.name}+{Dialect.driver}://",
            creator=self._adapted,
            poolclass=NullPool,
            # Errors end up in logs, parameters are what users wrote.
            hide_parameters=True,
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """As `Database.session`."""
        async with AsyncExitStack() as stack:
            if self._database.current() is None:
                await stack.enter_async_context(self._database.tx())
            connection = await stack.enter_async_context(self._engine.connect())
            await connection.begin()
            session = await stack.enter_async_context(
                AsyncSession(
                    bind=connection,
                    join_transaction_mode="create_savepoint",
                    expire_on_commit=False,
                )
            )
            yield session
            await session.commit()

    def _adapted(self) -> Any:
        # A statement without a name is the last one prepared: none can be kept.
        dbapi: Any = self._engine.dialect.dbapi
        return dbapi.connect(async_creator_fn=self._lend, prepared_statement_cache_size=0)

    async def _lend(self) -> Lent:
        transaction = self._database.current()
        assert transaction is not None  # noqa: S101 (`session` has just seen to it)
        return Lent(transaction.connection)


class Lent:
    """An asyncpg connection inside somebody else's transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def prepare(self, query: str, *, name: str | None = None) -> Any:
        """Without a name on the server: behind a pooler names of one client meet those of
        others."""
        del name
        prepared = await self._connection.prepare(query, name="")
        if isinstance(self._connection, TimedConnection):
            return Prepared(self._connection, query, prepared)
        return prepared

    def transaction(self, **_: Any) -> Nothing:
        """It has begun, and ends without SQLAlchemy."""
        return Nothing()

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncpg's own)
        """Gives nothing back: it was lent by the transaction."""

    def terminate(self) -> None:
        """The transaction sees to a connection that is not well."""


class Prepared:
    """A prepared statement within the limits, and in the slow-query log, of its connection."""

    def __init__(self, connection: TimedConnection, query: str, prepared: Any) -> None:
        self._connection = connection
        self._query = query
        self._prepared = prepared

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prepared, name)

    async def fetch(self, *args: Any) -> Any:
        """All rows."""
        return await self._connection.timed(self._query, self._prepared.fetch(*args))


class Nothing:
    """A transaction that somebody else begins and ends."""

    async def start(self) -> None:
        """Has happened."""

    async def commit(self) -> None:
        """Will happen."""

    async def rollback(self) -> None:
        """Will happen where need be."""


class Dialect(PGDialect_asyncpg):
    """SQLAlchemy's, on connections that are set up already."""

    driver = "dims"
    supports_statement_cache = True

    async def setup_asyncpg_json_codec(self, conn: Any) -> None:
        """Ours is the same, and setting it up again asks the server."""

    async def setup_asyncpg_jsonb_codec(self, conn: Any) -> None:
        """As for json."""

    def do_savepoint(self, connection: Connection, name: str) -> None:
        """In one round trip, where a prepared statement takes two."""
        self._plain(connection, f"SAVEPOINT {name}")

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        """As `do_savepoint`."""
        self._plain(connection, f"ROLLBACK TO SAVEPOINT {name}")

    def do_release_savepoint(self, connection: Connection, name: str) -> None:
        """As `do_savepoint`."""
        self._plain(connection, f"RELEASE SAVEPOINT {name}")

    def _plain(self, connection: Connection, sql: str) -> None:
        adapted: Any = connection.connection.dbapi_connection
        adapted.run_async(lambda lent: lent.execute(sql))


registry.register(f"{Dialect.name}.{Dialect.driver}", __name__, Dialect.__name__)
