"""One bot's process from hello to last will. Joins client, handlers, health, log and brain.

Start-up, serving and leaving each have one function; why a worker leaves is a `Failure`, or None
when it was told to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from telethon import functions

from dims import logs
from dims.bot_worker import handlers
from dims.bot_worker.commands import Commands, Serving
from dims.bot_worker.context import BotContext
from dims.bot_worker.database.worker_storage import Storage
from dims.bot_worker.lease import FORMER_LEAVES_S, Lease
from dims.bot_worker.mail.mail import Mail
from dims.bot_worker.memory import give_back, unshared_bytes
from dims.bot_worker.telegram.client import build_client, check_health, sign_in, until_disconnected
from dims.bot_worker.telegram.diagnosis import Failure, WorkerFailedError, classify
from dims.bot_worker.telegram.file_session import FileSession
from dims.bot_worker.telegram.updates import UpdateTracker
from dims.errors import AlreadyRunningError, RefusedError, UsageError, with_hint
from dims.ipc.links.membership import Membership
from dims.ipc.wire.sentences import Vocabulary, read
from dims.ipc.words.failures import FailureClass
from dims.ipc.words.fleet import Beat, ConnectionsLent, Introduced, Leave, Will
from dims.ipc.words.terms import StoragePlace, WorkerTerms
from dims.system.clock import SYSTEM

ORPHAN_LIMIT_S = 3600.0
"""Without any brain for this long a worker drains and leaves."""
HEALTH_EVERY_S = 60.0
"""Between two health requests; Telethon itself pings every 60 s."""
MEMORY_EVERY = 6
"""Heartbeats between two readings of memory, each of which walks all mappings."""
FIRST_BEAT_S = 1.0
TOGETHER_S = 0.25
"""Heartbeats fall on multiples of this, on the clock that all processes of a machine share: a
thousand workers wake it, and the brain, four times a second instead of a hundred. The kernel does
the same with its own timers (round_jiffies)."""
RECONNECTS = 5
"""Failed health requests a second apart before a worker gives its connection up."""
BURST = 100
"""Updates since the last time after which a worker gives freed memory back."""
ORDERS = Vocabulary(Leave, Introduced, ConnectionsLent, StoragePlace)
WILL_CODE = 75
"""Exit code after a last will (EX_TEMPFAIL of sysexits.h)."""

_log = logging.getLogger(__name__)


class Worker:
    """Runs one bot. `bond` is its place in a fleet, or None under `dims run`."""

    def __init__(self, terms: WorkerTerms, incarnation: int, bond: Membership | None) -> None:
        self._terms = terms
        self._incarnation = incarnation
        self._bond = bond
        self._leaving: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        account = terms.token.partition(":")[0]
        self._lease = Lease(terms.lease, f"{terms.server.host}:{terms.server.port}", account)
        self._redactor = logs.Redactor(terms.secrets)
        self._trouble = ""
        self.mail = Mail(terms.bot, terms.mail, incarnation, bond, SYSTEM)
        tell = bond.say if bond is not None else None
        self.storage = Storage(terms.bot, terms.storage, tell, self._hide, SYSTEM.draw)
        self._module: ModuleType | None = None
        self.rotating: logs.RotatingLog | None = None
        self.commands = Commands(
            terms.limits,
            incarnation,
            clean=self._redactor.clean,
            hide=self._hide,
            leave=self.leave,
            trouble=lambda: self._trouble,
        )

    def heed(self, order: Leave | Introduced | ConnectionsLent | StoragePlace) -> None:
        """Does what the brain says."""
        match order:
            case Leave():
                self.leave(None)
            case Introduced():
                self.mail.introduced(order)
            case ConnectionsLent():
                self.storage.lent(order)
            case StoragePlace():
                self.storage.moved(order)

    def leave(self, failure: Failure | None) -> None:
        """Ends the worker: gently, and with a last will when there is a failure."""
        if not self._leaving.done():
            self._leaving.set_result(failure)

    def leave_on_signals(self) -> None:
        """TERM and INT end the worker gently from now on.

        Not `loop.add_signal_handler`, which lists all signals of the system each time: 1 ms.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self.leave, None))

    async def run(self) -> Failure | None:
        """Runs until told to leave or until something fails; returns why.

        Raises AlreadyRunningError under `dims run`, whose user can do something about it.
        """
        failure: Failure | None = None
        try:
            failure = await self._run()
        except AlreadyRunningError:
            raise
        except Exception as error:
            # Anything that escapes start-up or serving is a reason to leave, and must be said.
            failure = classify(error)
            if failure.kind == FailureClass.CRASH and not isinstance(error, WorkerFailedError):
                _log.exception("the worker failed")
        if failure is None:
            return None
        reason = self._redactor.clean(logs.one_line(failure.reason))
        if self._bond is not None:
            _log.error("leaves: %s", reason)
            self._bond.last_will(Will(failure.kind, reason, failure.retry_after_s))
        return Failure(failure.kind, reason, failure.retry_after_s)

    async def _run(self) -> Failure | None:
        terms = self._terms
        try:
            await self._lease.take(terms.bot, 0.0 if self._bond is None else FORMER_LEAVES_S)
        except AlreadyRunningError as error:
            if self._bond is None:
                raise
            raise WorkerFailedError(Failure(FailureClass.CRASH, with_hint(error))) from error
        self._module = handlers.load_module(terms.handlers, terms.directory)
        session = FileSession(terms.session)
        client = build_client(terms, session)
        tracker = UpdateTracker(client, session, terms.limits.handlers_at_once)
        bot = BotContext(
            terms.bot,
            client=client,
            settings=terms.own.settings,
            admins=terms.admins,
            incarnation=self._incarnation,
            leave=self._recycle,
            mail=self.mail,
            storage=self.storage,
        )
        self._add_message_handlers(self._module)
        for function, builder in handlers.registered(self._module):
            client.add_event_handler(function, builder)
        try:
            await self._start(client, session, tracker, bot)
            self.commands.serving = Serving(client, session, tracker, bot, self._module)
            return await self._serve(client, tracker)
        finally:
            self.commands.serving = None
            await self._stop(client, tracker, bot)
            session.save()
            session.updates.close()
            # Last of all: whoever gets it next must find everything stored.
            self._lease.release()

    async def _start(
        self, client: Any, session: FileSession, tracker: UpdateTracker, bot: BotContext
    ) -> None:
        stored = session.get_update_state(0)
        if stored is not None:
            tracker.start_from(stored)
        login = asyncio.ensure_future(sign_in(client, self._terms))
        await asyncio.wait((login, self._leaving), return_when=asyncio.FIRST_COMPLETED)
        if not login.done():
            login.cancel()
            await asyncio.gather(login, return_exceptions=True)
            return
        login.result()
        if not tracker.has_begun:
            tracker.start_from(await client(functions.updates.GetStateRequest()))
        session.save()
        await self._call_setup(bot)
        tracker.serve()
        await self.mail.start()
        if self._bond is not None:
            self._bond.ready()

    async def _call_setup(self, bot: BotContext) -> None:
        if self._module is None:
            return
        try:
            async with asyncio.timeout(self._terms.limits.start_timeout_s):
                await handlers.call_hook(self._module, "setup", bot)
        except (WorkerFailedError, ConnectionError, TimeoutError):
            raise
        except Exception as error:
            # The bot's own code: restarting cannot mend it, a change of the file can.
            _log.exception("setup() failed")
            what = f"setup() of {self._terms.handlers!r} raised {type(error).__name__}: {error}"
            raise WorkerFailedError(Failure(FailureClass.NEEDS_OPERATOR, what)) from error

    async def _serve(self, client: Any, tracker: UpdateTracker) -> Failure | None:
        """Until told to leave, disconnected for good, or unhealthy."""
        beats = asyncio.ensure_future(self._keep_beating(tracker))
        health = asyncio.ensure_future(self._keep_checking(client))
        lost = asyncio.ensure_future(until_disconnected(client))
        watched = (self._leaving, beats, health, lost)
        try:
            done, _ = await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (beats, health, lost):
                task.cancel()
            await asyncio.gather(beats, health, lost, return_exceptions=True)
        if self._leaving in done:
            return self._leaving.result()
        if health in done:
            return health.result()
        if beats in done:
            return beats.result()
        lost.result()
        return Failure(
            FailureClass.NETWORK, "the connection to Telegram is lost, and reconnecting failed"
        )

    async def _keep_beating(self, tracker: UpdateTracker) -> Failure | None:
        """Heartbeats with loop lag and memory; ends only when no brain has come for too long."""
        loop = asyncio.get_running_loop()
        count, seen = 0, tracker.seen
        memory = None
        # The first comes soon, but not at once: reading memory costs a third of a login.
        pause_s = min(FIRST_BEAT_S, self._terms.limits.heartbeat_s)
        while True:
            expected_s = loop.time() + pause_s
            await asyncio.sleep(pause_s)
            pause_s = pause_to_beat_s(loop.time(), self._terms.limits.heartbeat_s)
            lag_s = max(0.0, loop.time() - expected_s)
            if tracker.seen - seen >= BURST:
                give_back()
                seen, count = tracker.seen, 0
            if count % MEMORY_EVERY == 0:
                memory = unshared_bytes()
            count += 1
            self._beat(tracker, lag_s, memory)
            if self.rotating is not None:
                self.rotating.rotate_if_full()
            alone_s = self._bond.alone_since_s if self._bond is not None else None
            if alone_s is not None and loop.time() - alone_s > ORPHAN_LIMIT_S:
                return Failure(FailureClass.RECYCLE, "no brain came back")

    def _beat(self, tracker: UpdateTracker, lag_s: float, memory: int | None) -> None:
        if self._bond is None:
            return
        pool = self.storage.readings()
        beat = Beat(
            trouble=self._trouble or self.mail.trouble,
            loop_lag_s=round(lag_s, 4),
            unshared_bytes=memory,
            updates=tracker.seen,
            pool=pool.get("pool"),
            slow=pool.get("slow"),
        )
        self._bond.heartbeat(beat)

    async def _keep_checking(self, client: Any) -> Failure:
        """Health requests; the first failed one is trouble, the second the end."""
        misses = 0
        while True:
            await asyncio.sleep(HEALTH_EVERY_S if not misses else 1.0)
            try:
                await check_health(client, self._terms.limits.health_timeout_s)
            except TimeoutError:
                misses += 1
                self._trouble = "Telegram does not answer"
                if misses > 1:
                    return Failure(FailureClass.DEAF, "connected, but Telegram does not answer")
            except ConnectionError as error:
                # Telethon reconnects by itself, but against a server that accepts and cuts at
                # once it does so without pause and for ever: the supervisor's backoff is better.
                misses += 1
                self._trouble = f"no connection: {error}"
                if misses > RECONNECTS:
                    return Failure(
                        FailureClass.NETWORK, f"connected and cut again and again: {error}"
                    )
            except Exception as error:
                # Auth errors show here and nowhere else: classified, they end the worker.
                return classify(error)
            else:
                misses, self._trouble = 0, ""

    async def _stop(self, client: Any, tracker: UpdateTracker, bot: BotContext) -> None:
        """Takes nothing new, finishes what is in hand within the limit, disconnects."""
        limit_s = self._terms.limits.drain_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await self.mail.drain()
                if client.is_connected():
                    await tracker.drain()
                    if self._module is not None:
                        await handlers.call_hook(self._module, "teardown", bot)
        except TimeoutError:
            _log.warning("handlers still ran after %g s", limit_s)
        except Exception:
            # teardown() is the bot's own code; leaving must not fail on it.
            _log.exception("teardown() failed")
        await self.mail.close()
        await self.storage.close()
        try:
            async with asyncio.timeout(limit_s):
                await client.disconnect()
        except TimeoutError:
            _log.warning("disconnecting took longer than %g s", limit_s)
        tracker.close()

    def _add_message_handlers(self, module: ModuleType) -> None:
        try:
            self.mail.add_module(module)
        except UsageError as error:
            what = f"handlers {self._terms.handlers!r}: {error}"
            raise WorkerFailedError(Failure(FailureClass.NEEDS_OPERATOR, what)) from error

    def _hide(self, secrets: tuple[str, ...]) -> None:
        self._redactor.hide(secrets)
        if self.rotating is not None:
            self.rotating.hide(secrets)

    def _recycle(self, reason: str) -> None:
        self.leave(Failure(FailureClass.RECYCLE, reason))


