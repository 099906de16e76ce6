"""A database that cannot be used, as an operator meets it: one clear error each, and nothing lost.

One server of somebody else's, with TLS; each fleet has a database of its own on it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from fleet import WITHIN_S, Fleet, MakeFleet, Result, until
from tls_postgres import OWNER, PASSWORD, Certificates, TlsPostgres, tls_postgres

from dims.migrations.advisory_lock import LOCK_KEY
from dims.migrations.runner import Migrations
from dims.storage.names import Shape

_numbers = itertools.count()
SOON_S = 30.0
"""Far below the two minutes for which `dims start` waits; on an idle machine most take 4 s."""
WRONG = "wr0ng-secret"
BOTS_YAML = """
telegram: {server: sandbox}
storage: {redis: off, database: '${DATABASE_URL}', partitions: 2, prefix: PREFIX}
bots:
  - {id: ada, handlers: keep.py}
"""
KEEP = """\
import json
import os

from telethon import events

from dims.errors import DimsError

bot = None
ADD = "INSERT INTO dims.bot_settings (bot_id, key, value) VALUES ($1, $2, $3)"


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(incoming=True))
async def keep(event):
    word, _, key = event.raw_text.partition(" ")
    try:
        if word == "write":
            await bot.db.execute(ADD, bot.id, key, json.dumps(os.urandom(60_000).hex()))
            said = "kept"
        else:
            keys = await bot.db.fetch("SELECT key FROM dims.bot_settings")
            said = " ".join(row["key"] for row in keys)
    except DimsError as error:
        said = f"failed: {error} ({error.hint})"
    await event.respond(said, parse_mode=None)
"""
"""A bot that tells all it meets."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[TlsPostgres]:
    made = authority.issue_cert("localhost")
    chain, key = made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()
    certificates = Certificates(chain, key, authority.cert_pem.bytes())
    with tls_postgres("host all all all scram-sha-256", certificates) as serving:
        yield serving


class Site:
    """A fleet with one bot and a database of its own."""

    def __init__(self, fleet: Fleet, server: TlsPostgres, database: str) -> None:
        self.fleet = fleet
        self.server = server
        self.database = database
        self.goes_to()

    def goes_to(self, *, query: str = "", **changed: Any) -> str:
        """Writes the URL into the environment, with what is changed; what is left of it to be
        shown."""
        told = {"user": OWNER, "password": PASSWORD, "host": "localhost", "port": self.server.port,
                "database": self.database, **changed}  # fmt: skip
        place = f"{told['host']}:{told['port']}/{told['database']}"
        url = f"postgresql://{told['user']}:{told['password']}@{place}{query}"
        self.fleet.environment["DATABASE_URL"] = url
        return f"{told['user']}@{place}"

    def dims(self, *words: str, code: int | None = 0) -> Result:
        result = self.fleet.dims(*words, code=code)
        said = result.out + result.err
        assert PASSWORD not in said
        assert WRONG not in said
        return result

    def complaint(self, *words: str, code: int, within_s: float = SOON_S) -> str:
        """The one line of complaint with its mend, said soon enough."""
        began_s = time.monotonic()
        refused = self.dims(*words, code=code)
        took_s = time.monotonic() - began_s
        print(f"{' '.join(words)} ({took_s:.1f} s): {refused.err.strip()}")  # noqa: T201 (shown)
        assert took_s < within_s
        lines = [line for line in refused.err.splitlines() if line.startswith("dims: ")]
        rest = [line for line in refused.err.splitlines() if line not in lines]
        assert len(lines) == 1, refused.err
        assert all("hint: " in line or "bots ready" in line for line in rest), refused.err
        hints = [line.strip().removeprefix("hint: ") for line in rest if "hint: " in line]
        return " | ".join([lines[0].removeprefix("dims: "), *hints])

    def refuses_to_start(self, why: str, mend: str, within_s: float = SOON_S) -> None:
        """`dims start` and all who are asked afterwards say both."""
        said = self.complaint("start", "--all", code=9, within_s=within_s)
        assert said.startswith("steward does not come up, and bots wait for it: ")
        assert why in said
        assert mend in said
        for words, code in ((("status",), 0), (("health",), 2), (("bot", "explain", "ada"), 0)):
            # While it is tried again there is nothing to tell for a moment.
            until(partial(self._tells, words, code, why, mend), f"{words} tells why")
        log = self.fleet.log("steward") + self.fleet.log("brain")
        assert why in log
        assert PASSWORD not in log
        assert WRONG not in log

    def _tells(self, words: tuple[str, ...], code: int, why: str, mend: str) -> bool:
        out = self.dims(*words, code=code).out
        return why in out and mend in out

    async def admin(self, password: str = PASSWORD) -> asyncpg.Connection:
        """Somebody else, who may everything, without TLS."""
        local = self.server.local
        return await asyncpg.connect(
            host=local.host, port=local.port, user=OWNER, password=password, database=self.database
        )

    def sql(self, *statements: str, password: str = PASSWORD) -> Any:
        """The first value of the last."""

        async def run() -> Any:
            connection = await self.admin(password)
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return await connection.fetchval(statements[-1])
            finally:
                await connection.close()

        return asyncio.run(run())

    @contextmanager
    def session(self, *statements: str) -> Iterator[int]:
        """A session that has done this and stays; its pid."""
        with asyncio.Runner() as runner:
            connection = runner.run(self.admin())
            for statement in statements:
                runner.run(connection.execute(statement))
            try:
                yield connection.get_server_pid()
            finally:
                runner.run(connection.close())

    def migrate(self) -> None:
        """What `dims db migrate` does, without its process."""
        address = replace(self.server.local, database=self.database)
        shape = Shape(partitions=2, prefix=self.database)
        asyncio.run(Migrations(address, shape=shape).migrate())


