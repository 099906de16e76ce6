"""A migrated database, bots in it with roles of their own, and their `bot.db`."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from embedded import IS_ROOT, USERS, Service, place_for
from fleet import LOOK_S, WITHIN_S, until

from dims.configuration.server_urls import PostgresAddress
from dims.migrations.runner import Migrations
from dims.storage import tenancy
from dims.storage.connecting import connect
from dims.storage.database import Database
from dims.storage.names import Shape
from dims.storage.pool import Pool, PoolSettings

SHAPE = Shape(partitions=4)
T = TypeVar("T")


class StorageSite:
    """Where the database is, and who may come in."""

    def __init__(self, address: PostgresAddress, uid: int) -> None:
        self.owner = address
        self.uid = uid
        self._made = 0

    async def admin(self) -> asyncpg.Connection:
        """A connection of the superuser, who sees all rows."""
        return await connect(self.owner, timeout_s=WITHIN_S, application_name="test")

    async def new_bot(self) -> tuple[str, PostgresAddress]:
        """A bot that nobody has used yet, and its way in."""
        self._made += 1
        bot_id = f"bot{self._made}"
        admin = await self.admin()
        try:
            password = await tenancy.create_bot_role(admin, SHAPE, bot_id)
            await admin.execute("INSERT INTO dims.bots (bot_id) VALUES ($1)", bot_id)
        finally:
            await admin.close()
        return bot_id, self.owner.as_user(SHAPE.bot_role(bot_id), password)


def pool_to(address: PostgresAddress, *, through_pooler: bool = False, **settings: Any) -> Pool:
    """A pool as a worker has it."""
    opened = partial(
        connect, address, timeout_s=WITHIN_S, application_name="test", statement_s=WITHIN_S,
        through_pooler=through_pooler,
    )  # fmt: skip
    return Pool(opened, PoolSettings(**settings), name=address.user)


@contextmanager
def storage_site() -> Iterator[StorageSite]:
    """An embedded server with the newest schema."""
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        host = str(place.sockets("postgres"))
        password = (place.state / "postgres.password").read_text().strip()
        address = PostgresAddress(host=host, user="dims", password=password)
        try:
            asyncio.run(Migrations(address, shape=SHAPE).migrate())
            yield StorageSite(address, (place.files("postgres") / "data").stat().st_uid)
        finally:
            service.end()


@asynccontextmanager
async def database_of(site: StorageSite, **options: Any) -> AsyncIterator[Database]:
    """The `bot.db` of a new bot; at the end no connection of it may be in use."""
    bot_id, address = await site.new_bot()
    pool = pool_to(address)
    database = Database(bot_id, pool, **options)
    yield database
    stats = pool.stats()
    await database.close(WITHIN_S)
    assert (stats.in_use, stats.waiting) == (0, 0)


async def becomes(fact: Callable[[], Awaitable[T]], what: str) -> T:
    """As `until`, for a fact that has to be asked for."""
    for _ in range(round(WITHIN_S / LOOK_S)):
        if found := await fact():
            return found
        await asyncio.sleep(LOOK_S)
    raise AssertionError(f"not within {WITHIN_S:g} s: {what}")


async def end_statement(admin: asyncpg.Connection, part: str) -> int:
    """Ends the session whose running statement has `part` in it, once there is one; its pid."""
    ask = (
        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%' AND state = 'active' "
        "AND wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
    )
    pid: int = await becomes(lambda: admin.fetchval(ask, part), f"{part} runs")
    assert await admin.fetchval("SELECT pg_terminate_backend($1)", pid)
    return pid


async def roles_of(site: StorageSite) -> dict[str, str]:
    """All roles that may log in, with what the server knows of their passwords."""
    admin = await site.admin()
    rows = await admin.fetch(
        "SELECT rolname::text AS name, rolpassword FROM pg_authid "
        "WHERE rolcanlogin AND rolpassword IS NOT NULL AND NOT rolsuper"
    )
    await admin.close()
    return {row["name"]: row["rolpassword"] for row in rows}


@contextmanager
def pooler(site: StorageSite, roles: dict[str, str]) -> Iterator[str]:
    """The socket directory of a PgBouncer in transaction mode with two connections per role."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    with tempfile.TemporaryDirectory(prefix="dims-pb-") as directory:
        place = Path(directory)
        (place / "users.txt").write_text("".join(f'"{r}" "{k}"\n' for r, k in roles.items()))
        lines = [
            "[databases]", f"* = host={site.owner.host} port=5432", "[pgbouncer]", "listen_addr =",
            f"unix_socket_dir = {place}", "listen_port = 5432", "auth_type = scram-sha-256",
            f"auth_file = {place}/users.txt", "pool_mode = transaction", "default_pool_size = 2",
            "max_client_conn = 50", f"logfile = {place}/log",
            "ignore_startup_parameters = extra_float_digits",
        ]  # fmt: skip
        if IS_ROOT:
            lines.append(f"user = {pwd.getpwuid(site.uid).pw_name}")
        (place / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        if IS_ROOT:
            for path in (place, *place.iterdir()):
                os.chown(path, site.uid, -1)
        process = subprocess.Popen(
            [program, place / "pgbouncer.ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until((place / ".s.PGSQL.5432").exists, "PgBouncer listens")
            yield directory
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
