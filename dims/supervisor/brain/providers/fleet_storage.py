"""What the brain knows of the fleet's storage: which servers there are, who logs in how, and how
many connections each worker may have. Imports no driver; asks and tells processes that do.

The steward says what the database allows and what bots log in with. The brain hands each worker
its own part, and lends connections as `budget` decides.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields

from dims.config import Config, DatabaseKind, PostgresAddress
from dims.errors import ProtocolError, RefusedError, ServiceError
from dims.ipc.wire.sentences import Sentence, read, written
from dims.ipc.words.fleet import (
    MOST_READ,
    Beat,
    ConnectionsHeld,
    ConnectionsLent,
    SlowQuerySaid,
    sound,
)
from dims.ipc.words.operator import (
    BudgetStatus,
    DatabaseStatus,
    PoolStatus,
    ProviderStatus,
    RedisStatus,
    ServerStatus,
    SlowStatement,
    StorageStatus,
)
from dims.ipc.words.services import (
    DatabaseMoved,
    DatabaseServer,
    ServerReady,
    StewardReady,
    StewardTerms,
)
from dims.ipc.words.states import State
from dims.ipc.words.terms import StorageTerms
from dims.layout import Layout
from dims.logs import one_line
from dims.supervisor.brain.providers.subscriptions import Subscription, Subscriptions
from dims.supervisor.core import budget
from dims.supervisor.core.budget import BudgetRecord, BudgetReport
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units.units import POSTGRES, STEWARD, VALKEY
from dims.supervisor.units.worker_terms import storage_place, storage_terms
from dims.system.clock import Clock

LOAN_S = 600.0
"""How long borrowed connections outlive the brain that lent them."""
SLOW_KEPT = 50
LONGEST_SQL = 300
_POOL = tuple(field.name for field in fields(PoolStatus) if field.name != "bot")
"""As in dims.storage.connections.pool.PoolStats, which is not imported here."""

Say = Callable[[UnitId, Sentence], bool]

_log = logging.getLogger(__name__)


class FleetStorage:
    """The storage of one fleet. `say` tells a unit's process something."""

    def __init__(
        self, config: Config, layout: Layout, bots: Collection[UnitId], say: Say, clock: Clock
    ) -> None:
        self._config = config
        self._clock = clock
        self._settings = config.storage
        self._layout = layout
        self._bots = tuple(bots)
        self._say = say
        self._address = self._settings.database_address
        """Of the database, as an administrator; None until the embedded server serves."""
        self._provider: ServerReady | None = None
        self._server: DatabaseServer | None = None
        self._roles: Mapping[str, tuple[str, str]] = {}
        self._refused: Mapping[str, str] = {}
        self._share = 0
        self._budget = BudgetRecord()
        self._pools: dict[UnitId, PoolStatus] = {}
        self._slow: deque[SlowStatement] = deque(maxlen=SLOW_KEPT)

    @property
    def is_on(self) -> bool:
        """Whether bots have a database."""
        return self._settings.database_kind is not DatabaseKind.OFF

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Hears of servers and steward from now on, and tells the steward what it is to do."""
        subscriptions.subscribe(POSTGRES, Subscription(ServerReady, self.server_ready))
        steward = Subscription(StewardReady, self.steward_ready, self.steward_terms)
        subscriptions.subscribe(STEWARD, steward)

    # What the services say

    def steward_terms(self) -> StewardTerms:
        """What the steward is told in its welcome."""
        settings = self._settings
        embedded = settings.database_kind is DatabaseKind.EMBEDDED
        return StewardTerms(
            address=self._address,
            password_file=self._layout.state / "postgres.password" if embedded else None,
            roles_file=self._layout.state / "roles.json",
            server_file=self._layout.state / "database.json",
            bots=self._bots,
            prefix=settings.prefix,
            partitions=settings.partitions,
            migrates=settings.migrate,
            rotate_days=settings.rotate_days,
        )

    def server_ready(self, said: ServerReady) -> None:
        """The embedded PostgreSQL serves."""
        self._address = PostgresAddress(said.socket_dir, said.port, "postgres", said.user)
        self._provider = said
        self._say(STEWARD, DatabaseMoved(self._address))

    def steward_ready(self, said: StewardReady) -> None:
        """The database is ready for bots."""
        self._server = said.server
        self.learn_roles(said)
        total = self._connections(budget.usable(said.server.max_connections, said.server.reserved))
        self._share, left = budget.share_of(total, len(self._bots), self._settings.pool.max_size)
        self._tell(budget.set_total(self._budget, left, self._clock.monotonic()))

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

    def learn_roles(self, said: StewardReady) -> None:
        """Roles and passwords of bots; who runs is told its own."""
        changed = [b for b, role in said.roles.items() if self._roles.get(b, role) != role]
        self._roles = said.roles
        self._refused = {bot: one_line(why) for bot, why in said.refused.items()}
        for bot in changed:
            self._say(UnitId(bot), storage_place(self._config, *self._place_of(bot)))

    # What workers get and say

    def refuse(self, bot: UnitId) -> None:
        """Raises ServiceError for a bot that the database has no role for."""
        if bot in self._refused:
            raise ServiceError(self._refused[bot])

    def worker_terms(self, bot: UnitId) -> StorageTerms | None:
        """The storage part of a worker's terms; None without a database."""
        if not self.is_on or bot not in self._roles:
            return None
        address, role, password = self._place_of(bot)
        return storage_terms(self._config, address, role, password, self._share)

    def _place_of(self, bot: str) -> tuple[PostgresAddress, str, str]:
        role, password = self._roles[bot]
        address = self._settings.pooler_address or self._address
        if address is None:
            # The embedded server is away: where it will be is known all the same.
            address = PostgresAddress(str(self._layout.server_sockets(POSTGRES)))
        return address, role, password

    def reported(self, unit: UnitId, said: ConnectionsHeld) -> None:
        """A worker says how many borrowed connections it holds and wants.

        Raises ProtocolError for what is no count.
        """
        holds, wants, seen = (_count(number) for number in (said.holds, said.wants, said.seen))
        # A worker runs foreign code: no lie of one takes what others need.
        most = self._settings.pool.max_size
        report = BudgetReport(min(holds, most), min(wants, most), seen)
        now_s = self._clock.monotonic()
        self._tell(budget.report(self._budget, unit, report, now_s, renews=said.renews))

    def former(self, unit: UnitId) -> None:
        """A worker of a former brain still runs."""
        if self.is_on:
            budget.former(self._budget, unit, self._settings.pool.max_size)

    def gone(self, unit: UnitId) -> None:
        """A worker's process has ended."""
        self._pools.pop(unit, None)
        self._tell(budget.gone(self._budget, unit, self._clock.monotonic()))

    def read(self, unit: UnitId, said: Beat) -> None:
        """The numbers of a worker's pool in a heartbeat, and its slow queries since the last."""
        if isinstance(said.pool, Mapping):
            numbers = {name: sound(said.pool.get(name)) for name in _POOL}
            self._pools[unit] = PoolStatus(unit, **numbers)
        for one in said.slow[:SLOW_KEPT] if isinstance(said.slow, list) else ():
            slow = read(SlowQuerySaid, one)
            at_s, took_s = sound(slow.at), sound(slow.took_s)
            if at_s is not None and took_s is not None:
                # Cut first: the whole may be as long as a frame.
                sql = one_line(slow.sql[:LONGEST_SQL])
                self._slow.append(SlowStatement(unit, at_s, took_s, sql))

    def _tell(self, decision: budget.Decision) -> None:
        self._budget, words = decision
        for word in words:
            self._say(word.unit, ConnectionsLent(word.granted, word.number, LOAN_S))

    # What operators ask

    def status(self, states: Mapping[UnitId, State]) -> StorageStatus:
        """The answer to `storage`; `states` are those of the services."""
        settings = self._settings
        return StorageStatus(
            database=DatabaseStatus(
                kind=settings.database_kind.value,
                state=states.get(STEWARD),
                address=str(self._address) if self._address else None,
                server=ServerStatus(**written(self._server)) if self._server else ServerStatus(),
                provider=_provider(self._provider),
            ),
            redis=RedisStatus(kind=settings.redis_kind.value, state=states.get(VALKEY)),
            budget=self._budget_status(),
            pools=tuple(pool for _, pool in sorted(self._pools.items())),
            slow=tuple(self._slow),
            refused=dict(self._refused),
        )

    def _budget_status(self) -> BudgetStatus:
        record = self._budget
        return BudgetStatus(
            max_connections=self._server.max_connections if self._server else None,
            reserved=self._server.reserved if self._server else None,
            total=record.total + self._share * len(self._bots),
            share=self._share,
            lendable=record.total,
            leased=record.lent,
            waiting=len(record.queue),
            waited_max_s=round(record.waited_max_s, 4),
        )

    def check_rotates(self) -> None:
        """Raises RefusedError without a database."""
        if not self.is_on:
            raise RefusedError("there is no database", hint="bots.yaml: storage: database: off")


def _count(said: int) -> int:
    # Not repeated in the error: it may be as long as a frame.
    if not 0 <= said < MOST_READ:
        raise ProtocolError("connections: no number")
    return said


def _provider(said: ServerReady | None) -> ProviderStatus:
    return ProviderStatus() if said is None else ProviderStatus(said.source, said.version)
