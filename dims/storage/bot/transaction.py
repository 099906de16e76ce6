"""One transaction of a bot, or a part of one (a savepoint), on a connection that others lend it.

Knows no pool. Statements of several tasks take turns; while an inner block is open, it has the
connection for itself.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

import asyncpg

from dims.errors import DimsError, StateError, TimedOutError, UsageError
from dims.storage.bot.repositories.repository import How
from dims.storage.bot.repositories.tables import Tables
from dims.storage.bot.statements import checked
from dims.storage.connections.storage_errors import (
    ContendedError,
    LostError,
    UnavailableError,
    translate,
)
from dims.storage.names import CORRELATION, literal

log = logging.getLogger("dims.storage")

TURN_S = 10.0
"""How long a statement waits for one of another task, or for an inner block."""
Callback = Callable[[], Awaitable[object] | object]
FOREIGN = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What the driver raises; to be handed to `told`."""


class Isolation(StrEnum):
    """As PostgreSQL's levels, manual 13.2."""

    READ_COMMITTED = "READ COMMITTED"
    REPEATABLE_READ = "REPEATABLE READ"
    SERIALIZABLE = "SERIALIZABLE"


class UndecidedError(LostError):
    """The connection broke while a transaction was being committed: all of it is done, or nothing.
    Look before doing it again."""


def told(error: BaseException, bot_id: str) -> DimsError:
    """What to raise for an error of the driver, with the bot's name in front."""
    failure = translate(error)
    assert failure is not None  # noqa: S101 (FOREIGN is what it knows)
    failure.args = (f"{bot_id}: {failure}",)
    return failure


def is_contended(error: BaseException | None) -> bool:
    """Whether another transaction being in the way is at the bottom of it."""
    while error is not None:
        if isinstance(translate(error), ContendedError):
            return True
        error = error.__cause__
    return False


def begin_statement(isolation: Isolation, *, read_only: bool, correlation_id: str) -> str:
    """BEGIN and what is worked on, for one round trip."""
    begin = f"BEGIN ISOLATION LEVEL {isolation.value}{' READ ONLY' if read_only else ''}"
    if not correlation_id:
        return begin
    return f"{begin}; SET LOCAL {CORRELATION} = {literal(correlation_id)}"


