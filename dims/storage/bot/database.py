"""`bot.db`: the tables of one bot, raw SQL, transactions. The bot is bound here, once.

Inside `bot.tx()` everything goes through the transaction of the current task, which tasks started
there inherit. Outside, each statement takes a connection of the pool for as long as it runs.
Reads are repeated once when the connection breaks; writes never, for nobody knows what became of
them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from dims.errors import ServiceError, TimedOutError, UsageError
from dims.storage.bot.replica import ReplicaUse
from dims.storage.bot.repositories.repository import How, one_of
from dims.storage.bot.repositories.tables import Tables
from dims.storage.bot.statements import Effect, checked
from dims.storage.bot.transaction import (
    FOREIGN,
    Isolation,
    Transaction,
    begin_statement,
    is_contended,
    told,
)
from dims.storage.connections.pool import Pool
from dims.storage.connections.storage_errors import LostError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from dims.storage.bot.sqlalchemy_session import Sessions

log = logging.getLogger("dims.storage")

TRIES_LIMIT = 10
FIRST_PAUSE_S = 0.01
REPLICA_WAIT_S = 1.0
"""Longer than a busy replica takes, shorter than whoever writes to the bot is patient."""

T = TypeVar("T")


class Database(Tables):
    """The database as one bot sees it: its own rows."""

    def __init__(
        self,
        bot_id: str,
        pool: Pool,
        *,
        replica: Pool | None = None,
        replica_lag_s: float = math.inf,
        correlation: Callable[[], str | None] = lambda: None,
        draw: Callable[[], float],
    ) -> None:
        """`correlation` says what is being worked on, if anything; `draw` gives 0 to 1. For
        `replica_lag_s` seconds after a write, reads go to the primary."""
        self.bot_id = bot_id
        self._pool = pool
        self._replica = replica
        self._use = ReplicaUse(replica_lag_s)
        self._correlation = correlation
        self._draw = draw
        # Not of the module: two databases in one process must not mix up their transactions.
        self._current: ContextVar[Transaction | None] = ContextVar("transaction", default=None)
        self._is_primary: ContextVar[bool] = ContextVar("primary", default=False)
        self._sessions: Sessions | None = None
        super().__init__(self)

    def correlation_id(self) -> str:
        """What is being worked on; empty for nothing."""
        transaction = self._current.get()
        if transaction is not None:
            return transaction.correlation_id()
        return self._correlation() or ""

    # Raw SQL

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """All rows of a statement, as asyncpg's Records. `$1` stands for the first of `args`; JSON
        goes in as text and comes out as Python values. Raises UsageError for SET, BEGIN and the
        like, StorageError and its family for what PostgreSQL refuses."""
        rows: list[Any] = await self._raw("fetch", sql, args)
        return rows

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """The first row of a statement; None without. Else as `fetch`."""
        return await self._raw("fetchrow", sql, args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first value of the first row; None without. Else as `fetch`."""
        return await self._raw("fetchval", sql, args)

    async def execute(self, sql: str, *args: Any) -> str:
        """The command tag of a statement, such as `UPDATE 3`. Else as `fetch`."""
        tag: str = await self._raw("execute", sql, args)
        return tag

    async def _raw(self, how: How, sql: str, args: tuple[Any, ...]) -> Any:
        found = checked(sql, in_transaction=self._current.get() is not None)
        run = self.read if found is Effect.READS else self.write
        return await run(how, sql, *args)

    # Transactions

    @asynccontextmanager
    async def tx(
        self, *, isolation: Isolation | str | None = None, read_only: bool = False
    ) -> AsyncIterator[Transaction]:
        """A transaction: committed when the block ends, rolled back when it raises. Inside, all of
        `bot.db` goes through it; a block inside a block is a savepoint.

        `isolation` is one of Isolation, READ COMMITTED when None. Raises UsageError when an inner
        block asks for one, StateError when a statement had failed and its error was caught,
        UndecidedError when the connection broke during COMMIT, ContendedError when PostgreSQL
        could not serialize it (see `run`).
        """
        outer = self._current.get()
        if outer is not None and outer.is_open:
            if isolation is not None or read_only:
                raise UsageError(
                    f"{self.bot_id}: an inner bot.tx() is a savepoint and has no isolation of its "
                    "own",
                    hint="give it to the outermost one",
                )
            async with outer.nested() as inner:
                with self._within(inner):
                    yield inner
            return
        level = one_of(Isolation, isolation or Isolation.READ_COMMITTED, "isolation")
        async with AsyncExitStack() as stack:
            transaction = await self._begun(stack, level, read_only)
            try:
                with self._within(transaction):
                    yield transaction
                await transaction.commit()
            except BaseException:
                await transaction.roll_back()
                raise
            finally:
                self._wrote()
        await transaction.tell()

    async def run(
        self,
        function: Callable[[Transaction], Awaitable[T]],
        *,
        tries: int = 3,
        isolation: Isolation | str | None = None,
    ) -> T:
        """What `function` returns from within a transaction, which is done again from the start
        when another one was in its way (a serialization failure or a deadlock), at most `tries`
        times. `function` must have no other effects: `tx.on_commit` is for those.

        Inside a `bot.tx()` it runs once: only the outermost can be done again.
        """
        if not 1 <= tries <= TRIES_LIMIT:
            raise UsageError(f"tries must be 1 to {TRIES_LIMIT}, not {tries}")
        outer = self._current.get()
        if outer is not None and outer.is_open:
            async with self.tx() as transaction:
                return await function(transaction)
        for number in range(1, tries):
            try:
                async with self.tx(isolation=isolation) as transaction:
                    return await function(transaction)
            except Exception as error:  # also SQLAlchemy's, around the same cause
                if not is_contended(error):
                    raise
                log.info("%s: a transaction is done again: %s", self.bot_id, error)
            # Full jitter, so that the two that met do not meet again.
            await asyncio.sleep(self._draw() * FIRST_PAUSE_S * 2**number)
        async with self.tx(isolation=isolation) as transaction:
            return await function(transaction)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Inside this block, and in tasks that are started in it, there is no transaction: for
        what must stay when the transaction is rolled back, and for tasks that outlive it."""
        token = self._current.set(None)
        try:
            yield
        finally:
            self._current.reset(token)

    @asynccontextmanager
    async def primary(self) -> AsyncIterator[None]:
        """Inside this block reads go to the primary, for what must be as new as can be."""
        token = self._is_primary.set(True)
        try:
            yield
        finally:
            self._is_primary.reset(token)

    def session(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A SQLAlchemy session, committed when the block ends, rolled back when it raises. It has
        a transaction of its own, or is a part of the current one, which commits it then; either
        way `bot.db` inside the block goes through the same. Tables: `dims.storage.admin.schema`."""
        if self._sessions is None:
            # Bots that do not use it do not pay for it: 25 MB and 0.3 s.
            from dims.storage.bot.sqlalchemy_session import Sessions  # noqa: PLC0415

            self._sessions = Sessions(self)
        return self._sessions.session()

    def current(self) -> Transaction | None:
        """The open transaction of this task, if any."""
        transaction = self._current.get()
        return transaction if transaction is not None and transaction.is_open else None

    @contextmanager
    def _within(self, transaction: Transaction) -> Iterator[None]:
        token = self._current.set(transaction)
        try:
            yield
        finally:
            self._current.reset(token)

    async def _begun(
        self, stack: AsyncExitStack, isolation: Isolation, read_only: bool
    ) -> Transaction:
        said = self._correlation() or ""
        begin = begin_statement(isolation, read_only=read_only, correlation_id=said)
        try:
            connection = await self._beginning(stack, begin)
        except LostError:
            # Nothing was asked yet, so asking again is safe.
            connection = await self._beginning(stack, begin)
        return Transaction(self.bot_id, connection, said)

    async def _beginning(self, stack: AsyncExitStack, begin: str) -> asyncpg.Connection:
        async with AsyncExitStack() as lease:
            connection = await lease.enter_async_context(self._pool.acquire())
            try:
                await connection.execute(begin)
            except FOREIGN as error:
                raise told(error, self.bot_id) from error
            stack.push_async_exit(lease.pop_all())
            return connection

    # Statements

    async def read(self, how: How, sql: str, *args: Any) -> Any:
        """Runs what changes nothing: on the replica where it may, again if the connection breaks.
        `how` is a method of asyncpg's Connection."""
        transaction = self._current.get()
        if transaction is not None:
            return await transaction.read(how, sql, *args)
        if self._replica is not None and self._may_read_replica():
            return await self._read_replica(self._replica, how, sql, args)
        return await self._read(how, sql, args)

    async def write(self, how: How, sql: str, *args: Any) -> Any:
        """Runs anything, once. Raises LostError when the connection broke and nobody knows."""
        transaction = self._current.get()
        if transaction is not None:
            return await transaction.write(how, sql, *args)
        try:
            return await self._once(self._pool, how, sql, args)
        finally:
            self._wrote()

    async def attempt(self, how: How, sql: str, *args: Any) -> Any:
        """As `write`; when it fails, a transaction around it can go on."""
        transaction = self._current.get()
        if transaction is not None:
            return await transaction.attempt(how, sql, *args)
        return await self.write(how, sql, *args)

    async def _read(self, how: How, sql: str, args: tuple[Any, ...]) -> Any:
        try:
            return await self._once(self._pool, how, sql, args)
        except LostError:
            return await self._once(self._pool, how, sql, args)

    async def _once(
        self, pool: Pool, how: How, sql: str, args: tuple[Any, ...], within_s: float | None = None
    ) -> Any:
        try:
            async with pool.acquire(within_s) as connection:
                return await getattr(connection, how)(sql, *args)
        except FOREIGN as error:
            raise told(error, self.bot_id) from error

    # The replica

    def _may_read_replica(self) -> bool:
        return not self._is_primary.get() and self._use.may_read(_now_s())

    def _wrote(self) -> None:
        if self._replica is not None:
            self._use.wrote(_now_s())

    async def _read_replica(self, replica: Pool, how: How, sql: str, args: tuple[Any, ...]) -> Any:
        try:
            found = await self._once(replica, how, sql, args, REPLICA_WAIT_S)
        except (ServiceError, TimedOutError) as error:
            if isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                # A SELECT whose function writes: no reason to leave the replica alone.
                return await self.write(how, sql, *args)
            # What the primary refuses as well is not the replica's fault.
            found = await self._read(how, sql, args)
            if self._use.failed(_now_s()):
                log.warning("%s: the replica failed, the primary is read: %s", self.bot_id, error)
            return found
        if self._use.answered():
            log.info("%s: the replica serves again", self.bot_id)
        return found

    async def close(self, timeout_s: float) -> None:
        """Waits up to `timeout_s` seconds for what is in use, and closes the connections."""
        pools = [self._pool] if self._replica is None else [self._pool, self._replica]
        await asyncio.gather(*(pool.close(timeout_s) for pool in pools))


def _now_s() -> float:
    return asyncio.get_running_loop().time()
