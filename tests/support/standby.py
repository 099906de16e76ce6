"""A PostgreSQL primary and its hot standby, both real, on sockets of their own below /tmp."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
from fleet import WITHIN_S, is_running, until
from storage_site import SHAPE, StorageSite, becomes, pool_to

from dims.addresses import PostgresAddress
from dims.migrations.runner import Migrations
from dims.storage.bot.database import Database
from dims.storage.connections.connecting import connect
from dims.storage.embedded.binaries import find_postgres
from dims.storage.embedded.child import Manner, start
from dims.storage.embedded.copies import copy_of
from dims.storage.embedded.server_user import POSTGRES_ACCOUNTS, choose_account
from dims.system.clock import SYSTEM

OWNER, PASSWORD = "dims", "owner-s3cret"
HBA = "local all all scram-sha-256\nlocal replication all scram-sha-256\n"
OPTIONS = {
    "listen_addresses": "", "fsync": "off", "shared_buffers": "16MB", "max_connections": "20",
    "dynamic_shared_memory_type": "mmap", "wal_level": "replica", "wal_keep_size": "64MB",
    "hot_standby": "on", "wal_retrieve_retry_interval": "100ms",
}  # fmt: skip


class Server:
    """One server; its data and its socket lie in `directory`."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._programs = programs
        self._account = choose_account(POSTGRES_ACCOUNTS)
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(mode=0o755)
        if self._account is not None:
            os.chown(directory, self._account.uid, self._account.gid)
        self.address = PostgresAddress(host=str(directory), user=OWNER, password=PASSWORD)

    def make(self) -> None:
        """An empty cluster that lets a standby in."""
        password = self.directory / "password"
        password.write_text(f"{PASSWORD}\n")
        self._run("initdb", "-D", self.data, "-U", OWNER, "--pwfile", password, "-E", "UTF8",
                  "--locale", "C", "--no-sync")  # fmt: skip
        (self.data / "pg_hba.conf").write_text(HBA)

    def follow(self, primary: Server) -> None:
        """A copy of the primary that replays what that one writes."""
        where = f"host={primary.directory} user={OWNER} password={PASSWORD}"
        self._run("pg_basebackup", "-D", self.data, "-R", "-c", "fast", "--no-sync", "-d", where)

    def serve(self) -> None:
        """Serves, also again after its end."""
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        options.append(f"--unix_socket_directories={self.directory}")
        with (self.directory / "log").open("wb") as log:
            self.process = self._start("postgres", "-D", self.data, *options, output=log.fileno())
        until(self._serves, f"{self.directory} serves")

    def kill(self) -> None:
        """As a machine that is gone; returns when all of its processes are."""
        if self.process is not None:
            self.process.kill()
            self._wait()

    def end(self) -> None:
        """In order; what does not end is killed."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(WITHIN_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        if self.process is not None:
            self._wait()

    async def admin(self) -> asyncpg.Connection:
        """A connection of the superuser, who sees all rows."""
        return await connect(self.address, timeout_s=WITHIN_S, application_name="test")

    def _wait(self) -> None:
        assert self.process is not None
        self.process.wait(WITHIN_S)
        # Its children leave when they see that it is gone, and hold the shared memory until then.
        until(lambda: not self._left(), f"all of {self.directory} has ended")

    def _left(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = (entry / "cwd").readlink() == self.data
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if is_ours and is_running(int(entry.name)):
                found.append(int(entry.name))
        return found

    def _serves(self) -> bool:
        log = (self.directory / "log").read_text("utf-8", "replace")
        assert self.process is not None
        assert self.process.poll() is None, log
        return "system is ready to accept" in log

    def _run(self, program: str, *arguments: str | Path) -> None:
        process = self._start(program, *arguments, output=subprocess.PIPE)
        said, _ = process.communicate(timeout=2 * WITHIN_S)
        assert process.returncode == 0, said.decode()

    def _start(self, program: str, *arguments: str | Path, output: int) -> subprocess.Popen[bytes]:
        manner = Manner(self._account, self.directory, signal.SIGQUIT)
        return start([self._programs / program, *arguments], manner, output=output)


class Pair(StorageSite):
    """A migrated primary, and a standby that follows it."""

    def __init__(self, primary: Server, standby: Server) -> None:
        super().__init__(primary.address, primary.data.stat().st_uid)
        self.primary = primary
        self.standby = standby

    async def caught_up(self) -> None:
        """Waits until the standby has all that the primary has written."""
        primary, standby = await self.primary.admin(), await self.standby.admin()
        try:
            written = await primary.fetchval("SELECT pg_current_wal_lsn()::text")
            ask = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
            await becomes(lambda: standby.fetchval(ask, written), "the standby has caught up")
        finally:
            await primary.close()
            await standby.close()

    @asynccontextmanager
    async def behind(self) -> AsyncIterator[None]:
        """Inside this block the standby replays nothing; afterwards it has caught up."""
        standby = await self.standby.admin()
        try:
            await standby.execute("SELECT pg_wal_replay_pause()")
            ask = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
            await becomes(lambda: standby.fetchval(ask), "replay is paused")
            try:
                yield
            finally:
                await standby.execute("SELECT pg_wal_replay_resume()")
        finally:
            await standby.close()
        await self.caught_up()

    @asynccontextmanager
    async def split(self, lag_s: float) -> AsyncIterator[Database]:
        """The `bot.db` of a new bot, which the standby knows; at the end no connection of it may
        be in use."""
        bot_id, address = await self.new_bot()
        await self.caught_up()
        primary = pool_to(address)
        standby = pool_to(replace(address, host=self.standby.address.host))
        database = Database(bot_id, primary, replica=standby, replica_lag_s=lag_s, draw=SYSTEM.draw)
        try:
            yield database
            assert all(pool.stats().in_use == 0 for pool in (primary, standby))
        finally:
            await database.close(WITHIN_S)


@contextmanager
def standby_pair() -> Iterator[Pair]:
    """Both servers for the time of a `with`."""
    directory = Path(tempfile.mkdtemp(prefix="dims-sb-"))
    directory.chmod(0o755)
    try:
        binaries = find_postgres()
        if choose_account(POSTGRES_ACCOUNTS) is not None and binaries.parts:
            (directory / "system").mkdir()
            binaries = copy_of(binaries, directory / "system")
        primary = Server(directory / "primary", binaries.directory)
        standby = Server(directory / "standby", binaries.directory)
        try:
            primary.make()
            primary.serve()
            asyncio.run(Migrations(primary.address, shape=SHAPE).migrate())
            standby.follow(primary)
            standby.serve()
            yield Pair(primary, standby)
        finally:
            # This one first: a primary that ends waits for whoever follows it.
            standby.end()
            primary.end()
    finally:
        shutil.rmtree(directory)
