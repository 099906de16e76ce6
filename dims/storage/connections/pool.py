"""A worker's connections: how many are open, who has one, who is next. Knows no SQL.

Not asyncpg's own pool, for four reasons: a budget of the whole fleet says how many may be open
(`allow`), who waited longest is served first, idle connections are given back, and a plain read
costs one round trip and not two.

Every change of state happens in one go between two awaits: tasks only open, mend and close, and
what came of it is noted by their callbacks. That makes every await safe to cancel.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import asyncpg

from dims.errors import DimsError, ServiceError, TimedOutError
from dims.storage.connections.attempts import Attempts
from dims.storage.connections.slow_queries import SlowQueries, SlowQuery
from dims.storage.connections.storage_errors import StorageError, is_passing

log = logging.getLogger("dims.storage")

SLICE_S = 0.05
"""How long a connection beyond its allowance may serve one waiter after the other. Opening costs
about 8 ms: a fleet with fewer connections than bots would otherwise spend its time opening."""
MEND_WITHIN_S = 2.0
CLOSE_WITHIN_S = 2.0
"""A server that has not let go by then is not waited for."""


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of one pool; times in seconds. Their defaults are those of the configuration."""

    max_size: int
    idle_s: float
    """An idle connection is given back after so long."""
    acquire_s: float
    """How long one waits for a connection unless told otherwise."""
    statement_s: float
    """The limit of one statement; kept by whoever connects."""
    slow_s: float
    """Statements that took as long or longer are logged."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Plain numbers; `acquired`, `connects`, `failures` and `slow` count from the beginning."""

    open: int
    idle: int
    in_use: int
    waiting: int
    allowed: int
    acquired: int
    waited_max_s: float
    connects: int
    failures: int
    slow: int


class _Member:
    """A connection of the pool."""

    __slots__ = ("connection", "idle_since_s", "opened_s")

    def __init__(self, connection: asyncpg.Connection, opened_s: float) -> None:
        self.connection = connection
        self.opened_s = opened_s
        self.idle_since_s = opened_s


class Borrowed:
    """A connection for the time of one `async with`."""

    __slots__ = ("_give", "_is_raw", "_member", "_take", "_timeout_s")

    def __init__(
        self,
        take: Callable[[float | None], Awaitable[_Member]],
        give: Callable[[_Member, bool], None],
        timeout_s: float | None,
        is_raw: bool,
    ) -> None:
        self._take = take
        self._give = give
        self._timeout_s = timeout_s
        self._is_raw = is_raw

    async def __aenter__(self) -> asyncpg.Connection:
        self._member = await self._take(self._timeout_s)
        return self._member.connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give(self._member, self._is_raw or kind is not None)


