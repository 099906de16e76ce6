"""One bot's database: pools that keep within the fleet's budget, and what the brain says of it.

The driver is imported when the zygote warms up, or where there is none with the first use: a bot
without a database never pays for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dims import correlation
from dims.bot_worker.database.borrowing import Borrower
from dims.errors import DimsError, ServiceError
from dims.ipc.words.fleet import ConnectionsHeld, ConnectionsLent
from dims.ipc.words.terms import StoragePlace, StorageTerms

if TYPE_CHECKING:
    from dims.storage.bot.database import Database
    from dims.storage.connections.pool import Pool

CONNECT_WITHIN_S = 5.0
PASSWORD_WITHIN_S = 2.0
"""A new password may reach the server before it reaches us: a refusal is believed after so long."""
WRONG_PASSWORD = "28P01"  # noqa: S105 (an SQLSTATE)
CLOSE_WITHIN_S = 5.0
MOST_TOLD = 10
"""Slow queries per heartbeat."""

Tell = Callable[[ConnectionsHeld], None]

_log = logging.getLogger(__name__)


class Storage:
    """The database of one bot; opens nothing until the bot asks for something."""

    def __init__(
        self,
        bot: str,
        terms: StorageTerms | None,
        tell: Tell | None,
        hide: Callable[[tuple[str, ...]], None],
        draw: Callable[[], float],
    ) -> None:
        """`tell` says something to the brain; None where there is no fleet to share with. `hide`
        keeps secrets out of the log; `draw` gives 0 to 1."""
        self._bot = bot
        self._terms = terms
        self._tell = tell
        self._hide = hide
        self._draw = draw
        self._database: Database | None = None
        self._pools: list[Pool] = []
        self._borrower: Borrower | None = None
        self._changed = asyncio.Event()
        self._slow_told = 0

    @property
    def database(self) -> Database:
        """What is `bot.db`. Raises ServiceError for a bot that has none."""
        if self._database is None:
            self._database = self._open()
        return self._database

    def _open(self) -> Database:
        from dims.storage.bot.database import Database  # noqa: PLC0415 (see above)
        from dims.storage.connections.pool import Pool, PoolLimits  # noqa: PLC0415

        terms = self._terms
        if terms is None:
            raise ServiceError(
                f"{self._bot} has no database", hint="bots.yaml: storage: database: embedded"
            )
        limits = PoolLimits(**terms.pool)
        allowed = terms.share if self._tell is not None else limits.max_size

        def pool(name: str, which: str) -> Pool:
            return Pool(
                lambda: self._connect(which),
                limits,
                name=name,
                on_change=self._pool_changed,
                allowed=allowed,
                draw=self._draw,
            )

        self._pools = [pool(self._bot, "address")]
        if terms.place.replica is not None:
            self._pools.append(pool(f"{self._bot} (replica)", "replica"))
        if self._tell is not None and terms.share < limits.max_size:
            self._borrower = Borrower(terms.share, self._report, self._allow)
        return Database(
            self._bot,
            self._pools[0],
            replica=self._pools[1] if terms.place.replica is not None else None,
            replica_lag_s=terms.replica_lag_s,
            correlation=correlation.current,
            draw=self._draw,
        )

    # What the brain says

    def lent(self, said: ConnectionsLent) -> None:
        """So many connections may be borrowed."""
        if self._borrower is not None:
            self._borrower.heard(said, asyncio.get_running_loop().time())

    def moved(self, place: StoragePlace) -> None:
        """The database is elsewhere, or has another password for this bot."""
        if self._terms is not None:
            self._terms = self._terms.moved(place)
            self._hide((place.address.password,))
            self._changed.set()

    def rejoined(self) -> None:
        """Another brain is there."""
        if self._borrower is not None:
            self._borrower.rejoined()

    # What the brain is told

    def readings(self) -> dict[str, Any]:
        """For the heartbeat: numbers of the pool, and slow queries since the last time. Also the
        moment at which what is borrowed is renewed."""
        if self._borrower is not None:
            self._borrower.tick(asyncio.get_running_loop().time())
        if not self._pools:
            return {}
        stats = self._pools[0].stats()
        fresh = stats.slow - self._slow_told
        self._slow_told = stats.slow
        slow = list(self._pools[0].slow)[-min(fresh, MOST_TOLD) :] if fresh else []
        return {
            "pool": {name: getattr(stats, name) for name in stats.__slots__},
            "slow": [{"at": one.at_s, "took_s": one.took_s, "sql": one.sql} for one in slow],
        }

    async def close(self) -> None:
        """Finishes what is in use, and gives all connections back."""
        if self._database is not None:
            await self._database.close(CLOSE_WITHIN_S)

    # The pools

    def _report(self, report: ConnectionsHeld) -> None:
        if self._tell is not None:
            self._tell(report)

    def _allow(self, connections: int) -> None:
        for pool in self._pools:
            pool.allow(connections)

    def _pool_changed(self) -> None:
        if self._borrower is not None:
            # With a replica what is lent counts for both servers alike.
            most = max(pool.open for pool in self._pools)
            self._borrower.changed(most, max(pool.wanted for pool in self._pools))

    async def _connect(self, which: str) -> Any:
        from dims.storage.connections.connecting import connect, is_passing  # noqa: PLC0415

        self._changed.clear()
        while True:
            terms = self._terms
            assert terms is not None  # noqa: S101 (only an open database connects)
            try:
                return await connect(
                    getattr(terms.place, which),
                    timeout_s=CONNECT_WITHIN_S,
                    application_name=f"dims {self._bot}",
                    statement_s=terms.pool["statement_s"],
                    through_pooler=terms.is_pooled and which == "address",
                )
            except DimsError as error:
                if is_passing(error) or self._tell is None:
                    raise
                if not await self._has_moved(terms):
                    if getattr(error, "sqlstate", "") == WRONG_PASSWORD:
                        # Nobody has written this password into a URL.
                        error.hint = f"`dims db rotate {self._bot}` gives it a new one"
                    raise
                _log.info("tries again with what the supervisor has told: %s", error)

    async def _has_moved(self, tried: StorageTerms) -> bool:
        """Whether the brain has told another password or place since, or does so in a moment."""
        if self._terms is tried:
            try:
                async with asyncio.timeout(PASSWORD_WITHIN_S):
                    await self._changed.wait()
            except TimeoutError:
                return False
        return self._terms is not tried