def site_on(server: TlsPostgres, make_fleet: MakeFleet) -> Site:
    """A new fleet, a new database; roles belong to the server, so their prefix is new, too."""
    name = f"db{next(_numbers)}"
    fleet = make_fleet(BOTS_YAML.replace("PREFIX", name), files={"keep.py": KEEP})
    Site(fleet, server, "postgres").sql(f"CREATE DATABASE {name}", "SELECT 1")
    return Site(fleet, server, name)


@pytest.fixture
def site(server: TlsPostgres, make_fleet: MakeFleet) -> Site:
    return site_on(server, make_fleet)


# The URL


def test_wrong_urls_are_told_soon_and_the_right_one_is_taken(site: Site) -> None:
    place = site.goes_to(port=1)
    why = f"cannot connect to {place}: nobody listens there"
    # Three tries of three seconds each.
    site.refuses_to_start(why, "start the server, or correct host and port", within_s=60)
    said = site.complaint("db", "status", code=9)
    assert said == f"{why} | start the server, or correct host and port"
    site.dims("stop")

    place = site.goes_to(host="nowhere.invalid")
    site.refuses_to_start(
        f"cannot connect to {place}: there is no host 'nowhere.invalid'",
        "correct the host in the URL",
    )
    site.dims("stop")

    site.goes_to()
    site.dims("start", "--all")
    assert site.fleet.say("ada", "write first") == ["kept"]


def test_a_wrong_password_is_told_soon_and_the_right_one_needs_no_restart(site: Site) -> None:
    place = site.goes_to(password=WRONG)
    why = f"cannot connect to {place}: the password for 'dims' is wrong, or there is no such role"
    site.refuses_to_start(why, "correct user and password in the URL")
    for words in (("db", "status"), ("db", "migrate")):
        assert site.complaint(*words, code=9).startswith(why)
    # The server is mended here, as it cannot be the environment of what runs.
    site.sql(f"ALTER ROLE {OWNER} PASSWORD '{WRONG}'", "SELECT 1")
    try:
        site.fleet.until_ready("ada")
        assert site.fleet.say("ada", "write first") == ["kept"]
    finally:
        put_back = f"ALTER ROLE {OWNER} PASSWORD '{PASSWORD}'"
        site.sql(put_back, "SELECT 1", password=WRONG)


def test_what_is_no_url_and_files_that_are_missing_start_nothing(
    site: Site, tmp_path: Path
) -> None:
    site.fleet.environment["DATABASE_URL"] = f"postgresql//dims:{WRONG}@localhost/dims"
    said = site.complaint("start", "--all", code=3)
    assert said.startswith("bots.yaml:3:")
    assert "not a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE" in said
    site.goes_to(query=f"?sslmode=verify-full&sslrootcert={tmp_path}/lost.crt")
    said = site.complaint("start", "--all", code=3)
    assert f"{tmp_path}/lost.crt, which does not exist" in said
    assert not site.fleet.layout.state.exists()


# Certificates


