"""The steward's process: waits for the database, prepares it, says so, and watches over it.

Decides nothing about its own restarts: what it cannot mend is a last will with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from dims.addresses import PostgresAddress
from dims.errors import (
    DimsError,
    NotRunningError,
    ProtocolError,
    RefusedError,
    ServiceError,
    StateError,
    TimedOutError,
    UsageError,
    with_hint,
)
from dims.ipc.links.process import Joining
from dims.ipc.wire.sentences import Vocabulary, read, written
from dims.ipc.words.failures import FailureClass
from dims.ipc.words.fleet import Beat, Leave, Will
from dims.ipc.words.services import DatabaseMoved, DatabaseServer, StewardReady, StewardTerms
from dims.services.steward.preparation import prepare
from dims.services.steward.roles import Roles
from dims.services.steward.upgrade import make_room_for_audit
from dims.storage.admin.sealed_roles import SealedRoles
from dims.storage.connections.connecting import connect
from dims.storage.connections.storage_errors import is_passing, translate
from dims.storage.names import Shape
from dims.system import sealed as seal
from dims.system.clock import Clock

READY_WITHIN_S = 50.0
"""Less than the start_timeout_s of a service, so that the reason is ours and not just a late start.
Within it a database that is not there yet is waited for."""
URL_WITHIN_S = 3.0
"""The same for a server that is somebody else's: nobody here starts it, so the reason is told soon.
It is tried on, with each restart of ours."""
GO_ON_AFTER_S = 3.0
"""A fleet whose roles are all known does not wait longer for a database that is away."""
CONNECT_WITHIN_S = 5.0
LOCK_WITHIN_S = 3.0
"""A table that somebody has locked is not waited for in silence."""
ASK_EVERY_S = 5.0
ANSWER_WITHIN_S = 5.0
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0
HOUR_S = 3600.0
_FAILURES = (
    DimsError,
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a database that is away, or does not want, can raise."""

ORDERS = Vocabulary(Leave, DatabaseMoved)

_log = logging.getLogger(__name__)