def pause_to_beat_s(now_s: float, every_s: float) -> float:
    """Seconds until the next heartbeat, of which there is one `every_s`; `now_s` is monotonic."""
    if every_s < 10 * TOGETHER_S:
        return every_s
    return round((now_s + every_s) / TOGETHER_S) * TOGETHER_S - now_s


def run_forked(order: Mapping[str, Any]) -> int:
    """Runs in a child of the zygote; returns the exit code. `order` has no secrets."""
    logs.dump_stacks_on_signal()
    return asyncio.run(run_in_fleet(order, heeds_signals=True))


async def run_in_fleet(order: Mapping[str, Any], *, heeds_signals: bool) -> int:
    """Joins the fleet as `order` says, runs the bot, and returns the exit code."""
    incarnation = int(order["incarnation"])
    worker: Worker | None = None
    early: list[ConnectionsLent | StoragePlace] = []
    """What came with the welcome, before there was a worker to heed it."""

    def heed(order: Leave | Introduced | ConnectionsLent | StoragePlace) -> None:
        if worker is not None:
            worker.heed(order)
        elif isinstance(order, Leave):
            # Nobody expects us and we hold nothing yet.
            os._exit(0)
        elif not isinstance(order, Introduced):
            early.append(order)

    async def answer(kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if worker is None:
            raise RefusedError("not ready yet", hint="try again in a moment")
        return await worker.commands.answer(kind, body)

    bond = Membership(
        str(order["socket"]),
        str(order["unit"]),
        incarnation,
        on_order=heed,
        orders=ORDERS,
        on_request=answer,
    )
    terms = read(WorkerTerms, await bond.join())
    limits = terms.limits
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits.open_files, hard), hard))
    rotating = logs.log_to_file(
        terms.bot, terms.log, terms.secrets, (limits.log_bytes, limits.log_files)
    )
    worker = Worker(terms, incarnation, bond)
    bond.on_rejoined = worker.storage.rejoined
    worker.rotating = rotating
    for order_ in early:
        worker.heed(order_)
    if heeds_signals:
        worker.leave_on_signals()
    started_s = SYSTEM.monotonic()
    _log.info("starts", extra={"incarnation": incarnation, "pid": os.getpid()})
    failure = await worker.run()
    _log.info("ends", extra={"after_s": round(SYSTEM.monotonic() - started_s, 3)})
    await bond.leave()
    return WILL_CODE if failure is not None else 0
