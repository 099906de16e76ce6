"""A server in memory with as much of a connection as the pool uses.

`check_twin` says what that is; a test runs it against the real one as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dims.storage.connections.storage_errors import StorageError, UnavailableError

OPENS_S = 0.008
LETS_GO_S = 0.002
FAILS_S = 0.003


class TwinServer:
    """Knows how many connections are held; can be down, and can refuse."""

    def __init__(self) -> None:
        self.is_down = False
        self.refuses = False
        self.held: set[TwinConnection] = set()
        self.under_way = 0
        self.attempts: list[tuple[float, int]] = []
        """When each began, and beside how many others."""
        self.failures: list[tuple[float, bool]] = []
        """When each ended, and whether it passes."""
        self.successes: list[float] = []

    async def connect(self) -> TwinConnection:
        loop = asyncio.get_running_loop()
        self.attempts.append((loop.time(), self.under_way))
        self.under_way += 1
        try:
            await asyncio.sleep(FAILS_S if self.is_down or self.refuses else OPENS_S)
            if self.refuses or self.is_down:
                self.failures.append((loop.time(), not self.refuses))
            if self.refuses:
                raise StorageError("the password is wrong")
            if self.is_down:
                raise UnavailableError("nobody listens there")
        finally:
            self.under_way -= 1
        self.successes.append(loop.time())
        return TwinConnection(self)

    def crash(self) -> None:
        """Every connection breaks."""
        for connection in list(self.held):
            connection.break_off()


class TwinConnection:
    """As asyncpg's, without SQL but BEGIN, ROLLBACK and SET."""

    def __init__(self, server: TwinServer) -> None:
        self._server = server
        self._listeners: list[Callable[[Any], None]] = []
        self._is_closed = False
        self._is_in_transaction = False
        self.is_changed = False
        """Whether settings of the session are not as they were."""
        server.held.add(self)

    def is_closed(self) -> bool:
        return self._is_closed

    def is_in_transaction(self) -> bool:
        return self._is_in_transaction

    def add_termination_listener(self, listener: Callable[[Any], None]) -> None:
        self._listeners.append(listener)

    def add_query_logger(self, listener: Callable[[Any], None]) -> None:
        """Statements take no time here."""

    async def execute(self, sql: str) -> None:
        assert not self._is_closed
        if sql.startswith("SET"):
            self.is_changed = True
        else:
            self._is_in_transaction = sql == "BEGIN"

    async def reset(self, *, timeout: float) -> None:  # noqa: ARG002, ASYNC109  # as asyncpg's
        await asyncio.sleep(0.001)
        if self._is_closed:
            raise ConnectionError("connection is closed")
        self._is_in_transaction = self.is_changed = False

    async def close(self, *, timeout: float) -> None:  # noqa: ARG002, ASYNC109  # as asyncpg's
        try:
            if not self._is_closed:
                self._is_closed = True
                await asyncio.sleep(LETS_GO_S)
        finally:
            self.break_off()

    def terminate(self) -> None:
        self.break_off()

    def break_off(self) -> None:
        self._is_closed = True
        self._server.held.discard(self)
        for listener in self._listeners:
            asyncio.get_running_loop().call_soon(listener, self)
        self._listeners.clear()


async def check_twin(connect: Callable[[], Awaitable[Any]]) -> None:
    """What the pool relies on, of a connection of any kind."""
    told: list[object] = []
    connection = await connect()
    connection.add_termination_listener(told.append)
    connection.add_query_logger(told.append)
    assert not connection.is_closed()
    assert not connection.is_in_transaction()
    await connection.execute("BEGIN")
    assert connection.is_in_transaction()
    await connection.execute("ROLLBACK")
    assert not connection.is_in_transaction()
    await connection.reset(timeout=5)
    assert not connection.is_closed()
    told.clear()  # Statements were told as well.
    await connection.close(timeout=5)
    assert connection.is_closed()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == [connection]
    await connection.close(timeout=5)
    connection.terminate()

    cut = await connect()
    cut.add_termination_listener(told.append)
    cut.terminate()
    assert cut.is_closed()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert told == [connection, cut]