class Steward:
    """Runs until it is told to leave, or cannot prepare the database."""

    def __init__(self, fleet: Joining, clock: Clock) -> None:
        self._clock = clock
        self._bond = fleet.bond(self._heed, ORDERS, self._answer)
        self._leave = asyncio.Event()
        self._address: asyncio.Future[PostgresAddress] = asyncio.get_running_loop().create_future()
        self._connection: asyncpg.Connection | None = None
        self._using = asyncio.Lock()
        """One at a time: a connection answers one question after the other."""
        self._terms: StewardTerms | None = None
        self._roles: Roles | None = None
        self._server: DatabaseServer | None = None
        """What the brain was told of the server when it was told that we are ready."""
        self._trouble = ""
        self._tended_s = -HOUR_S

    async def run(self) -> None:
        """Returns when told to leave. Raises DimsError, after the brain was told why."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        leaves = asyncio.create_task(self._leave.wait(), name="the order to leave")
        serves = asyncio.create_task(self._serve(), name="serve")
        try:
            await asyncio.wait((leaves, serves), return_when=asyncio.FIRST_COMPLETED)
            if serves.done():
                serves.result()
        except DimsError as error:
            self._bond.last_will(Will(FailureClass.CRASH, with_hint(error)))
            raise
        finally:
            for task in (leaves, serves):
                task.cancel()
            await asyncio.gather(leaves, serves, return_exceptions=True)
            await self._disconnect()
            await self._bond.leave()

    # What the brain says and asks

    def _heed(self, order: Leave | DatabaseMoved) -> None:
        match order:
            case Leave():
                self._leave.set()
            case DatabaseMoved(address):
                self._learn(address)

    def _learn(self, address: PostgresAddress) -> None:
        if self._address.done():
            self._address = asyncio.get_running_loop().create_future()
        self._address.set_result(address)

    async def _answer(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if kind != "rotate":
            raise RefusedError(f"the steward does not know {kind!r}")
        terms, roles = self._terms, self._roles
        if terms is None or roles is None:
            raise _away()
        bots = body.get("bots") or list(terms.bots)
        if not isinstance(bots, list) or not all(bot in terms.bots for bot in bots):
            raise UsageError("rotate: bots must be ids of this fleet's bots")
        try:
            async with self._using:
                connection = self._connection
                if connection is None:
                    raise _away()
                rotated = await roles.rotate(connection, bots)
                self._hand_over(roles)
                ended = 0
                if body.get("end_sessions"):
                    ended = await roles.end_sessions(connection, rotated)
        except NotRunningError:
            raise
        except _FAILURES as error:
            # What is half done is done again by the next look, which connects anew.
            await self._disconnect()
            raise _explained(error) from error
        return {"rotated": rotated, "ended_sessions": ended}

    def _hand_over(self, roles: Roles) -> None:
        """Says again that we are ready, and so what bots log in with: also to a later brain."""
        if self._server is not None:
            handed = roles.handed()
            self._bond.ready(StewardReady(self._server, handed.roles, handed.refused))

    # What it does

    async def _serve(self) -> None:
        self._terms = terms = read(StewardTerms, await self._bond.join())
        if terms.address is not None:
            self._learn(terms.address)
        sealed = SealedRoles.load(terms.roles_file)
        self._roles = Roles(sealed, _shape(terms), terms.bots, self._clock.utc)
        began_s = self._clock.monotonic()
        await self._prepare(terms, self._roles, began_s)
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            await self._look(terms, self._roles)

    async def _prepare(self, terms: StewardTerms, roles: Roles, began_s: float) -> None:
        """Until the database is ready for bots; returns without it where they can do without."""
        delay_s = FIRST_RETRY_S
        patience_s = READY_WITHIN_S if terms.address is None else URL_WITHIN_S
        while True:
            reason = away = await self._reach(terms)
            if away is None:
                reason = await self._try_to_settle(terms, roles)
            if reason is None:
                return
            waited_s = self._clock.monotonic() - began_s
            if away and waited_s > GO_ON_AFTER_S and self._go_on_without(terms, roles, away):
                return
            if waited_s > (patience_s if away else READY_WITHIN_S):
                raise ServiceError(reason)
            self._beat(reason)
            await asyncio.sleep(delay_s * (1.0 + self._clock.draw()) / 2)
            delay_s = min(LAST_RETRY_S, delay_s * 2)

    async def _reach(self, terms: StewardTerms) -> str | None:
        """Connects; why not, where that may pass. Raises DimsError where it will not."""
        try:
            async with asyncio.timeout(GO_ON_AFTER_S):
                await asyncio.shield(self._address)
        except TimeoutError:
            return "the database's server is not ready"
        try:
            await self._connected(self._admin(terms))
        except ServiceError as error:
            if not is_passing(error):
                raise
            return with_hint(error)
        return None

    async def _try_to_settle(self, terms: StewardTerms, roles: Roles) -> str | None:
        """As `_settle`; why not, where that may pass."""
        try:
            await self._settle(terms, roles)
        except _FAILURES as error:
            await self._disconnect()
            failure = _explained(error)
            if not is_passing(failure) or isinstance(failure, TimedOutError):
                # For a lock it has been waited already; each restart of ours tries again.
                raise failure from error
            return with_hint(failure)
        return None

    async def _settle(self, terms: StewardTerms, roles: Roles) -> None:
        """Schema, roles and rows of bots as they should be; then the bots may come."""
        address = self._admin(terms)
        async with self._using:
            connection = await self._connected(address)
            await connection.execute(f"SET lock_timeout = '{LOCK_WITHIN_S:g}s'")
            # Who is ready must be heard of every few seconds, and a migration may take hours: a
            # later one is for the next start of this process, which has all the time.
            migrates = terms.migrates and self._server is None
            revision = await prepare(connection, address, _shape(terms), roles, migrates=migrates)
            server = await _server(connection)
        _keep(terms.server_file, server)
        self._trouble = ""
        self._server = replace(server, revision=revision)
        self._hand_over(roles)

    def _go_on_without(self, terms: StewardTerms, roles: Roles, reason: str) -> bool:
        """Lets the bots come although the database is away: their roles are known from before, and
        what does not need the database goes on."""
        server = _kept(terms.server_file)
        if server is None or not roles.is_complete:
            return False
        self._trouble = reason
        _log.warning("goes on without the database: %s", reason)
        self._server = server
        self._hand_over(roles)
        self._beat(reason)
        return True

    async def _look(self, terms: StewardTerms, roles: Roles) -> None:
        """Asks the server something; prepares again when it was away, or a bot was refused."""
        try:
            await self._ask(terms, roles)
            await self._rotate_old(terms, roles)
        except TimeoutError:
            await self._worry("the database does not answer")
        except _FAILURES as error:
            failure = _explained(error)
            if not isinstance(failure, (ServiceError, TimedOutError)):
                raise failure from error
            # A permanent reason as well: the bots that run have all they need.
            await self._worry(with_hint(failure))
        else:
            self._trouble = ""
        self._beat(self._trouble)

    async def _ask(self, terms: StewardTerms, roles: Roles) -> None:
        connection = self._connection
        if connection is not None and not connection.is_closed() and not roles.handed().refused:
            async with self._using, asyncio.timeout(ANSWER_WITHIN_S):
                await connection.execute("SELECT")
            return
        away = await self._reach(terms)
        if away is not None:
            raise ServiceError(away)
        await self._settle(terms, roles)

    async def _worry(self, trouble: str) -> None:
        await self._disconnect()
        self._trouble = trouble
        _log.warning("%s", trouble)

    async def _rotate_old(self, terms: StewardTerms, roles: Roles) -> None:
        if self._clock.monotonic() - self._tended_s < HOUR_S or self._connection is None:
            return
        async with self._using:
            await make_room_for_audit(self._connection, _shape(terms))
            self._tended_s = self._clock.monotonic()
            old = roles.older_than(terms.rotate_days) if terms.rotate_days else []
            if old:
                await roles.rotate(self._connection, old)
                _log.info("gave %d roles new passwords", len(old))
                self._hand_over(roles)

    def _admin(self, terms: StewardTerms) -> PostgresAddress:
        address = self._address.result()
        if terms.password_file is None:
            return address
        password = seal.read(terms.password_file)
        if password is None:
            raise ServiceError(f"{terms.password_file} is missing", hint="restore it from a backup")
        return address.as_user(address.user, password)

    async def _connected(self, address: PostgresAddress) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                address, timeout_s=CONNECT_WITHIN_S, application_name="dims steward"
            )
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=1.0)

    def _beat(self, trouble: str) -> None:
        self._bond.heartbeat(Beat(trouble))


async def _server(connection: asyncpg.Connection) -> DatabaseServer:
    """The server's version, and how many connections it has for whom."""
    row = await connection.fetchrow(
        "SELECT current_setting('server_version') AS version, "
        "current_setting('max_connections')::int AS max_connections, "
        "current_setting('superuser_reserved_connections')::int "
        "+ coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved"
    )
    return DatabaseServer(**dict(row))


def _away() -> NotRunningError:
    return NotRunningError("the database is away", hint="see `dims health`")


def _explained(error: Exception) -> DimsError:
    found = translate(error)
    return found if found is not None else ServiceError(f"{type(error).__name__}: {error}")


def _keep(path: Path, server: DatabaseServer) -> None:
    text = json.dumps(written(server))
    try:
        # A full disk is no reason to leave as long as there is nothing to write.
        if not path.exists() or path.read_text(encoding="utf-8").strip() != text:
            seal.write(path, text)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise StateError(f"cannot write {path}: {why}", hint=seal.WRITE_HINT) from error


def _kept(path: Path) -> DatabaseServer | None:
    """What was kept; None where nothing of use is: then the database has to be asked."""
    try:
        return read(DatabaseServer, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ProtocolError):
        return None


def _shape(terms: StewardTerms) -> Shape:
    return Shape(terms.partitions, terms.prefix)