class Pool:
    """The connections of one worker to one database."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        limits: PoolLimits,
        *,
        name: str,
        on_change: Callable[[], None] = lambda: None,
        allowed: int | None = None,
        draw: Callable[[], float],
    ) -> None:
        """`connect` opens one connection and ends within a limit of its own; what it raises as
        passing (`failures.is_passing`) is tried again. `on_change` is called whenever `open` or
        `wanted` changed; it must be quick and must not raise. `allowed` is as in `allow`; None:
        as many as the limits say. `draw` gives 0 to 1, for the jitter. Opens nothing until
        somebody asks."""
        self._connect = connect
        self._limits = limits
        self._name = name
        self._on_change = on_change
        self._draw = draw
        self._allowed = limits.max_size if allowed is None else max(0, allowed)
        self._attempts = Attempts()
        self._slow = SlowQueries(name, limits.slow_s)

        self._idle: list[_Member] = []
        """The longest idle first; the last is taken first, so that the others may grow old."""
        self._in_use: set[_Member] = set()
        self._opening: set[asyncio.Task[asyncpg.Connection]] = set()
        self._mending: dict[asyncio.Task[None], _Member] = {}
        self._closing: dict[asyncio.Task[None], _Member] = {}
        self._waiters: OrderedDict[asyncio.Future[_Member], None] = OrderedDict()

        self._reaper: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._told = (0, 0)
        self._acquired = 0
        self._connects = 0
        self._failures = 0
        self._waited_max_s = 0.0

    # What is seen from outside

    @property
    def open(self) -> int:
        """What counts against the server's limit: a connection does from before it is opened
        until the server has let go of it."""
        kept = len(self._idle) + len(self._in_use) + len(self._mending)
        return kept + len(self._opening) + len(self._closing)

    @property
    def wanted(self) -> int:
        """How many connections would be of use now: in use and waited for, at most `max_size`."""
        return min(self._limits.max_size, len(self._in_use) + len(self._waiters))

    @property
    def slow(self) -> deque[SlowQuery]:
        """The last slow statements, the newest last."""
        return self._slow.last

    def stats(self) -> PoolStats:
        """The numbers of this moment."""
        return PoolStats(
            open=self.open,
            idle=len(self._idle),
            in_use=len(self._in_use),
            waiting=len(self._waiters),
            allowed=self._limit,
            acquired=self._acquired,
            waited_max_s=self._waited_max_s,
            connects=self._connects,
            failures=self._failures,
            slow=self._slow.count,
        )

    def acquire(self, timeout_s: float | None = None, *, raw: bool = False) -> Borrowed:
        """A connection for an `async with`; who asked first is served first.

        `raw` says that the session itself may be changed (SET, LISTEN): then it is
        reset afterwards, which costs a round trip of nobody who asks. So it is after an exception.

        Raises TimedOutError after `timeout_s` seconds (None: as in the settings), and ServiceError
        at once when the pool is closed, or when the server refuses in a way that does not pass.
        """
        return Borrowed(self._take, self._give_back, timeout_s, raw)

    def allow(self, n: int) -> None:
        """At most `n` connections may be open from now on. Surplus ones are closed: at once when
        idle, else after use. 0 is legal: whoever asks then waits."""
        self._allowed = max(0, n)
        self._settle()

    async def close(self, timeout_s: float) -> None:
        """Refuses whoever waits, waits for what is in use, and closes all. After `timeout_s`
        seconds, or when cancelled, the rest is cut off."""
        self._is_closed = True
        self._refuse(ServiceError(f"{self._name}: the database pool is closed"))
        for opener in self._opening:
            opener.cancel()
        self._settle()
        try:
            async with asyncio.timeout(timeout_s):
                await self._is_empty.wait()
        except TimeoutError:
            log.warning("%s: %d database connections are cut off", self._name, self.open)
        finally:
            self._cut_off()

    # Taking and giving back

    async def _take(self, timeout_s: float | None) -> _Member:
        if self._is_closed:
            raise ServiceError(f"{self._name}: the database pool is closed")
        if self._idle and not self._waiters and (member := self._fresh()):
            self._in_use.add(member)
            self._acquired += 1
            self._tell()
            return member
        return await self._wait(self._limits.acquire_s if timeout_s is None else timeout_s)

    async def _wait(self, timeout_s: float) -> _Member:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if not self._works and (refusal := self._attempts.refusal(began_s)):
            # What lay idle may just have been found dead.
            self._tell()
            raise _copy(refusal)
        waiter: asyncio.Future[_Member] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_later(timeout_s, self._expire, waiter, timeout_s)
        self._settle()
        try:
            member = await waiter
        except asyncio.CancelledError:
            self._waiters.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result(), False)
            self._settle()
            raise
        finally:
            timer.cancel()
            self._waited_max_s = max(self._waited_max_s, loop.time() - began_s)
        self._acquired += 1
        return member

    def _expire(self, waiter: asyncio.Future[_Member], timeout_s: float) -> None:
        if waiter.done():
            return
        error = self._too_late(timeout_s)
        del self._waiters[waiter]
        waiter.set_exception(error)
        self._settle()

    def _too_late(self, timeout_s: float) -> TimedOutError:
        busy, waiting = len(self._in_use), len(self._waiters)
        text = (
            f"{self._name}: no database connection within {timeout_s:g} s: "
            f"{busy} in use, {waiting} wait{'s' if waiting == 1 else ''}"
        )
        if (reason := self._attempts.reason) is not None:
            return TimedOutError(f"{text}; the last attempt: {reason}", hint=reason.hint)
        if self._allowed < self._limits.max_size and self.open >= self._allowed:
            return TimedOutError(
                f"{text}; the fleet's connection budget is used up "
                f"({self._allowed} for this bot now)",
                hint="raise storage.connections, and the server's max_connections with it",
            )
        if self._opening and not busy:
            return TimedOutError(f"{text}; the server has not answered yet")
        return TimedOutError(text, hint="shorten what holds connections, or raise pool.max_size")

    def _give_back(self, member: _Member, is_doubtful: bool) -> None:
        self._in_use.discard(member)
        connection = member.connection
        if connection.is_closed():
            self._attempts.lost()
        elif connection.is_in_transaction():
            log.warning("%s: a connection came back inside a transaction", self._name)
            self._retire(member)
        elif is_doubtful:
            self._mend(member)
        else:
            self._keep(member)
            if not self._waiters:
                # All of `_settle` that is left to do then, and done after each statement.
                self._watch_idle()
                self._tell()
                return
        self._settle()

    def _keep(self, member: _Member) -> None:
        now_s = asyncio.get_running_loop().time()
        may_serve_on = self._waiters and now_s < member.opened_s + SLICE_S
        if self._surplus >= 0 and not may_serve_on:
            self._retire(member)
        else:
            member.idle_since_s = now_s
            self._idle.append(member)

    # Deciding

    @property
    def _limit(self) -> int:
        if self._is_closed:
            return 0
        return min(self._limits.max_size, self._allowed)

    @property
    def _surplus(self) -> int:
        """By how much the limit is overstepped, not counting what is on its way out."""
        kept = len(self._idle) + len(self._in_use) + len(self._mending) + len(self._opening)
        return kept - self._limit

    @property
    def _works(self) -> int:
        """Connections that may come back to whoever waits."""
        return len(self._idle) + len(self._in_use) + len(self._mending)

    def _settle(self) -> None:
        """Brings what is open in line with what is waited for and allowed."""
        while self._waiters and (member := self._fresh()):
            waiter, _ = self._waiters.popitem(last=False)
            if waiter.done():
                self._idle.append(member)
            else:
                self._in_use.add(member)
                waiter.set_result(member)
        if self._idle:
            while self._idle and self._surplus > 0:
                self._retire(self._idle.pop(0))
            self._watch_idle()
        if self._waiters:
            self._open_more()
        self._tell()

    def _fresh(self) -> _Member | None:
        """The idle connection that was used last and still lives."""
        while self._idle:
            member = self._idle.pop()
            if not member.connection.is_closed():
                return member
            self._attempts.lost()
        return None

    def _open_more(self) -> None:
        if self._is_closed:
            return
        while len(self._waiters) > len(self._opening) + len(self._mending):
            if self.open >= self._limit:
                return
            now_s = asyncio.get_running_loop().time()
            if not self._attempts.may_begin(now_s, len(self._opening)):
                if not self._opening:
                    self._retry_at(self._attempts.not_before_s)
                return
            task = asyncio.get_running_loop().create_task(self._opened())
            self._opening.add(task)
            task.add_done_callback(self._note_opened)

    def _retry_at(self, at_s: float) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_at(at_s, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._settle()

    def _watch_idle(self) -> None:
        if self._idle and self._reaper is None:
            at_s = self._idle[0].idle_since_s + self._limits.idle_s
            self._reaper = asyncio.get_running_loop().call_at(at_s, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        since_s = asyncio.get_running_loop().time() - self._limits.idle_s
        while self._idle and self._idle[0].idle_since_s <= since_s:
            self._retire(self._idle.pop(0))
        self._settle()

    def _tell(self) -> None:
        now = (self.open, self.wanted)
        if now == self._told:
            return
        if now[0] != self._told[0]:
            if now[0]:
                self._is_empty.clear()
            else:
                self._is_empty.set()
        self._told = now
        self._on_change()

    # Opening, mending, closing: tasks, and what is noted when one has ended

    async def _opened(self) -> asyncpg.Connection:
        return await self._connect()

    def _note_opened(self, task: asyncio.Task[asyncpg.Connection]) -> None:
        self._opening.discard(task)
        if task.cancelled():
            self._tell()
        elif (error := task.exception()) is not None:
            self._note_failed(error)
            self._settle()
        else:
            self._welcome(task.result())
            self._settle()

    def _welcome(self, connection: asyncpg.Connection) -> None:
        if self._attempts.reason is not None:
            log.info("%s: the database takes connections again", self._name)
        self._attempts.succeeded()
        self._connects += 1
        member = _Member(connection, asyncio.get_running_loop().time())
        connection.add_query_logger(self._slow.heard)
        connection.add_termination_listener(partial(self._note_lost, member))
        self._keep(member)

    def _note_failed(self, error: BaseException) -> None:
        reason = error if isinstance(error, DimsError) else ServiceError(f"cannot connect: {error}")
        self._failures += 1
        if self._attempts.reason is None:
            log.warning("%s: %s", self._name, reason)
        passes = is_passing(error)
        now_s = asyncio.get_running_loop().time()
        self._attempts.failed(reason, is_passing=passes, now_s=now_s, draw=self._draw())
        if not passes and not self._works:
            self._refuse(reason)

    def _note_lost(self, member: _Member, _connection: asyncpg.Connection) -> None:
        if member in self._idle:
            self._idle.remove(member)
            self._attempts.lost()
            self._settle()
        elif member in self._in_use:
            self._attempts.lost()

    def _mend(self, member: _Member) -> None:
        task = asyncio.get_running_loop().create_task(_reset(member.connection))
        self._mending[task] = member
        task.add_done_callback(partial(self._note_mended, member))

    def _note_mended(self, member: _Member, task: asyncio.Task[None]) -> None:
        self._mending.pop(task, None)
        connection = member.connection
        if task.cancelled():
            connection.terminate()
        elif (error := task.exception()) is not None:
            log.debug("%s: a connection cannot be reset: %r", self._name, error)
            self._attempts.lost()
            self._retire(member)
        elif connection.is_closed():
            self._attempts.lost()
        else:
            self._keep(member)
        self._settle()

    def _retire(self, member: _Member) -> None:
        task = asyncio.get_running_loop().create_task(_close(member.connection))
        self._closing[task] = member
        task.add_done_callback(partial(self._note_closed, member))

    def _note_closed(self, member: _Member, task: asyncio.Task[None]) -> None:
        self._closing.pop(task, None)
        if task.cancelled():
            member.connection.terminate()
        elif (error := task.exception()) is not None:
            log.debug("%s: a connection was not closed in order: %r", self._name, error)
        self._settle()

    def _refuse(self, reason: DimsError) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(_copy(reason))
        self._waiters.clear()

    def _cut_off(self) -> None:
        for member in (*self._idle, *self._in_use):
            member.connection.terminate()
        self._idle.clear()
        self._in_use.clear()
        for task in (*self._opening, *self._mending, *self._closing):
            task.cancel()
        for timer in (self._reaper, self._retry):
            if timer is not None:
                timer.cancel()
        self._reaper = self._retry = None
        self._tell()


async def _reset(connection: asyncpg.Connection) -> None:
    """Also waits until a statement that was cancelled has ended."""
    await connection.reset(timeout=MEND_WITHIN_S)


async def _close(connection: asyncpg.Connection) -> None:
    """Ends when the server's process has: it keeps the socket open until then (comment at
    `socket_close` in PostgreSQL's pqcomm.c)."""
    await connection.close(timeout=CLOSE_WITHIN_S)


def _copy(reason: DimsError) -> StorageError:
    """One for each who waits: a raised error grows a traceback of its own."""
    sqlstate = reason.sqlstate if isinstance(reason, StorageError) else ""
    copy = StorageError(str(reason), hint=reason.hint, sqlstate=sqlstate)
    copy.__cause__ = reason
    return copy