def test_a_certificate_of_somebody_else_or_for_another_host_is_refused(
    site: Site, authority: trustme.CA, tmp_path: Path
) -> None:
    (tmp_path / "other.crt").write_bytes(trustme.CA().cert_pem.bytes())
    (tmp_path / "root.crt").write_bytes(authority.cert_pem.bytes())
    verify = "?sslmode=verify-full&sslrootcert="
    site.goes_to(query=f"{verify}{tmp_path}/other.crt")
    why = "the server's certificate is of an unknown authority"
    site.refuses_to_start(why, "name the authority's file with sslrootcert")
    assert why in site.complaint("db", "status", code=9)
    site.dims("stop")

    site.goes_to(host="127.0.0.1", query=f"{verify}{tmp_path}/root.crt")
    why = "the server's certificate is not for '127.0.0.1'"
    site.refuses_to_start(why, "write the host as the certificate has it")
    assert why in site.complaint("db", "migrate", code=9)
    site.dims("stop")

    site.goes_to(query=f"{verify}{tmp_path}/root.crt")
    site.dims("start", "--all")
    assert site.fleet.say("ada", "write first") == ["kept"]
    assert "(TLSv1" in site.dims("db", "status").out


# The server and its schema


@contextmanager
def old_server(version: str) -> Iterator[int]:
    """The port of what lets everybody in and says that it is that old, until asked anything."""
    parameters = {"server_version": version, "client_encoding": "UTF8"}
    answer = _message(b"R", struct.pack("!i", 0))
    for name, value in parameters.items():
        answer += _message(b"S", f"{name}\0{value}\0".encode())
    answer += _message(b"K", struct.pack("!ii", 1, 2)) + _message(b"Z", b"I")

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(ConnectionError):
                connection.recv(4096)
                connection.sendall(answer)
                connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def test_a_server_that_is_too_old_is_refused(site: Site) -> None:
    with old_server("14.9") as port:
        place = site.goes_to(host="127.0.0.1", port=port, query="?sslmode=disable")
        why, mend = f"cannot connect to {place}: it is PostgreSQL 14", "DIMS needs 15 or newer"
        site.refuses_to_start(why, mend)
        for words in (("db", "status"), ("db", "migrate")):
            assert site.complaint(*words, code=9) == f"{why} | {mend}"
        site.dims("stop")


def test_a_schema_that_is_ahead_keeps_the_bots_out_until_it_is_not(site: Site) -> None:
    site.migrate()
    site.sql("UPDATE dims.alembic_version SET version_num = '9999'", "SELECT 1")
    why = "the database is at revision 9999, which this DIMS does not know"
    site.refuses_to_start(why, "run that newer DIMS, or let it roll back: `dims db rollback --to")
    assert site.sql("SELECT version_num FROM dims.alembic_version") == "9999"
    site.sql("UPDATE dims.alembic_version SET version_num = '0001'", "SELECT 1")
    site.fleet.until_ready("ada")
    assert site.fleet.say("ada", "write first") == ["kept"]


def test_a_schema_that_nobody_may_migrate_is_told_with_the_command(site: Site) -> None:
    text = site.fleet.config.read_text().replace("redis: off", "redis: off, migrate: false")
    site.fleet.write("bots.yaml", text)
    site.refuses_to_start("the database is at revision none, this DIMS needs", "`dims db migrate`")
    site.dims("db", "migrate")
    site.fleet.until_ready("ada")


def test_a_first_migration_that_fails_half_way_leaves_nothing_and_is_done_again(
    site: Site,
) -> None:
    """An event trigger of the server's administrator forbids one of the last statements."""
    site.sql(
        "CREATE FUNCTION public.forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'views are forbidden here'; END $$",
        "CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('CREATE VIEW') "
        "EXECUTE FUNCTION public.forbid()",
        "SELECT 1",
    )
    why = "failed, nothing of it was kept: views are forbidden here"
    mend = "mend that and try again; the statement: CREATE VIEW dims."
    site.refuses_to_start(why, mend)
    said = site.complaint("db", "migrate", code=4)
    assert said.startswith("revision 0001 (")
    assert f"{why} | {mend}" in said
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'dims' AND tablename = 'messages'"
    assert site.sql(tables) == 0
    assert site.dims("db", "status", "--json").json["revision"]["current"] is None
    site.sql("DROP EVENT TRIGGER forbid", "SELECT 1")
    site.fleet.until_ready("ada")
    assert site.fleet.say("ada", "write first") == ["kept"]
    site.dims("db", "check")


# Locks


