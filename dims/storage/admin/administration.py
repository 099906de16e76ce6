"""The database as its administrator reaches it, whether a fleet runs or not.

Knows where the server is and sees to it that it answers; what is done there is others' work. An
embedded server that nobody runs is run by this process, for as long as it takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from dims.addresses import PostgresAddress
from dims.config import Config, DatabaseKind
from dims.errors import AlreadyRunningError, ServiceError, StateError, UsageError
from dims.layout import PRIVATE_FILE, Layout
from dims.storage.connections.connecting import connect
from dims.storage.connections.storage_errors import translate
from dims.storage.embedded.postgres import (
    DATABASE,
    OWNER,
    PORT,
    SOCKET,
    EmbeddedPostgres,
    password_file,
)
from dims.storage.embedded.probe import Health, probe_postgres
from dims.storage.embedded.server_log import read_postgres
from dims.storage.names import Shape
from dims.system import sealed as seal
from dims.system.locks import FileLock, holder

NAME = "postgres"
APPLICATION = "dims db"
STARTS_WITHIN_S = 50.0
"""As the service: a first start makes the cluster, one after a crash recovers."""
ANSWERS_WITHIN_S = 20.0
"""How long a server that somebody else starts may take; a warm start takes under a second."""
STOPS_WITHIN_S = 20.0
CONNECTS_WITHIN_S = 10.0
CLOSES_WITHIN_S = 2.0
LOOK_S = 0.05
_LOG_TAIL_BYTES = 10_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reached:
    """A server that answers."""

    address: PostgresAddress
    """As whom its administrator goes there."""
    is_ours: bool
    """Whether it runs in this process only, and ends with it."""
    keep: int = -1
    """A descriptor that keeps the server there; -1 where nothing does."""


def shape_of(config: Config) -> Shape:
    """How a new database is made, and what roles are called. Raises UsageError."""
    return Shape(config.storage.partitions, config.storage.prefix).check()


def admin_address(config: Config, layout: Layout) -> PostgresAddress:
    """Where the database is, as its administrator; it need not answer.

    Raises UsageError when the fleet has none, StateError when it was never made, ServiceError for
    a password that cannot be read.
    """
    match config.storage.database_kind:
        case DatabaseKind.OFF:
            raise UsageError(
                "this fleet has no database: `storage.database` is off",
                hint="`storage.database: embedded`, or postgresql://...",
            )
        case DatabaseKind.URL:
            address = config.storage.database_address
            assert address is not None  # noqa: S101 (the configuration saw to it)
            return address
        case DatabaseKind.EMBEDDED:
            return _embedded_address(layout)


@contextlib.asynccontextmanager
async def reachable(
    config: Config, layout: Layout, *, say: Say, may_make: bool = False
) -> AsyncIterator[Reached]:
    """A database that answers; the embedded one is started for the time when nobody runs it.

    `may_make` makes it where there is none yet. Call it from the main thread, whose child the
    server is. Raises as `admin_address`, and ServiceError when the server does not come up; a URL
    is not tried.
    """
    if config.storage.database_kind is not DatabaseKind.EMBEDDED:
        yield Reached(admin_address(config, layout), is_ours=False)
        return
    if not may_make:
        _embedded_address(layout)
    elif _is_ours(layout):
        layout.make()
    lock = FileLock(layout.state / f"{NAME}.lock")
    guests = _Guests(layout.state / f"{NAME}.guests")
    try:
        if not await _claimed(lock, guests, layout):
            await _until_it_answers(layout)
            yield Reached(_embedded_address(layout), is_ours=False, keep=guests.descriptor)
            return
        async with _running(layout, say):
            try:
                yield Reached(_embedded_address(layout), is_ours=True)
            finally:
                await guests.gone(say)
    finally:
        guests.release()
        lock.release()


@contextlib.asynccontextmanager
async def connected(address: PostgresAddress) -> AsyncIterator[asyncpg.Connection]:
    """A connection for the work, closed at the end; errors of the work's statements are ours.

    Raises ServiceError and TimedOutError.
    """
    connection = await connect(address, timeout_s=CONNECTS_WITHIN_S, application_name=APPLICATION)
    try:
        yield connection
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError) as error:
        raise translate(error) or error from error
    finally:
        # What was cut off closes as well as it can.
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await connection.close(timeout=CLOSES_WITHIN_S)


def _embedded_address(layout: Layout) -> PostgresAddress:
    sealed = password_file(layout.state)
    password = seal.read(sealed)
    if password is None:
        raise StateError(
            f"there is no database in {layout.state} yet",
            hint="`dims db migrate` makes it, and so does `dims start`",
        )
    return PostgresAddress(str(layout.server_sockets(NAME)), PORT, DATABASE, OWNER, password)


def _is_ours(layout: Layout) -> bool:
    """Whether the state directory is this user's, or will be."""
    return not layout.state.exists() or layout.state.stat().st_uid == os.geteuid()


