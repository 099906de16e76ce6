"""The ProcessSupervisor: puts the parts of a brain together, begins and ends the fleet.

What happens is heard in `bonds`, decided in `core` by way of the engine, done in `spawning`, and
shown in `requests`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from dims.config import Config
from dims.ipc.wire.envelope import Envelope
from dims.ipc.words.failures import Exit, ExitStatus
from dims.ipc.words.keeping import KeeperWelcome, SpawnDone, SpawnRefused
from dims.ipc.words.states import Desired, State
from dims.layout import PRIVATE_DIR, Layout
from dims.supervisor.brain.bonds.hearing import Hearing
from dims.supervisor.brain.bonds.keeper_link import KeeperLink
from dims.supervisor.brain.bonds.links import Links
from dims.supervisor.brain.bonds.welcoming import Welcoming
from dims.supervisor.brain.cpu_use import CpuUse
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.mended_files import MendedFiles
from dims.supervisor.brain.providers.fleet_storage import FleetStorage
from dims.supervisor.brain.providers.subscriptions import Subscriptions
from dims.supervisor.brain.providers.telegram_access import TelegramAccess
from dims.supervisor.brain.providers.zygote_memory import ZygoteMemory
from dims.supervisor.brain.roster import Roster
from dims.supervisor.brain.spawning import Spawning
from dims.supervisor.brain.store import Store, StoredUnit
from dims.supervisor.brain.tasks import Tasks
from dims.supervisor.core.facts import AskedStop, Fact, Found, Incarnation, UnitId
from dims.supervisor.core.orders import Stop
from dims.supervisor.core.pacing import Pace, Wish
from dims.supervisor.core.states import UnitRecord
from dims.supervisor.units.units import UnitKind
from dims.supervisor.units.worker_terms import grants_of
from dims.system.clock import Clock
from dims.system.exits import is_alive

_log = logging.getLogger(__name__)

_FIRST = Incarnation(0)


class ProcessSupervisor:
    """Runs a fleet: one worker process per bot, and the zygote and services they need."""

    def __init__(self, config: Config, layout: Layout, store: Store, clock: Clock) -> None:
        self.clock = clock
        self.store = store
        self.roster = Roster(config, layout)
        self.links = Links()
        self.keeper = KeeperLink()
        pace = Pace(config.fleet.starts_at_once, config.cold_login_limit)
        self.engine = Engine(store, self, clock, pace)
        self.storage = FleetStorage(config, layout, self.roster.bots, self.links.tell_soon, clock)
        telegram = TelegramAccess(self.roster)
        refusals = (telegram.refuse, self.storage.refuse)
        self._spawning = Spawning(
            self.roster,
            store,
            self.engine,
            links=self.links,
            keeper=self.keeper,
            refusals=refusals,
        )
        self._spawning.on_gone = self._gone
        self._tasks = Tasks()
        self._subscriptions = Subscriptions(self.engine, self._tasks, self._spawning)
        subscriptions = self._subscriptions
        telegram.subscribe(subscriptions)
        self.storage.subscribe(subscriptions)
        self.zygote_memory = ZygoteMemory(config.fleet.sharing)
        self.zygote_memory.subscribe(subscriptions)
        self._spawning.options = self._subscriptions.options
        self.welcoming = Welcoming(self.roster, telegram, self.storage)
        self.hearing = Hearing(
            self.roster,
            self.engine,
            self.links,
            spawning=self._spawning,
            subscriptions=subscriptions,
            welcoming=self.welcoming,
            storage=self.storage,
            grants=grants_of(config),
        )
        self._mended_files = MendedFiles(self.roster, self.engine.post)
        self.cpu_use = CpuUse(self.roster, self.engine, clock)
        # Asked once: after the keeper's end it would be somebody else, before the link tells.
        self.keeper_pid = os.getppid()
        self.started_s = clock.monotonic()
        self.stopped = asyncio.Event()
        self._stopping = False
        self._phases = [UnitKind.BOT, UnitKind.SERVICE, UnitKind.ZYGOTE]
        self._left: set[UnitId] = set()
        """Units of the phase under way that are not stopped yet."""

    # Beginning and end

    async def meet_keeper(self, sock: socket.socket) -> None:
        """Speaks with the keeper from now on."""
        await self.keeper.open(sock, self)

    async def meet_processes(
        self, sock: socket.socket, welcome: KeeperWelcome, early: list[Envelope]
    ) -> None:
        """Hears what ended while there was no brain, then accepts processes on `sock`."""
        self.keeper.catch_up(welcome, early)
        await self.links.open(sock, self.hearing)

    def begin(self, *, only_to_stop: bool = False) -> None:
        """Takes all units in, as former brains left them, and starts what is wanted.

        With `only_to_stop` nothing is started: what still runs is ended, and then all is stopped.
        """
        self._stopping = only_to_stop
        self.engine.keeps_desired = not only_to_stop
        for unit in self.roster.bots:
            # A sender writes only into what is there: a name that is no bot is told apart by it.
            (self.roster.layout.mail / unit).mkdir(mode=PRIVATE_DIR, exist_ok=True)
        stored = self.store.units()
        named = set(self.roster.all())
        for unit, known in stored.items():
            if unit not in named and known.pid is not None:
                self.roster.forgotten(unit)
        found = [self._find(unit, stored.get(unit)) for unit in self.roster.all()]
        self.engine.post_each(found)
        self.engine.start()
        self._tasks.begin(self._mended_files.watch(), "watch files of failed bots")
        self._tasks.begin(self.cpu_use.watch(), "look at the use of CPU")
        if only_to_stop:
            self._stop_next()

    def _find(self, unit: UnitId, known: StoredUnit | None) -> tuple[UnitId, Fact]:
        """What a former brain left of this unit."""
        service = self.roster.services.get(unit)
        record = UnitRecord(unit, self.roster.policy(unit))
        self.engine.add(record, service=service is not None)
        desired = Desired.STOPPED if known is None else known.desired
        if service is not None:
            desired = Desired.RUNNING
        elif unit not in self.roster.bots:
            desired = Desired.STOPPED
        if self._stopping:
            desired = Desired.STOPPED
        if known is None:
            return unit, Found(desired, _FIRST)
        wait_s = known.retry_at - self.clock.utc() if known.retry_at else 0.0
        pid, started = known.pid or 0, known.started or 0
        if not is_alive(pid, started):
            return unit, Found(desired, known.incarnation, wait_s)
        self._spawning.processes.watch(unit, known.incarnation, pid, started)
        if service is None:
            self.storage.former(unit)
        goes_on = service is not None and service.goes_on
        return unit, Found(desired, known.incarnation, wait_s, pid, goes_on)

    @property
    def is_stopping(self) -> bool:
        """Whether the whole fleet is on its way out."""
        return self._stopping

    def shut_down(self) -> None:
        """Stops all bots, then all services, without changing what is wanted next time."""
        if self._stopping:
            return
        self._stopping = True
        self.engine.keeps_desired = False
        self._stop_next()

    def _stop_next(self) -> None:
        """Once all of one kind are stopped, stops the next: bots, services, then the zygote."""
        while not self._left:
            if not self._phases:
                self.stopped.set()
                return
            kind = self._phases.pop(0)
            records = self.engine.records
            units = self.roster.of_kind(kind)
            running = [unit for unit in units if records[unit].state is not State.STOPPED]
            self._left = set(running)
            self.engine.post_all(running, AskedStop("the fleet stops"))

    def close(self) -> None:
        """Gives up everything; processes that still run go on."""
        self._tasks.close()
        self.engine.close()
        self.links.close()
        self._spawning.processes.close()

    # Actions: what the engine orders

    def spawn(self, unit: UnitId, incarnation: Incarnation) -> None:
        """See `Spawning`."""
        self._spawning.spawn(unit, incarnation)

    def signal(self, record: UnitRecord, stop: Stop) -> None:
        """See `Spawning`."""
        self._spawning.signal(record, stop)

    def drop_session(self, unit: UnitId) -> None:
        """See `Spawning`."""
        self._spawning.drop_session(unit)

    def wish(self, unit: UnitId) -> Wish:
        """See `Roster`."""
        return self.roster.wish(unit)

    def entered(self, record: UnitRecord) -> None:
        """Notes what follows from a unit's new state besides its own life."""
        if not record.alive:
            self.hearing.readings.pop(record.unit, None)
        if record.state in (State.STARTING, State.DRAINING, State.FAILED):
            # Not FAILED alone: a file that is mended while its bot fails must not be missed.
            self._mended_files.follow(record.unit)
        else:
            self._mended_files.leave(record.unit)
        if self._stopping and record.state is State.STOPPED:
            self._left.discard(record.unit)
            self._stop_next()

    def _gone(self, unit: UnitId, incarnation: Incarnation, status: ExitStatus) -> None:
        self.storage.gone(unit)
        self._subscriptions.gone(unit, incarnation, status)

    # KeeperNews

    def keeper_said(self, said: SpawnDone | SpawnRefused | Exit) -> None:
        """See `Spawning`."""
        self._spawning.keeper_said(said)

    def asked_to_stop(self) -> None:
        """The keeper got TERM."""
        self.shut_down()

    def keeper_lost(self) -> None:
        """The keeper is gone: everything goes on, and `dims health` says so."""
        _log.error("the keeper is gone: nothing restarts this brain until `dims stop` and start")