def test_a_migration_lock_of_somebody_is_told_with_its_holder(site: Site) -> None:
    with site.session(f"SELECT pg_advisory_lock({LOCK_KEY})") as pid:
        by_hand = site.fleet.front("db", "migrate")
        why = f"another migration has run for over 3 s: pid {pid} (unnamed, role dims, on "
        mend = "wait for it, or end it if it is stuck: SELECT pg_terminate_backend(pid)"
        site.refuses_to_start(why, mend)
        assert f"pid {pid}" in site.dims("db", "status").out
        _, said = by_hand.communicate(timeout=2 * WITHIN_S)
        assert by_hand.returncode == 7
        assert f"another migration has run for over 30 s: pid {pid} (" in said
        assert mend in said
        assert len(said.splitlines()) == 2
    site.fleet.until_ready("ada")
    assert site.fleet.say("ada", "write first") == ["kept"]


def test_a_table_lock_of_somebody_is_told_with_its_holder(site: Site) -> None:
    site.migrate()
    with site.session("BEGIN", "LOCK dims.bots") as pid:
        why = f"tables of the database are locked by others: pid {pid} (role dims, bots"
        site.refuses_to_start(why, "end it if it is stuck: SELECT pg_terminate_backend(pid)")
    site.fleet.until_ready("ada")
    assert site.fleet.say("ada", "write first") == ["kept"]

    text = site.fleet.config.read_text()
    pool = "redis: off, pool: {statement_s: 1}"
    site.dims("stop")
    site.fleet.write("bots.yaml", text.replace("redis: off", pool))
    site.dims("start", "--all")
    with site.session("BEGIN", "LOCK dims.bot_settings"):
        (said,) = site.fleet.say("ada", "write second")
        assert said.startswith("failed: ada: a statement took longer than allowed (")
    assert site.fleet.say("ada", "write third") == ["kept"]
    assert site.fleet.say("ada", "read") == ["first third"]


# While bots run


def test_a_server_that_goes_away_is_told_and_come_back_it_is_used_again(
    make_fleet: MakeFleet,
) -> None:
    with tls_postgres("host all all all scram-sha-256") as server:
        site = site_on(server, make_fleet)
        text = site.fleet.config.read_text()
        pool = "redis: off, pool: {acquire_s: 1}"
        site.fleet.write("bots.yaml", text.replace("redis: off", pool))
        site.dims("start", "--all")
        assert site.fleet.say("ada", "write first") == ["kept"]
        before = site.fleet.unit("ada")
        server.end()
        place = site.goes_to()
        away = f"cannot connect to {place}: nobody listens there (start the server"
        until(lambda: away in site.dims("health", code=None).out, "health tells")
        site.dims("health", code=1)
        assert f"steward is degraded: {away}" in site.dims("status").out
        site.fleet.say("ada", "write lost")
        (said,) = site.fleet.say("ada", "write second")
        assert said.startswith("failed: ada: no database connection within 1 s: ")
        assert "nobody listens there (start the server, or correct host and port)" in said
        assert PASSWORD not in said
        server.serve()
        until(lambda: site.fleet.say("ada", "read") == ["first"], "the bot reads")
        assert site.fleet.say("ada", "write third") == ["kept"]
        until(lambda: "well" in site.dims("health", code=None).out, "all is well")
        after = site.fleet.unit("ada")
        assert (after["pid"], after["incarnation"]) == (before["pid"], before["incarnation"])
        site.dims("stop")


def test_a_bot_whose_password_somebody_changed_says_how_it_gets_a_new_one(site: Site) -> None:
    config = site.fleet.config.read_text()
    # Connections are given back soon: who is connected does not notice.
    site.fleet.write("bots.yaml", config.replace("redis: off", "redis: off, pool: {idle_s: 0.2}"))
    site.dims("start", "--all")
    assert site.fleet.say("ada", "write first") == ["kept"]
    role = f"{site.database}_bot_ada"
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'"  # noqa: S608
    until(lambda: site.sql(sessions) == 0, "the bot has given its connection back")
    site.sql(f"ALTER ROLE {role} PASSWORD '{WRONG}'", "SELECT 1")
    (said,) = site.fleet.say("ada", "write second")
    why = f"the password for '{role}' is wrong, or there is no such role"
    assert said.startswith(f"failed: cannot connect to {role}@localhost:")
    assert said.endswith(f"{why} (`dims db rotate ada` gives it a new one)")
    site.dims("db", "rotate", "ada")
    # What was refused is not asked again at once.
    until(lambda: site.fleet.say("ada", "write third") == ["kept"], "the bot writes again")
    assert site.fleet.say("ada", "read") == ["first third"]


