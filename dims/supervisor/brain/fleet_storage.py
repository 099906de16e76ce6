"""What the brain knows of the fleet's storage: which servers there are, who logs in how, and how
many connections each worker may have. Imports no driver; asks and tells processes that do.

The steward says what the database allows and what bots log in with. The brain hands each worker
its own part, and lends connections as `budget` decides.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from dims.config import Config, DatabaseKind, PostgresAddress
from dims.errors import RefusedError, ServiceError
from dims.layout import Layout
from dims.logs import one_line
from dims.supervisor.core import budget
from dims.supervisor.core.budget import BudgetRecord, BudgetReport, Word
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units import units
from dims.supervisor.units.units import POSTGRES, STEWARD, VALKEY

LEASE_S = 600.0
"""How long borrowed connections outlive the brain that lent them."""
SLOW_KEPT = 50
LONGEST_SQL = 300
_POOL = frozenset(
    {"open", "idle", "in_use", "waiting", "allowed", "acquired", "waited_max_s", "connects"}
    | {"failures", "slow"}
)
"""Fields of dims.storage.connections.pool.PoolStats, which is not imported here."""

Say = Callable[[UnitId, str, Mapping[str, Any]], bool]

_log = logging.getLogger(__name__)


class FleetStorage:
    """The storage of one fleet. `say` tells a unit's process something."""

    def __init__(self, config: Config, layout: Layout, bots: Collection[UnitId], say: Say) -> None:
        self._config = config
        self._settings = config.storage
        self._layout = layout
        self._bots = tuple(bots)
        self._say = say
        self._address = self._settings.database_address
        """Of the database, as an administrator; None until the embedded server serves."""
        self._provider: Mapping[str, Any] = {}
        self._server: Mapping[str, Any] = {}
        self._roles: dict[str, tuple[str, str]] = {}
        self._refused: dict[str, str] = {}
        self._share = 0
        self._budget = BudgetRecord()
        self._pools: dict[UnitId, Mapping[str, Any]] = {}
        self._slow: deque[dict[str, Any]] = deque(maxlen=SLOW_KEPT)

    @property
    def is_on(self) -> bool:
        """Whether bots have a database."""
        return self._settings.database_kind is not DatabaseKind.OFF

    def units(self) -> list[UnitId]:
        """The services that the fleet needs for it."""
        found = []
        if self._settings.database_kind is DatabaseKind.EMBEDDED:
            found.append(POSTGRES)
        if self._settings.redis_kind is DatabaseKind.EMBEDDED:
            found.append(VALKEY)
        if self.is_on:
            found.append(STEWARD)
        return found

    # What the services say

    def steward_terms(self) -> dict[str, Any]:
        """What the steward is told in its welcome."""
        settings = self._settings
        embedded = settings.database_kind is DatabaseKind.EMBEDDED
        return {
            "address": self._address.to_wire() if self._address else None,
            "password_file": str(self._layout.state / "postgres.password") if embedded else None,
            "roles_file": str(self._layout.state / "roles.json"),
            "server_file": str(self._layout.state / "database.json"),
            "bots": list(self._bots),
            "prefix": settings.prefix,
            "partitions": settings.partitions,
            "migrates": settings.migrate,
            "rotate_days": settings.rotate_days,
        }

    def server_ready(self, said: Mapping[str, Any]) -> None:
        """The embedded PostgreSQL serves; raises KeyError or ValueError for nonsense."""
        self._address = PostgresAddress(
            str(said["socket_dir"]), int(said["port"]), "postgres", str(said["user"])
        )
        self._provider = {"source": said.get("source"), "version": said.get("version")}
        self._say(STEWARD, "database", {"address": self._address.to_wire()})

    def steward_ready(self, said: Mapping[str, Any]) -> None:
        """The database is ready for bots; raises KeyError, TypeError or ValueError for nonsense."""
        server = said["server"]
        most, reserved = int(server["max_connections"]), int(server["reserved"])
        self._server = server
        self.learn_roles(said)
        total = self._connections(budget.usable(most, reserved))
        self._share, left = budget.share_of(total, len(self._bots), self._settings.pool.max_size)
        self._tell(budget.set_total(self._budget, left, time.monotonic()))

    def _connections(self, room: int) -> int:
        """How many connections workers may have together, where the server has room for so many."""
        wanted = self._settings.connections
        if wanted is None:
            return room
        if self._settings.pooler_address is not None:
            # Workers meet the pooler, and nobody can ask it for its limit.
            return wanted
        if wanted > room:
            _log.warning("storage.connections: %d, but the server has room for %d", wanted, room)
        return min(wanted, room)

    def learn_roles(self, said: Mapping[str, Any]) -> None:
        """Roles and passwords of bots; who runs is told its own."""
        roles = {
            str(bot): (str(role), str(secret)) for bot, (role, secret) in said["roles"].items()
        }
        changed = [bot for bot, role in roles.items() if self._roles.get(bot, role) != role]
        self._roles = roles
        self._refused = {str(bot): one_line(str(why)) for bot, why in said["refused"].items()}
        for bot in changed:
            moved = units.storage_place(self._config, *self._place_of(bot))
            self._say(UnitId(bot), "storage", moved)

    # What workers get and say

    def refuse(self, bot: UnitId) -> None:
        """Raises ServiceError for a bot that the database has no role for."""
        if bot in self._refused:
            raise ServiceError(self._refused[bot])

    def worker_terms(self, bot: UnitId) -> dict[str, Any] | None:
        """The storage part of a worker's terms; None without a database."""
        if not self.is_on or bot not in self._roles:
            return None
        address, role, password = self._place_of(bot)
        return units.storage_terms(self._config, address, role, password, self._share)

    def _place_of(self, bot: str) -> tuple[PostgresAddress, str, str]:
        role, password = self._roles[bot]
        address = self._settings.pooler_address or self._address
        if address is None:
            # The embedded server is away: where it will be is known all the same.
            address = PostgresAddress(str(self._layout.server_sockets(POSTGRES)))
        return address, role, password

    def reported(self, unit: UnitId, said: Mapping[str, Any]) -> None:
        """A worker says how many borrowed connections it holds and wants."""
        holds, wants, seen = (_count(said[name]) for name in ("holds", "wants", "seen"))
        # A worker runs foreign code: no lie of one takes what others need.
        most = self._settings.pool.max_size
        report = BudgetReport(min(holds, most), min(wants, most), seen)
        renews = bool(said.get("renews"))
        now_s = time.monotonic()
        self._tell(budget.report(self._budget, unit, report, now_s, renews=renews))

    def former(self, unit: UnitId) -> None:
        """A worker of a former brain still runs."""
        if self.is_on:
            budget.former(self._budget, unit, self._settings.pool.max_size)

    def gone(self, unit: UnitId) -> None:
        """A worker's process has ended."""
        self._pools.pop(unit, None)
        self._tell(budget.gone(self._budget, unit, time.monotonic()))

    def read(self, unit: UnitId, said: Mapping[str, Any]) -> None:
        """The numbers of a worker's pool in a heartbeat, and its slow queries since the last."""
        pool = said.get("pool")
        if isinstance(pool, Mapping):
            numbers = {name: units.number(value) for name, value in pool.items() if name in _POOL}
            self._pools[unit] = {n: value for n, value in numbers.items() if value is not None}
        slow = said.get("slow")
        for one in slow[:SLOW_KEPT] if isinstance(slow, list) else ():
            at_s, took_s = units.number(one["at"]), units.number(one["took_s"])
            if at_s is not None and took_s is not None:
                # Cut first: the whole may be as long as a frame.
                sql = one_line(str(one["sql"])[:LONGEST_SQL])
                self._slow.append({"bot": unit, "at": at_s, "took_s": took_s, "sql": sql})

    def _tell(self, decision: budget.Decision) -> None:
        self._budget, words = decision
        for word in words:
            self._say(word.unit, "connections", _wire(word))

    # What operators ask

    def status(self, states: Mapping[UnitId, str]) -> dict[str, Any]:
        """The answer to `storage`: see docs/json.md."""
        record = self._budget
        return {
            "database": {
                "kind": self._settings.database_kind.value,
                "state": states.get(STEWARD),
                "address": str(self._address) if self._address else None,
                "server": dict(self._server),
                "provider": dict(self._provider),
            },
            "redis": {
                "kind": self._settings.redis_kind.value,
                "state": states.get(VALKEY),
            },
            "budget": {
                "max_connections": self._server.get("max_connections"),
                "reserved": self._server.get("reserved"),
                "total": record.total + self._share * len(self._bots),
                "share": self._share,
                "lendable": record.total,
                "leased": record.lent,
                "waiting": len(record.queue),
                "waited_max_s": round(record.waited_max_s, 4),
            },
            "pools": [{"bot": unit, **numbers} for unit, numbers in sorted(self._pools.items())],
            "slow": list(self._slow),
            "refused": dict(self._refused),
        }

    def check_rotates(self) -> None:
        """Raises RefusedError without a database."""
        if not self.is_on:
            raise RefusedError("there is no database", hint="bots.yaml: storage: database: off")


def _count(said: Any) -> int:
    """A number of connections, or of a word; raises ValueError."""
    # Not repeated in the error: it may be as long as a frame.
    if type(said) is not int or not 0 <= said < units.MOST_READ:
        raise ValueError("connections: no number")
    return said


def _wire(word: Word) -> dict[str, Any]:
    return {"grant": word.granted, "number": word.number, "lease_s": LEASE_S}