class Transaction(Tables):
    """`async with bot.tx() as tx`: has the repositories of `bot.db`, on this transaction."""

    def __init__(
        self, bot_id: str, connection: asyncpg.Connection, correlation_id: str, depth: int = 0
    ) -> None:
        """`connection` has begun the transaction already."""
        self.bot_id = bot_id
        self._connection = connection
        self._correlation_id = correlation_id
        self._depth = depth
        self._is_open = True
        self._turn = asyncio.Lock()
        self._inner_task: asyncio.Task[Any] | None = None
        self._after: list[Callback] = []
        super().__init__(self)

    @property
    def is_open(self) -> bool:
        """Whether its block has not ended."""
        return self._is_open

    @property
    def connection(self) -> asyncpg.Connection:
        """asyncpg's connection, for what this class has no method for. Do not end the transaction
        on it."""
        self._check()
        return self._connection

    def correlation_id(self) -> str:
        """What was being worked on when it began; empty for nothing."""
        return self._correlation_id

    def on_commit(self, callback: Callback) -> None:
        """Calls, and awaits, `callback` after the outermost block was committed; not at all when
        this block is rolled back. What it raises is logged: the transaction is done."""
        self._check()
        self._after.append(callback)

    async def fetch(self, sql: str, *args: Any) -> list[Any]:
        """All rows of a statement."""
        rows: list[Any] = await self._raw("fetch", sql, args)
        return rows

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """The first row of a statement; None without."""
        return await self._raw("fetchrow", sql, args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first value of the first row; None without."""
        return await self._raw("fetchval", sql, args)

    async def execute(self, sql: str, *args: Any) -> str:
        """The command tag of a statement, such as `UPDATE 3`."""
        tag: str = await self._raw("execute", sql, args)
        return tag

    async def _raw(self, how: How, sql: str, args: tuple[Any, ...]) -> Any:
        checked(sql, in_transaction=True)
        return await self.write(how, sql, *args)

    async def read(self, how: How, sql: str, *args: Any) -> Any:
        """As `write`: a connection that breaks takes the transaction with it."""
        return await self.write(how, sql, *args)

    async def write(self, how: How, sql: str, *args: Any) -> Any:
        """Runs a statement when its turn comes. Raises StateError when the block has ended."""
        await self._take_turn()
        try:
            return await getattr(self._connection, how)(sql, *args)
        except FOREIGN as error:
            raise told(error, self.bot_id) from error
        finally:
            self._turn.release()

    async def attempt(self, how: How, sql: str, *args: Any) -> Any:
        """As `write`, in a savepoint: when it fails, the transaction can go on."""
        async with self.nested() as inner:
            return await inner.write(how, sql, *args)

    # Its end

    async def commit(self) -> None:
        """Commits. Raises UnavailableError when the connection was gone before, UndecidedError when
        it broke meanwhile and nobody knows, StateError when PostgreSQL has rolled it back because
        a statement failed."""
        await self._take_turn()
        self._is_open = False
        if self._connection.is_closed():
            raise UnavailableError(
                f"{self.bot_id}: the connection broke before COMMIT: nothing of it is done",
                hint="do it again",
            )
        if not self._connection.is_in_transaction():
            raise StateError(
                f"{self.bot_id}: a statement ended the transaction before its block did",
                hint="leave COMMIT and ROLLBACK to `async with bot.tx()`",
            )
        try:
            tag = await self._connection.execute("COMMIT")
        except FOREIGN as error:
            raise self._at_commit(error) from error
        if tag != "COMMIT":
            raise _swallowed(self.bot_id)

    def _at_commit(self, error: BaseException) -> DimsError:
        failure = told(error, self.bot_id)
        # A time limit that strikes here leaves the server committing.
        if isinstance(failure, LostError | TimedOutError):
            return UndecidedError(
                f"{self.bot_id}: the connection broke during COMMIT: either all of the "
                "transaction is done or nothing",
                hint="look whether it is before doing it again",
            )
        return failure

    async def roll_back(self) -> None:
        """Undoes all of it, at the latest by cutting the connection off."""
        try:
            if self._is_open:
                await self._take_turn()
                self._is_open = False
                if self._connection.is_in_transaction():
                    await self._connection.execute("ROLLBACK")
        except (*FOREIGN, TimedOutError) as error:
            log.warning("%s: a transaction is cut off, not rolled back: %r", self.bot_id, error)
        finally:
            self._is_open = False
            if not self._connection.is_closed() and self._connection.is_in_transaction():
                self._connection.terminate()

    async def tell(self) -> None:
        """Calls what waits for the commit, in order."""
        for callback in self._after:
            try:
                outcome = callback()
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception:  # foreign code, after the fact
                log.exception("%s: a callback after a commit failed", self.bot_id)

    # Inner blocks

    @asynccontextmanager
    async def nested(self) -> AsyncIterator[Transaction]:
        """A part that can be rolled back by itself."""
        await self._take_turn()
        self._inner_task = asyncio.current_task()
        inner = Transaction(self.bot_id, self._connection, self._correlation_id, self._depth + 1)
        name = f"dims_{inner._depth}"
        try:
            await self._run(f"SAVEPOINT {name}")
            try:
                yield inner
                await inner._release(name)
            except BaseException:
                await inner._undo(name)
                raise
            self._after += inner._after
        finally:
            self._inner_task = None
            self._turn.release()

    async def _release(self, name: str) -> None:
        await self._take_turn()
        self._is_open = False
        try:
            await self._connection.execute(f"RELEASE SAVEPOINT {name}")
        except asyncpg.InFailedSQLTransactionError as error:
            raise _swallowed(self.bot_id) from error
        except FOREIGN as error:
            raise told(error, self.bot_id) from error

    async def _undo(self, name: str) -> None:
        if self._is_open:
            try:
                await self._take_turn()
            except TimedOutError:
                # Somebody else still uses it: without the connection nobody can do harm.
                self._connection.terminate()
        self._is_open = False
        if self._connection.is_closed():
            return
        try:
            await self._connection.execute(
                f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"
            )
        except FOREIGN as error:
            log.warning("%s: a savepoint is not rolled back: %r", self.bot_id, error)
            self._connection.terminate()

    async def _run(self, sql: str) -> None:
        try:
            await self._connection.execute(sql)
        except FOREIGN as error:
            raise told(error, self.bot_id) from error

    # Turns

    def _check(self) -> None:
        if not self._is_open:
            raise StateError(
                f"{self.bot_id}: the transaction this belongs to has ended",
                hint="await tasks inside their `bot.tx()`, or start them in `bot.db.outside()`",
            )

    async def _take_turn(self) -> None:
        self._check()
        if self._turn.locked():
            if self._inner_task is asyncio.current_task():
                raise UsageError(
                    f"{self.bot_id}: an inner bot.tx() is open: use that one",
                    hint="`async with bot.tx() as inner`: inner.users, not outer.users",
                )
            try:
                async with asyncio.timeout(TURN_S):
                    await self._turn.acquire()
            except TimeoutError:
                raise TimedOutError(
                    f"{self.bot_id}: the transaction was busy in another task for {TURN_S:g} s"
                ) from None
        else:
            await self._turn.acquire()
        if not self._is_open:
            self._turn.release()
            self._check()


def _swallowed(bot_id: str) -> StateError:
    return StateError(
        f"{bot_id}: rolled back: a statement failed in this transaction and its error was caught",
        hint="put what may fail into a `bot.tx()` of its own inside",
    )