# A disk that is full


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    path.mkdir(mode=0o700, exist_ok=True)
    options = f"size={megabytes}m,mode=0700"
    words = ["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    mounted = subprocess.run(words, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        # Lazily: a test that failed may have files open, and is to leave no mount behind either.
        subprocess.run(["/bin/umount", "--lazy", path], check=True)


def fill(disk: Path, name: str, but_bytes: int = 0) -> Path:
    """A file that takes all that is free but so much."""
    ballast = disk / name
    free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb", buffering=0) as file:
        file.write(bytes(max(0, free_bytes - but_bytes)))
        with suppress(OSError):
            while not but_bytes:
                file.write(bytes(4096))
    return ballast


def written(say: Callable[[str], list[str]], prefix: str, most: int) -> tuple[list[str], str]:
    """What was acknowledged, and why the next was not."""
    kept: list[str] = []
    for number in range(most):
        (said,) = say(f"write {prefix}{number}")
        if said != "kept":
            return kept, said
        kept.append(f"{prefix}{number}")
    raise AssertionError("the disk does not become full")


def test_a_full_disk_of_the_server_refuses_writes_and_all_comes_right_alone(
    make_fleet: MakeFleet,
) -> None:
    with ExitStack() as stack:
        # Others must be able to pass its parents.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dims-full-")))
        directory.chmod(0o755)
        disk = stack.enter_context(small_disk(directory / "disk", 400))
        disk.chmod(0o755)
        server = stack.enter_context(tls_postgres("host all all all scram-sha-256", None, disk))
        site = site_on(server, make_fleet)
        site.dims("start", "--all")
        say = partial(site.fleet.say, "ada")
        assert say("write first") == ["kept"]
        before = site.fleet.unit("ada")
        # Not all at once: a server without room for its log of changes ends, and starts again and
        # again until there is some.
        ballast = fill(disk, "ballast", but_bytes=3_000_000)
        kept, said = written(say, "some", 200)
        full = "failed: ada: the database's disk is full (free space at the server)"
        assert said == full
        assert kept
        for _ in range(20):
            (said,) = say("write more")
            assert said == full
            assert say("read") == [" ".join(["first", *kept])]
        pool = until(lambda: site.fleet.ask("storage")["pools"], "its pool is told of")[0]
        assert pool["connects"] <= 4, "an error costs no connection"
        ballast.unlink()
        assert say("write last") == ["kept"]
        assert say("read") == [" ".join(["first", *kept, "last"])]
        after = site.fleet.unit("ada")
        assert (after["pid"], after["restarts"]) == (before["pid"], 0)
        assert site.fleet.unit("steward")["incarnation"] == 1
        site.dims("stop")


def test_a_full_state_directory_refuses_new_passwords_and_bots_go_on(site: Site) -> None:
    fleet = site.fleet
    with small_disk(fleet.layout.state, 40) as disk:
        try:
            site.dims("start", "--all")
            assert fleet.say("ada", "write first") == ["kept"]
            before = fleet.unit("ada")["pid"]
            sealed = (disk / "roles.json").read_bytes()
            role = f"SELECT rolpassword FROM pg_authid WHERE rolname = '{site.database}_bot_ada'"  # noqa: S608
            looks = "SELECT pid FROM pg_stat_activity WHERE application_name = 'dims steward'"
            password, session = site.sql(role), site.sql(looks)
            ballast = fill(disk, "ballast")
            said = site.complaint("db", "rotate", "ada", code=4)
            assert said == (
                f"cannot write {disk}/roles.json: No space left on device | "
                "make room on its disk, or let this user write there"
            )
            until(lambda: site.sql(looks) not in {None, session}, "the steward has looked again")
            assert (disk / "roles.json").read_bytes() == sealed
            assert site.sql(role) == password
            assert fleet.say("ada", "write second") == ["kept"]
            ballast.unlink()
            site.dims("db", "rotate", "ada")
            assert fleet.say("ada", "write third") == ["kept"]
            assert fleet.unit("ada")["pid"] == before
            assert fleet.unit("steward")["incarnation"] == 1
            site.dims("stop")

            two = fleet.config.read_text() + "  - {id: bob, handlers: keep.py}\n"
            fleet.write("bots.yaml", two)
            ballast = fill(disk, "ballast")
            said = site.complaint("start", "--all", code=4)
            assert said == f"the disk of {disk} is full | make room on it"
            ballast.unlink()
            site.dims("start", "--all")
            assert fleet.say("bob", "write fourth") == ["kept"]
            assert fleet.say("ada", "read") == ["first second third"]
        finally:
            site.dims("stop", code=None)
