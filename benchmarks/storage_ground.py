"""Where storage is measured: an embedded server of its own with bots and their rows, and next to
them plain tables without partitions and policies.

Knows how a server is started, migrated and filled; measures nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

import asyncpg
from measures import BenchmarkError, wait_until

from dims.addresses import PostgresAddress
from dims.migrations.runner import Migrations
from dims.storage.admin.scram import verifier
from dims.storage.admin.tenancy import LoginRole, put_roles
from dims.storage.bot.database import Database
from dims.storage.connections.connecting import connect
from dims.storage.connections.pool import Pool, PoolLimits
from dims.storage.embedded.binaries import Source
from dims.storage.names import Shape
from dims.system.clock import SYSTEM
from dims.system.sealed import new_password

SHAPE = Shape()
WITHIN_S = 60.0
STATEMENT_S = 30.0
CONNECTIONS = 150
TWINS = (("users", "plain.users"), ("messages", "plain.messages"))
"""Each table, and one without partitions and policies that has the same columns and indexes."""
UNWALLED = "plain.parted_messages"
"""As the table of messages, partitions and indexes included, but without policies and triggers."""
_USERS = """
INSERT INTO {table} (bot_id, user_id, username, first_name, last_name, language, data)
SELECT bot_id, user_id, 'user' || user_id, 'Ada', 'Lovelace', 'en', '{{"step": 3, "paid": true}}'
  FROM unnest($1::text[]) AS bot_id, generate_series(1, $2::int) AS user_id"""


class Server:
    """An embedded PostgreSQL below `directory`, as a fleet has it. Use as a context manager."""

    def __init__(self, directory: Path, source: Source = Source.AUTO) -> None:
        self._source = source
        self._directory = directory
        self._log = directory / "log"
        self._state = directory / "state"
        directory.mkdir(mode=0o755)
        self._state.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "dims.services.embedded", "postgres"]
        argv += ["--state-dir", str(self._state), "--runtime-dir", str(self._directory / "run")]
        argv += ["--system-dir", str(self._directory / "system"), "--log", str(self._log)]
        argv += ["--max-connections", str(CONNECTIONS), "--source", self._source.value]
        with self._log.open("ab") as output:
            os.fchmod(output.fileno(), 0o600)
            self._process = subprocess.Popen(argv, stdout=output, stderr=output)
        try:
            wait_until(self._serves, WITHIN_S, 0.05, "the embedded server serves")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def _serves(self) -> bool:
        if self._process.poll() is not None:
            raise BenchmarkError(f"the embedded server ended: {self._log.read_text('utf-8')}")
        return " serves" in self._log.read_text("utf-8")

    @property
    def address(self) -> PostgresAddress:
        """Of the superuser, who sees all."""
        password = (self._state / "postgres.password").read_text("ascii").strip()
        host = str(self._directory / "run-postgres")
        return PostgresAddress(host=host, user="dims", password=password)


class Home:
    """A migrated database and the bots in it."""

    def __init__(self, address: PostgresAddress, bots: int) -> None:
        self.owner = address
        self.version = ""
        """Of the server."""
        self.bots = [f"bot{number:04d}" for number in range(bots)]
        self.passwords = {bot: new_password() for bot in self.bots}

    def bot(self, number: int = 0) -> PostgresAddress:
        """The way in of a bot."""
        bot = self.bots[number]
        return self.owner.as_user(SHAPE.bot_role(bot), self.passwords[bot])

    def database(self, number: int = 0, connections: int = 1) -> Database:
        """`bot.db` as a worker has it."""
        address = self.bot(number)
        opened = partial(
            connect, address, timeout_s=WITHIN_S, application_name="benchmark",
            statement_s=STATEMENT_S,
        )  # fmt: skip
        limits = PoolLimits(
            max_size=connections,
            idle_s=WITHIN_S,
            acquire_s=WITHIN_S,
            statement_s=STATEMENT_S,
            slow_s=0.5,
        )
        name = self.bots[number]
        pool = Pool(opened, limits, name=name, draw=SYSTEM.draw)
        return Database(name, pool, draw=SYSTEM.draw)


def make_home(address: PostgresAddress, bots: int, users: int) -> Home:
    """Migrates, makes the roles of `bots` bots, and gives each `users` users."""
    home = Home(address, bots)
    asyncio.run(Migrations(address, shape=SHAPE).migrate())
    asyncio.run(_fill(home, users))
    return home


async def bare(address: PostgresAddress) -> asyncpg.Connection:
    """A connection as asyncpg's manual opens it."""
    return await asyncpg.connect(
        host=address.host, port=address.port, user=address.user, password=address.password,
        database=address.database, timeout=WITHIN_S,
    )  # fmt: skip


def roles_of(bots: Sequence[str], passwords: dict[str, str]) -> list[LoginRole]:
    """New roles, as the steward orders them."""
    return [
        LoginRole(SHAPE.bot_role(bot), verifier(passwords[bot]), is_bot=True, exists=False)
        for bot in bots
    ]


async def _fill(home: Home, users: int) -> None:
    admin = await bare(home.owner)
    try:
        home.version = (await admin.fetchval("SELECT version()")).partition(" on ")[0]
        await put_roles(admin, SHAPE, roles_of(home.bots, home.passwords))
        await admin.execute(
            "INSERT INTO dims.bots (bot_id) SELECT * FROM unnest($1::text[])", home.bots
        )
        await admin.execute("CREATE SCHEMA plain")
        for table, twin in TWINS:
            await admin.execute(f"CREATE TABLE {twin} (LIKE dims.{table} INCLUDING ALL)")
        await admin.execute(
            f"CREATE TABLE {UNWALLED} (LIKE dims.messages INCLUDING ALL) PARTITION BY HASH (bot_id)"
        )
        for number in range(SHAPE.partitions):
            await admin.execute(
                f"CREATE TABLE {UNWALLED}_{number} PARTITION OF {UNWALLED} "
                f"FOR VALUES WITH (MODULUS {SHAPE.partitions}, REMAINDER {number})"
            )
        # Not through the triggers: a hundred thousand lines of audit are nobody's subject here.
        await admin.execute("SET session_replication_role = replica")
        for table in ("dims.users", "plain.users"):
            await admin.execute(_USERS.format(table=table), home.bots, users)
        await admin.execute("RESET session_replication_role")
        await settle(admin)
    finally:
        await admin.close()


async def settle(admin: asyncpg.Connection) -> None:
    """Statistics, no dead rows, nothing left to write: nobody works in the background then."""
    await admin.execute("VACUUM (ANALYZE)")
    await admin.execute("CHECKPOINT")


def now_s() -> float:
    """A clock for durations."""
    return time.perf_counter()
