"""A connection that knows how long its statements take. Knows no pool, and nothing of SQL.

The driver sets a timer for each statement and makes a record of it for those who listen: 15 µs
where a point read takes 60. Here one timer looks after all statements, and a record has two fields.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

import asyncpg

T = TypeVar("T")


class Timed(NamedTuple):
    """A statement that has ended; named as in asyncpg's LoggedQuery."""

    query: str
    elapsed: float
    """In seconds."""


class TimedConnection(asyncpg.Connection):  # type: ignore[misc]
    """asyncpg's connection. Statements through its own methods end with TimeoutError, and are
    cancelled at the server, after the limit; what goes round them (statements prepared by hand,
    COPY, cursors) is limited by the server alone."""

    __slots__ = ("_cancelling", "_is_late", "_limit_s", "_listeners", "_since_s", "_task", "_watch")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limit_s: float | None = None
        self._listeners: list[Callable[[Timed], object]] = []
        self._task: asyncio.Task[Any] | None = None
        self._since_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._is_late = False
        self._cancelling = 0

    @property
    def is_busy(self) -> bool:
        """Whether a statement runs."""
        return self._task is not None

    def get_reset_query(self) -> str:
        """As asyncpg's, but for advisory locks: bots have none, and asking to release them is
        forbidden to bots."""
        return "CLOSE ALL; UNLISTEN *; RESET ALL"

    def limit(self, limit_s: float) -> None:
        """No statement may take longer from now on."""
        self._limit_s = limit_s

    def add_query_logger(self, callback: Callable[[Timed], object]) -> None:
        """Calls `callback` after each statement, at once; it must be quick and must not raise."""
        self._listeners.append(callback)

    def remove_query_logger(self, callback: Callable[[Timed], object]) -> None:
        """No longer calls it."""
        self._listeners.remove(callback)

    def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return self.timed(query, super().fetch(query, *args, **options))

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return self.timed(query, super().fetchrow(query, *args, **options))

    def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return self.timed(query, super().fetchval(query, *args, **options))

    def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return self.timed(query, super().execute(query, *args, **options))

    def executemany(self, command: str, args: Any, **options: Any) -> Any:
        """As asyncpg's."""
        return self.timed(command, super().executemany(command, args, **options))

    async def timed(self, query: str, running: Coroutine[Any, Any, T]) -> T:
        """What `running`, which runs `query` on this connection, returns. Raises TimeoutError."""
        if self._task is not None:
            # Two at once: the driver refuses the second, and the first one stays watched.
            return await running
        loop = asyncio.get_running_loop()
        began_s = self._since_s = loop.time()
        self._task = asyncio.current_task()
        if self._watch is None and self._limit_s is not None:
            self._watch = loop.call_at(began_s + self._limit_s, self._look)
        try:
            return await running
        except asyncio.CancelledError:
            if self._is_late and self._task.uncancel() <= self._cancelling:  # type: ignore[union-attr]
                raise TimeoutError from None
            raise
        finally:
            self._task = None
            self._is_late = False
            if self._listeners:
                record = Timed(query, loop.time() - began_s)
                for listener in self._listeners:
                    listener(record)

    def _look(self) -> None:
        """Cancels the statement that has run for too long, else looks again when it will have."""
        self._watch = None
        if self._task is None or self._limit_s is None:
            return
        loop = asyncio.get_running_loop()
        if (until_s := self._since_s + self._limit_s) > loop.time():
            self._watch = loop.call_at(until_s, self._look)
            return
        self._is_late = True
        self._cancelling = self._task.cancelling()
        self._task.cancel()
