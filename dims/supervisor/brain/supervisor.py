"""The ProcessSupervisor: joins the engine to processes, links, keeper and configuration.

It translates: what the system says becomes facts, what the engine orders becomes calls. It decides
nothing about a unit's life; that is `lifecycle` and `fleet`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from dims.config import Config, ServerKind
from dims.errors import (
    DimsError,
    FullError,
    NotRunningError,
    RefusedError,
    ServiceError,
    UsageError,
)
from dims.ipc.grants import BRAIN
from dims.ipc.wire.envelope import Priority
from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.operator import NO_READINGS, Readings
from dims.layout import PRIVATE_DIR, Layout
from dims.logs import one_line
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.fleet_storage import FleetStorage
from dims.supervisor.brain.keeper_link import KeeperLink
from dims.supervisor.brain.links import Links
from dims.supervisor.brain.processes import Processes
from dims.supervisor.brain.store import Store, StoredUnit
from dims.supervisor.brain.zygote_memory import ZygoteMemory
from dims.supervisor.core import report
from dims.supervisor.core.facts import (
    AskedRestart,
    AskedStart,
    AskedStop,
    Exited,
    FileChanged,
    Heartbeat,
    Incarnation,
    LastWill,
    Ready,
    Spawned,
    SpawnFailed,
    UnitId,
)
from dims.supervisor.core.orders import Desired, Stop
from dims.supervisor.core.pacing import Pace, Wish
from dims.supervisor.core.states import SERVING, State, UnitRecord
from dims.supervisor.units import units
from dims.supervisor.units.bot_father import make_bots
from dims.supervisor.units.units import (
    POSTGRES,
    SANDBOX,
    STEWARD,
    ZYGOTE,
    TelegramAddress,
    UnitKind,
)
from dims.system.clock import SYSTEM
from dims.system.exits import is_alive

_log = logging.getLogger(__name__)

FILE_LOOK_S = 1.0
"""How often the file of a failed bot is looked at."""
EXPLAINED_EVENTS = 20

OnControl = Callable[[UnitId, str, Mapping[str, Any]], Mapping[str, Any]]


class ProcessSupervisor:
    """Runs a fleet: one worker process per bot, and the zygote and services they need."""

    def __init__(self, config: Config, layout: Layout, store: Store) -> None:
        self.config = config
        self.layout = layout
        self._store = store
        self._bots = {UnitId(bot.id): bot for bot in config.bots}
        self._kinds: dict[UnitId, UnitKind] = {}
        self._readings: dict[UnitId, Readings] = {}
        self._tokens: dict[UnitId, str] = {}
        self._address: TelegramAddress | None = units.configured_address(config)
        self._file_times: dict[UnitId, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.keeper = KeeperLink(self)
        self.links = Links(self)
        self.processes = Processes(self._gone)
        pace = Pace(config.fleet.starts_at_once, config.cold_login_limit)
        self.engine = Engine(store, self, SYSTEM, pace)
        # Asked once: after the keeper's end it would be somebody else, before the link tells.
        self._keeper_pid = os.getppid()
        self.started_s = time.monotonic()
        self.stopped = asyncio.Event()
        self._stopping = False
        self._phases = [UnitKind.BOT, UnitKind.SERVICE, UnitKind.ZYGOTE]
        self._left: set[UnitId] = set()
        """Units of the phase under way that are not stopped yet."""
        self._refused: dict[UnitId, str] = {}
        """Bots that the sandbox makes no account for, and why."""
        self.reloaded: dict[UnitId, Mapping[str, Any]] = {}
        """What replaces `settings` and `hidden` in the terms of bots that were told to reload."""
        self._grants = units.grants_of(config)
        self.on_control: OnControl = _no_control
        """What answers control commands of bots, whose grants are checked already."""
        self.storage = FleetStorage(config, layout, self._bots, self._tell_soon)
        self._zygote_memory = ZygoteMemory(config.fleet.sharing)
        self._doubtful: dict[UnitId, Incarnation] = {}
        """Forks that an earlier link to the zygote may have lost."""

    @property
    def is_sandboxed(self) -> bool:
        """Whether the fleet talks to the local Telegram."""
        return self.config.telegram.server.kind is ServerKind.SANDBOX

    # Beginning and end

    def begin(self, *, only_to_stop: bool = False) -> None:
        """Takes all units in, as former brains left them, and starts what is wanted.

        With `only_to_stop` nothing is started: what still runs is ended, and then all is stopped.
        """
        self._stopping = only_to_stop
        self.engine.keeps_desired = not only_to_stop
        for unit in self._bots:
            # A sender writes only into what is there: a name that is no bot is told apart by it.
            (self.layout.mail / unit).mkdir(mode=PRIVATE_DIR, exist_ok=True)
        stored = self._store.units()
        for unit, kind in self._all_units():
            self._kinds[unit] = kind
            known = stored.pop(unit, None)
            self._take_in(unit, known)
        for forgotten in stored.values():
            # No longer in bots.yaml: its process, if any, must not run on unseen.
            if forgotten.pid is not None:
                self._kinds[forgotten.unit] = UnitKind.BOT
                self._take_in(forgotten.unit, replace(forgotten, desired=Desired.STOPPED))
        self.engine.start()
        self._begin_task(self._watch_files(), "watch files of failed bots")
        if only_to_stop:
            self._stop_next()

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
            running = [u for u in self._of_kind(kind) if records[u].state is not State.STOPPED]
            self._left = set(running)
            self.engine.post_all(running, AskedStop("the fleet stops"))

    def close(self) -> None:
        """Gives up everything; processes that still run go on."""
        for task in self._tasks:
            task.cancel()
        self.engine.close()
        self.links.close()
        self.processes.close()

    def _all_units(self) -> list[tuple[UnitId, UnitKind]]:
        sandbox = [SANDBOX] if self.is_sandboxed else []
        services = [(unit, UnitKind.SERVICE) for unit in (*self.storage.units(), *sandbox)]
        bots = [(unit, UnitKind.BOT) for unit in self._bots]
        return [(ZYGOTE, UnitKind.ZYGOTE), *services, *bots]

    def _take_in(self, unit: UnitId, known: StoredUnit | None) -> None:
        service = self._kinds[unit] is not UnitKind.BOT
        policy = units.policy_of_service(unit)
        if unit in self._bots:
            bot = self._bots[unit]
            policy = units.policy_of(bot.restart, bot.limits)
        record = UnitRecord(unit, policy, since_s=time.monotonic())
        if known is None:
            desired, retry_after_s = Desired.STOPPED, None
        else:
            desired = known.desired
            retry_after_s = known.retry_at - time.time() if known.retry_at else None
            record = replace(record, incarnation=known.incarnation)
        if service:
            desired = Desired.RUNNING
        if self._stopping:
            desired = Desired.STOPPED
        if known is not None and is_alive(known.pid or 0, known.started or 0):
            if unit in units.ADOPTED and desired is Desired.RUNNING:
                self._adopt(record, known)
                return
            self._end_former(record, known, desired, service=service)
            return
        self.engine.add(record, service=service)
        self.engine.restore(unit, desired, retry_after_s)

    def _adopt(self, record: UnitRecord, known: StoredUnit) -> None:
        """A server of a former brain still runs: nobody should have to wait for its restart."""
        pid, started = known.pid or 0, known.started or 0
        self.engine.add(record, service=True)
        self.processes.watch(record.unit, record.incarnation, pid, started)
        self.engine.adopt(record.unit, pid)

    def _end_former(
        self, record: UnitRecord, known: StoredUnit, desired: Desired, *, service: bool
    ) -> None:
        """A process of a former brain still runs: it is drained before a new one follows."""
        pid, started = known.pid or 0, known.started or 0
        record = replace(record, state=State.READY, alive=True, pid=pid, desired=desired)
        if known.retry_at is not None:
            # A worker that was about to leave for a flood wait: its successor waits it out.
            wait_s = max(0.0, known.retry_at - time.time())
            record = replace(record, not_before_s=time.monotonic() + wait_s)
        self.engine.add(record, service=service)
        self.processes.watch(record.unit, record.incarnation, pid, started)
        if not service:
            self.storage.former(record.unit)
        reason = "the brain was restarted"
        wanted = desired is Desired.RUNNING
        self.engine.post(record.unit, AskedRestart(reason) if wanted else AskedStop(reason))

    def _of_kind(self, kind: UnitKind) -> list[UnitId]:
        return [unit for unit, other in self._kinds.items() if other is kind]

    # Actions: what the engine orders

    def spawn(self, unit: UnitId, incarnation: Incarnation) -> None:
        """Orders a process from the zygote (bots) or the keeper (the others)."""
        try:
            done = self._order_spawn(unit, incarnation)
        except DimsError as error:
            fact = SpawnFailed(incarnation, FailureClass.NEEDS_OPERATOR, str(error))
            self.engine.post(unit, fact)
            return
        if not done:
            whose = "zygote" if self._kinds[unit] is UnitKind.BOT else "keeper"
            reason = f"there is no {whose} to start it"
            self.engine.post(unit, SpawnFailed(incarnation, FailureClass.CRASH, reason))

    def _order_spawn(self, unit: UnitId, incarnation: Incarnation) -> bool:
        match self._kinds[unit]:
            case UnitKind.BOT:
                if unit in self._refused:
                    raise ServiceError(f"the sandbox makes no such bot: {self._refused[unit]}")
                self.storage.refuse(unit)
                order = {
                    "unit": unit,
                    "incarnation": incarnation,
                    "log": str(self.layout.log(unit)),
                    "directory": str(self.config.directory),
                    "socket": str(self.layout.bot_socket),
                }
                return self.links.say(ZYGOTE, "fork", order, Priority.HIGH)
            case UnitKind.ZYGOTE:
                copy_because = self._zygote_memory.copy_because(incarnation)
                argv = units.zygote_argv(self.config, self.layout, incarnation, copy_because)
            case UnitKind.SERVICE:
                argv = units.service_argv(self.config, self.layout, unit, incarnation)
        return self.keeper.spawn(f"{unit}/{incarnation}", argv, str(self.layout.log(unit)))

    def signal(self, record: UnitRecord, stop: Stop) -> None:
        """Signals the unit's process, if its pid is known yet."""
        if record.pid is not None:
            self.processes.send(record.pid, stop)

    def drop_session(self, unit: UnitId) -> None:
        """Removes the stored session: the next start logs in anew."""
        self.layout.session(unit).unlink(missing_ok=True)
        self.layout.update_state(unit).unlink(missing_ok=True)

    def wish(self, unit: UnitId) -> Wish:
        """What a unit needs in order to start."""
        if self._kinds[unit] is UnitKind.BOT:
            return units.wish_of_bot(self.config, self.layout, unit)
        return Wish(unit)

    def entered(self, record: UnitRecord) -> None:
        """Notes what follows from a unit's new state besides its own life."""
        if not record.alive:
            self._readings.pop(record.unit, None)
        if record.state in (State.STARTING, State.DRAINING, State.FAILED):
            # Not FAILED alone: a file that is mended while its bot fails must not be missed.
            self._file_times.setdefault(record.unit, self._file_time(record.unit))
        else:
            self._file_times.pop(record.unit, None)
        if self._stopping and record.state is State.STOPPED:
            self._left.discard(record.unit)
            self._stop_next()

    # KeeperNews

    def spawned(self, tag: str, pid: int, started: int) -> None:
        """The keeper made a process."""
        unit, _, number = tag.rpartition("/")
        self._exists(UnitId(unit), Incarnation(int(number)), pid, started)

    def spawn_failed(self, tag: str, reason: str) -> None:
        """The keeper could not make a process."""
        unit, _, number = tag.rpartition("/")
        fact = SpawnFailed(Incarnation(int(number)), FailureClass.CRASH, reason)
        self.engine.post(UnitId(unit), fact)

    def exited(self, pid: int, started: int, code: int | None, signal: int | None) -> None:
        """Some child of the keeper or the zygote ended."""
        self.processes.exited(pid, started, ExitStatus(code, signal))

    def asked_to_stop(self) -> None:
        """The keeper got TERM."""
        self.shut_down()

    def keeper_lost(self) -> None:
        """The keeper is gone: everything goes on, and `dims health` says so."""
        _log.error("the keeper is gone: nothing restarts this brain until `dims stop` and start")

    # LinkNews

    def expects(self, unit: UnitId, incarnation: Incarnation, pid: int) -> bool | None:
        """Whether this very process may join; None while its pid is not known yet."""
        record = self.engine.records.get(unit)
        if record is None or not record.alive or record.incarnation != incarnation:
            return False
        return None if record.pid is None else record.pid == pid

    def welcome(self, unit: UnitId) -> Mapping[str, Any]:
        """What a process gets once it is known; a worker its secrets."""
        if unit == ZYGOTE:
            self._doubtful = self._unanswered_forks()
        if unit == STEWARD:
            return self.storage.steward_terms()
        bot = self._bots.get(unit)
        if bot is None or self._address is None:
            return {}
        configured = bot.token.get_secret_value() if bot.token else ""
        token = self._tokens.get(unit, configured)
        storage = self.storage.worker_terms(unit)
        terms = units.worker_terms(
            self.config, self.layout, bot, self._address, token, storage=storage
        )
        return {**terms, **self.reloaded.get(unit, {})}

    def heard(
        self, unit: UnitId, incarnation: Incarnation, kind: str, body: Mapping[str, Any]
    ) -> None:
        """A worker, zygote or service said something. Raises KeyError, TypeError, ValueError, or
        RefusedError for what this brain does not know."""
        match kind:
            case "heartbeat":
                names = ("unshared_bytes", "loop_lag_s", "updates")
                self._readings[unit] = Readings(*(units.number(body.get(name)) for name in names))
                trouble = one_line(str(body.get("trouble", "")))
                self.engine.post(unit, Heartbeat(incarnation, trouble))
                if self._is_current(unit, incarnation):
                    self.storage.read(unit, body)
            case "connections" if self._is_bot(unit):
                # What a process said before its end may be heard after it: then it holds nothing.
                if self._is_current(unit, incarnation):
                    self.storage.reported(unit, body)
            case "ready":
                self._became_ready(unit, incarnation, body)
            case "last_will":
                failure = FailureClass(body["failure"])
                wait_s = float(body.get("retry_after_s", 0.0))
                reason = one_line(str(body["reason"]))
                self.engine.post(unit, LastWill(incarnation, failure, reason, wait_s))
            case "forked" | "fork_failed" | "exited" | "all_told" if unit == ZYGOTE:
                self._heard_zygote(kind, body)
            case _:
                raise RefusedError(f"this supervisor does not know {kind!r}")

    def asked(self, unit: UnitId, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to what a worker asked: a DimsError, KeyError, TypeError or ValueError
        is raised and becomes one."""
        match kind:
            case "introduce" if self._is_bot(unit):
                return self._introduce(unit, UnitId(str(body["to"])))
            case "control" if self._is_bot(unit):
                return self._control_by_bot(unit, str(body["kind"]), body["body"])
            case _:
                raise RefusedError(
                    f"this supervisor does not know {kind!r}", hint="it may be older than the bot"
                )

    def _control_by_bot(
        self, unit: UnitId, kind: str, body: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """A control command of a bot, which needs a grant for exactly that."""
        if not self._grants.allows(unit, BRAIN, kind):
            raise RefusedError(
                f"no grant lets {unit} send {kind!r} to the brain",
                hint=f"bots.yaml: grants: [{{from: {unit}, to: brain, kinds: [{kind}]}}]",
            )
        return self.on_control(unit, kind, body)

    def _introduce(self, unit: UnitId, other: UnitId) -> Mapping[str, Any]:
        """Tells two workers who the other is: from then on they talk without the brain."""
        record = self.engine.records.get(other)
        if other not in self._bots or record is None:
            raise UsageError(f"there is no bot {other!r}")
        if record.state not in SERVING or record.pid is None:
            raise NotRunningError(
                f"{other} is {record.state.value}", hint="a durable message waits until it runs"
            )
        asker = self.engine.records[unit]
        about = {"bot": unit, "pid": asker.pid, "incarnation": asker.incarnation}
        if not self.links.say(other, "introduced", about, Priority.URGENT):
            raise NotRunningError(f"{other} is not connected", hint="try again in a moment")
        path = str(self.layout.peer_socket(other))
        return {"pid": record.pid, "incarnation": record.incarnation, "path": path}

    def _heard_zygote(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "exited":
            pid, started = int(body["pid"]), int(body["started"])
            self.exited(pid, started, body["code"], body["signal"])
            self.links.say(ZYGOTE, "exited_ack", {"exits": [[pid, started]]})
            return
        if kind == "all_told":
            self._give_up_forks(self._doubtful, "the zygote lost the order")
            self._doubtful = {}
            return
        unit, incarnation = UnitId(body["unit"]), Incarnation(body["incarnation"])
        if kind == "forked":
            self._exists(unit, incarnation, int(body["pid"]), int(body["started"]))
        else:
            reason = str(body["reason"])
            self.engine.post(unit, SpawnFailed(incarnation, FailureClass.CRASH, reason))

    def _exists(self, unit: UnitId, incarnation: Incarnation, pid: int, started: int) -> None:
        record = self.engine.records.get(unit)
        if record is None or not record.alive or record.incarnation != incarnation or record.pid:
            # Told again by a zygote that reconnected, or of a former brain's bot.
            return
        self._store.process(unit, pid, started)
        # Watched first: a stop that came before the process did is signalled on `Spawned`.
        self.processes.watch(unit, incarnation, pid, started)
        self.engine.post(unit, Spawned(incarnation, pid))
        self.links.settle(unit)

    def _gone(self, unit: UnitId, incarnation: Incarnation, status: ExitStatus) -> None:
        if self.engine.records[unit].incarnation == incarnation:
            self._store.process(unit, None, None)
        self.engine.post(unit, Exited(incarnation, status))
        self.storage.gone(unit)
        if unit == ZYGOTE:
            self._zygote_memory.ended(incarnation, status)
            self._give_up_forks(self._unanswered_forks(), "the zygote ended while it forked")

    def _unanswered_forks(self) -> dict[UnitId, Incarnation]:
        """Bots that a process was ordered for, of which nobody has heard yet."""
        records = (self.engine.records[unit] for unit in self._of_kind(UnitKind.BOT))
        return {r.unit: r.incarnation for r in records if r.alive and r.pid is None}

    def _give_up_forks(self, forks: Mapping[UnitId, Incarnation], reason: str) -> None:
        """What the zygote did not answer it never will.

        Should such a child live, it is turned away at its hello, and its lease is not ours to give.
        """
        for unit, incarnation in forks.items():
            if self.engine.records[unit].pid is None:
                self.engine.post(unit, SpawnFailed(incarnation, FailureClass.CRASH, reason))

    def _became_ready(
        self, unit: UnitId, incarnation: Incarnation, body: Mapping[str, Any]
    ) -> None:
        if unit == SANDBOX:
            self._begin_task(self._open_sandbox(incarnation, body), "open the sandbox")
            return
        if unit == ZYGOTE:
            self._zygote_memory.ready(body)
        elif unit == POSTGRES:
            self.storage.server_ready(body)
        elif unit == STEWARD:
            self.storage.steward_ready(body)
        self.engine.post(unit, Ready(incarnation))
        if not self._is_bot(unit):
            self._may_be_used(unit)

    def _may_be_used(self, unit: UnitId) -> None:
        """Lets in those who need a service; not if it says ready while it is made to leave."""
        if self.engine.records[unit].state in SERVING:
            self.engine.service_ready(unit, up=True)

    async def _open_sandbox(self, incarnation: Incarnation, said: Mapping[str, Any]) -> None:
        """The sandbox listens: bots get their accounts there before any of them starts."""
        wanted: dict[str, str | None] = {
            unit: bot.token.get_secret_value() if bot.token else None
            for unit, bot in self._bots.items()
        }
        try:
            self._address = units.sandbox_address(said)
            made, refused = await make_bots(str(self.layout.sandbox_socket), wanted)
        except (DimsError, OSError, KeyError) as error:
            will = LastWill(incarnation, FailureClass.CRASH, f"no bots in the sandbox: {error}")
            self.engine.post(SANDBOX, will)
            # It does not know that it is to leave.
            self.signal(self.engine.records[SANDBOX], Stop.TERM)
            return
        self._tokens = {UnitId(name): token for name, token in made.items()}
        self._refused = {UnitId(name): reason for name, reason in refused.items()}
        self.engine.post(SANDBOX, Ready(incarnation))
        self._may_be_used(SANDBOX)

    # Files of failed bots

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(FILE_LOOK_S)
            for unit, seen in tuple(self._file_times.items()):
                if self._file_time(unit) != seen:
                    self._file_times.pop(unit)
                    self.engine.post(unit, FileChanged())

    def _file_time(self, unit: UnitId) -> float:
        """When the bot's handlers file last changed; 0 where there is none."""
        bot = self._bots.get(unit)
        if bot is None:
            return 0.0
        path = self.config.directory / bot.handlers
        if not bot.handlers.endswith(".py"):
            path = self.config.directory / (bot.handlers.replace(".", "/") + ".py")
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    # What operators ask

    def ask(self, kind: str, wanted: list[UnitId], reason: str) -> None:
        """The operator's wish for some bots: `start`, `stop` or `restart`."""
        facts: dict[str, AskedStart | AskedStop | AskedRestart] = {
            "start": AskedStart(reason),
            "stop": AskedStop(reason),
            "restart": AskedRestart(reason),
        }
        self.engine.post_all(wanted, facts[kind])

    def bot_ids(self) -> list[UnitId]:
        """All configured bots, in the order of bots.yaml."""
        return list(self._bots)

    def never_started(self) -> list[UnitId]:
        """Bots that no operator ever started or stopped."""
        known = self._store.units()
        return [unit for unit in self._bots if unit not in known]

    def status(self) -> dict[str, Any]:
        """The object of `dims status --json`."""
        now_s = time.monotonic()
        return {
            "supervisor": {
                "pid": os.getpid(),
                "keeper_pid": self._keeper_pid if self.keeper.is_there else None,
                "uptime_s": round(now_s - self.started_s, 3),
                "server": self.config.telegram.server.kind.value,
                "sandbox": self.is_sandboxed,
                "config": str(self.config.path),
                "state_dir": str(self.layout.state),
                "stopping": self._stopping,
                **self._zygote_memory.shown(),
            },
            "services": [
                self._status_of(unit, now_s) for unit in self._kinds if not self._is_bot(unit)
            ],
            "bots": [self._status_of(unit, now_s) for unit in self._bots],
        }

    def storage_status(self) -> dict[str, Any]:
        """The object of the request `storage`."""
        records = self.engine.records
        return self.storage.status({unit: records[unit].state.value for unit in self._kinds})

    def health(self) -> dict[str, Any]:
        """The object of `dims health --json`."""
        records = self.engine.records
        return report.health(
            [records[unit] for unit in self._bots],
            [records[unit] for unit in self._kinds if not self._is_bot(unit)],
            keeper_lost=not self.keeper.is_there,
            store_trouble=self._store.trouble,
        )

    def explain(self, unit: UnitId) -> dict[str, Any]:
        """The object of `dims bot explain --json`."""
        readings = self._readings.get(unit, NO_READINGS)
        events = self._store.events(unit, EXPLAINED_EVENTS)
        records = self.engine.records
        needs = [] if not self._is_bot(unit) else sorted(self.wish(unit).needs)
        missing = [records[need] for need in needs if not self.engine.is_up(need)]
        told = report.explain(records[unit], readings, events, time.monotonic(), missing)
        return {**told, **self._zygote_memory.shown()}

    def _tell_soon(self, unit: UnitId, kind: str, body: Mapping[str, Any]) -> bool:
        try:
            return self.links.say(unit, kind, body, Priority.HIGH)
        except FullError as error:
            # One that does not read must not keep the others from what they are told.
            _log.warning("%s does not hear %r: %s", unit, kind, error)
            return False

    def _is_current(self, unit: UnitId, incarnation: Incarnation) -> bool:
        record = self.engine.records[unit]
        return record.alive and record.incarnation == incarnation

    def _is_bot(self, unit: UnitId) -> bool:
        return self._kinds[unit] is UnitKind.BOT

    def _status_of(self, unit: UnitId, now_s: float) -> dict[str, Any]:
        readings = self._readings.get(unit, NO_READINGS)
        return report.unit_status(self.engine.records[unit], readings, now_s)

    def _begin_task(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("%s failed", task.get_name(), exc_info=task.exception())


def _no_control(_unit: UnitId, kind: str, _body: Mapping[str, Any]) -> Mapping[str, Any]:
    raise RefusedError(f"this supervisor does not know {kind!r}")