class _Guests:
    """Commands that use a server which another command runs: it stays for as long as they need it.

    A flock(2): shared by the guests, exclusive while the server is stopped.
    """

    def __init__(self, path: Path) -> None:
        """Raises StateError when the file cannot be opened."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self.descriptor = os.open(path, flags, PRIVATE_FILE)
            if os.geteuid() == 0:
                # Root may look after another user's fleet, who shall open it as well.
                owner = path.parent.stat()
                os.fchown(self.descriptor, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise StateError(f"cannot open {path}: {error.strerror}") from error

    def join(self) -> bool:
        """Whether we are one of them now; not while the server is being stopped."""
        return self._locked(fcntl.LOCK_SH)

    async def gone(self, say: Say) -> None:
        """Waits until there are none, and lets nobody in from then on."""
        told = False
        while not self._locked(fcntl.LOCK_EX):
            if not told:
                say("another command uses this PostgreSQL; waiting for its end")
                told = True
            await asyncio.sleep(LOOK_S)

    def release(self) -> None:
        """Leaves, or lets others in again."""
        os.close(self.descriptor)

    def _locked(self, how: int) -> bool:
        try:
            fcntl.flock(self.descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


async def _claimed(lock: FileLock, guests: _Guests, layout: Layout) -> bool:
    """Whether the server is ours to run; else somebody else runs it, and we are a guest."""
    clock = asyncio.get_running_loop().time
    until_s = clock() + STOPS_WITHIN_S
    while True:
        # Not while a fleet runs, even if its server is away for a moment.
        if holder(layout.lock) is None:
            with contextlib.suppress(AlreadyRunningError):
                lock.take(NAME)
                return True
        if guests.join():
            return False
        if clock() > until_s:
            raise ServiceError("another command does not get PostgreSQL stopped", hint="try again")
        await asyncio.sleep(LOOK_S)


async def _until_it_answers(layout: Layout) -> None:
    socket = layout.server_sockets(NAME) / SOCKET
    clock = asyncio.get_running_loop().time
    until_s = clock() + ANSWERS_WITHIN_S
    while await probe_postgres(socket, OWNER, LOOK_S * 20) is not Health.SERVES:
        if clock() > until_s:
            raise ServiceError(
                f"the embedded PostgreSQL runs already, but does not answer in {socket.parent}",
                hint=f"see `dims status` and `dims logs {NAME}`",
            )
        await asyncio.sleep(LOOK_S)


@contextlib.asynccontextmanager
async def _running(layout: Layout, say: Say) -> AsyncIterator[None]:
    if not _is_ours(layout):
        # Root's server would be another one, with other data.
        raise StateError(
            f"{layout.state} belongs to another user, and its database does not run",
            hint="use that user, or start the fleet",
        )
    server = EmbeddedPostgres(layout.state, layout.runtime)
    log = layout.log(NAME)
    say("PostgreSQL does not run; it is started for this command")
    try:
        with _appending(log) as output:
            server.start(output)
        await server.wait_ready(STARTS_WITHIN_S)
        yield
    except ServiceError as error:
        if server.process is None or server.process.poll() is None:
            raise
        last = _last_words(log)
        raise ServiceError(f"{error}: {last}" if last else str(error), hint=f"see {log}") from error
    finally:
        # Also after Ctrl-C, which cancels; a second one ends us, and the server with us.
        await server.stop(STOPS_WITHIN_S)


@contextlib.contextmanager
def _appending(log: Path) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        descriptor = os.open(log, flags, PRIVATE_FILE)
    except OSError as error:
        raise StateError(f"cannot open {log}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _last_words(log: Path) -> str:
    """Why the server ended, as far as it said."""
    with log.open("rb") as file:
        file.seek(-min(_LOG_TAIL_BYTES, log.stat().st_size), os.SEEK_END)
        lines = file.read().decode("utf-8", "replace").splitlines()
    read = [read_postgres(line) for line in lines if not line.startswith("{")]
    return next((line.text for line in reversed(read) if line.level >= 30), "")
