"""How a connection is opened, and every way in which that fails, on real servers and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest
from embedded import IS_ROOT
from fleet import as_nobody
from tls_postgres import OWNER, PASSWORD, TlsPostgres, tls_postgres

from dims.addresses import PostgresAddress, TlsMode
from dims.errors import TimedOutError
from dims.storage.connections.connecting import connect
from dims.storage.connections.storage_errors import (
    ConflictError,
    ContendedError,
    ForbiddenError,
    InvalidError,
    LostError,
    StorageError,
    UnavailableError,
    is_passing,
    translate,
)

HBA = """
host other    outsider all reject
host all      all      all scram-sha-256
"""
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[TlsPostgres]:
    with tls_postgres(HBA) as made:
        yield made


@pytest.fixture
async def admin(server: TlsPostgres) -> AsyncIterator[asyncpg.Connection]:
    connection = await server.admin()
    yield connection
    await connection.close()


async def refused(address: PostgresAddress, timeout_s: float = 10) -> StorageError:
    """Connects in vain; the error, which has one line, no password, and no class of the driver."""
    with pytest.raises(StorageError) as caught:
        await connect(address, timeout_s=timeout_s, application_name="test")
    error = caught.value
    assert str(error).startswith(f"cannot connect to {address}: ")
    assert "\n" not in f"{error}{error.hint}"
    assert PASSWORD not in f"{error}{error.hint}{error!r}"
    assert is_passing(error) == isinstance(error, UnavailableError)
    return error


# What one gets


async def test_json_parameters_are_text_and_results_are_values(server: TlsPostgres) -> None:
    connection = await connect(server.local, timeout_s=10, application_name="test")
    try:
        value = {"text": "äö'\"\\", "list": [1, 2.5, None, True], "deep": {"big": 2**70}}
        for kind in ("json", "jsonb"):
            sql = f"SELECT $1::{kind} AS one, NULL::{kind} AS none, ARRAY[$1::{kind}] AS many"
            row = await connection.fetchrow(sql, json.dumps(value))
            assert row["one"] == value
            assert row["none"] is None
            assert row["many"] == [value]
        with pytest.raises(asyncpg.DataError):
            await connection.fetchval("SELECT $1::jsonb", {"not": "text"})
    finally:
        await connection.close()


async def test_connecting_runs_no_statement(server: TlsPostgres, admin: asyncpg.Connection) -> None:
    connection = await connect(server.local, timeout_s=10, application_name="quiet")
    row = await admin.fetchrow(
        "SELECT query, application_name FROM pg_stat_activity WHERE pid = $1",
        connection.get_server_pid(),
    )
    assert dict(row) == {"query": "", "application_name": "quiet"}
    await connection.close()


async def test_the_server_ends_a_statement_that_takes_too_long(server: TlsPostgres) -> None:
    connection = await connect(server.local, timeout_s=10, application_name="test", statement_s=0.1)
    assert await connection.fetchval("SHOW statement_timeout") == "100ms"
    error = await failing(connection.execute("SELECT pg_sleep(60)"))
    assert isinstance(error, TimedOutError)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_a_server_that_hangs_does_not_hang_us(server: TlsPostgres) -> None:
    connection = await connect(server.local, timeout_s=10, application_name="test", statement_s=0.1)
    pid = connection.get_server_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        assert isinstance(await failing(connection.execute("SELECT 1")), TimedOutError)
        assert time.monotonic() - began_s < WITHIN_S
    finally:
        connection.terminate()
        os.kill(pid, signal.SIGCONT)


async def test_a_pooler_is_asked_for_nothing_it_does_not_know(
    server: TlsPostgres, admin: asyncpg.Connection
) -> None:
    connection = await connect(
        server.local, timeout_s=10, application_name="test", statement_s=7, through_pooler=True
    )
    assert await connection.fetchval("SHOW statement_timeout") == "0"
    assert await connection.fetchval("SELECT $1::int", 1) == 1
    assert await connection.fetchval("SELECT count(*) FROM pg_prepared_statements") == 0
    await connection.close()


# What fails


async def test_wrong_password(server: TlsPostgres) -> None:
    for address in (server.address, server.local):
        error = await refused(replace(address, password="wr0ng-secret"))
        assert f"the password for '{OWNER}' is wrong" in str(error)
        assert "wr0ng" not in f"{error}{error.hint}{error.__cause__!r}"
        assert not is_passing(error)


async def test_no_such_role(server: TlsPostgres) -> None:
    error = await refused(replace(server.address, user="nobody_here"))
    assert "the password for 'nobody_here' is wrong, or there is no such role" in str(error)
    assert not is_passing(error)


async def test_a_role_that_may_not_log_in(server: TlsPostgres, admin: asyncpg.Connection) -> None:
    await admin.execute(f"CREATE ROLE locked NOLOGIN PASSWORD '{PASSWORD}'")
    error = await refused(replace(server.address, user="locked"))
    assert "not permitted to log in" in str(error)
    assert "LOGIN" in error.hint
    assert not is_passing(error)


async def test_no_user_in_the_url() -> None:
    with pytest.raises(StorageError, match="names no user"):
        await connect(PostgresAddress("localhost"), timeout_s=1, application_name="test")


async def test_no_such_database(server: TlsPostgres) -> None:
    error = await refused(replace(server.address, database="lost"))
    assert "there is no database 'lost'" in str(error)
    assert "createdb lost" in error.hint
    assert not is_passing(error)


async def test_rejected_by_pg_hba(server: TlsPostgres, admin: asyncpg.Connection) -> None:
    await admin.execute(f"CREATE ROLE outsider LOGIN PASSWORD '{PASSWORD}'")
    error = await refused(replace(server.address, user="outsider", database="other"))
    assert "pg_hba.conf" in str(error)
    assert "pg_hba.conf" in error.hint
    assert not is_passing(error)


async def test_no_right_to_connect(server: TlsPostgres, admin: asyncpg.Connection) -> None:
    await admin.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    await admin.execute("CREATE DATABASE closed")
    await admin.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
    error = await refused(replace(server.address, user="guest", database="closed"))
    assert "grant guest CONNECT on database closed" in error.hint
    assert not is_passing(error)


async def test_too_many_connections_pass(server: TlsPostgres, admin: asyncpg.Connection) -> None:
    await admin.execute(f"CREATE ROLE single LOGIN CONNECTION LIMIT 1 PASSWORD '{PASSWORD}'")
    address = replace(server.address, user="single")
    first = await connect(address, timeout_s=10, application_name="test")
    error = await refused(address)
    assert "no connection left" in str(error)
    assert "max_connections" in error.hint
    assert is_passing(error)
    await first.close()


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        for mode in TlsMode:
            address = PostgresAddress(host, port, user="someone", sslmode=mode)
            error = await refused(address)
            assert "nobody listens there" in str(error)
            assert is_passing(error)


async def test_no_socket(tmp_path: Path) -> None:
    error = await refused(PostgresAddress(str(tmp_path), user="someone"))
    assert f"there is no socket {tmp_path}/.s.PGSQL.5432" in str(error)
    assert is_passing(error)


async def test_a_socket_whose_server_has_gone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / ".s.PGSQL.5432"))
    error = await refused(PostgresAddress(str(tmp_path), user="someone"))
    assert "nobody listens there" in str(error)


async def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    error = await refused(PostgresAddress(f"/{'x' * 200}", user="someone"))
    assert "too long" in str(error)
    assert not is_passing(error)


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A directory nobody may enter."""
    tmp_path.chmod(0)
    yield tmp_path
    tmp_path.chmod(0o700)


def test_a_socket_one_may_not_use(closed: Path) -> None:
    def meet() -> None:
        error = asyncio.run(refused(PostgresAddress(str(closed), user="someone")))
        assert f"uid {os.geteuid()} may not use it" in str(error)
        assert not is_passing(error)

    if IS_ROOT:
        # Root may everything: somebody else tries.
        met = as_nobody(meet)
        assert met.code == 0, met.err
    else:
        meet()


async def test_a_name_that_does_not_resolve() -> None:
    error = await refused(PostgresAddress("nowhere.invalid", user="someone"))
    assert "nowhere.invalid" in str(error)
    assert "host" in str(error)


async def test_no_answer_in_time() -> None:
    async with answering(b"", silent=True) as address:
        error = await refused(address, timeout_s=0.1)
    assert "no answer in time" in str(error)
    assert is_passing(error)


@pytest.mark.parametrize(
    "greeting",
    [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command\r\n"],
)
@pytest.mark.parametrize("mode", [TlsMode.DISABLE, TlsMode.PREFER, TlsMode.VERIFY_FULL])
async def test_somebody_else_at_the_port(greeting: bytes, mode: TlsMode) -> None:
    async with answering(greeting) as address:
        error = await refused(replace(address, sslmode=mode), timeout_s=1)
    assert "what answers there is no PostgreSQL server" in str(error)
    assert not is_passing(error)


async def test_a_connection_that_is_closed_at_once_passes() -> None:
    async with answering(b"") as address:
        error = await refused(replace(address, sslmode=TlsMode.DISABLE))
    assert is_passing(error)


async def test_a_server_that_is_too_old() -> None:
    parameters = {"server_version": "14.9", "client_encoding": "UTF8", "server_encoding": "UTF8"}
    answer = message(b"R", struct.pack("!i", 0))
    for name, value in parameters.items():
        answer += message(b"S", f"{name}\0{value}\0".encode())
    answer += message(b"K", struct.pack("!ii", 1, 2)) + message(b"Z", b"I")
    async with answering(answer) as address:
        error = await refused(replace(address, sslmode=TlsMode.DISABLE))
    assert "it is PostgreSQL 14" in str(error)
    assert "15 or newer" in error.hint
    assert not is_passing(error)


@pytest.mark.parametrize(
    ("code", "text", "passes"),
    [
        ("08P01", "query_wait_timeout", True),
        ("08P01", "no more connections allowed (max_client_conn)", True),
        ("08P01", "server login has been failing, try again later (server_login_retry)", True),
        ("08P01", "unsupported startup parameter: statement_timeout", False),
        ("08P01", "no such database: lost", False),
        ("57P03", "Das Datenbanksystem startet", True),
        ("57P01", "arrêt", True),
        ("XX000", "something\nbroke " + PASSWORD, False),
    ],
)
async def test_what_a_pooler_or_server_says(code: str, text: str, passes: bool) -> None:
    fields = {"S": "FATAL", "V": "FATAL", "C": code, "M": text}
    body = b"".join(f"{name}{value}\0".encode() for name, value in fields.items()) + b"\0"
    async with answering(message(b"E", body)) as address:
        error = await refused(replace(address, sslmode=TlsMode.DISABLE, password=PASSWORD))
    assert is_passing(error) == passes
    assert error.sqlstate == code


async def test_a_server_that_shuts_down_passes() -> None:
    with tls_postgres(HBA) as server:
        last = await server.admin()
        server.process.send_signal(signal.SIGTERM)  # It waits for the last one to leave.
        until_s = time.monotonic() + WITHIN_S
        while time.monotonic() < until_s:
            try:
                await (await connect(server.local, timeout_s=5, application_name="x")).close()
            except StorageError as error:
                caught = error
                break
        assert "the server is not ready" in str(caught)
        assert is_passing(caught)
        await last.close()
        await asyncio.to_thread(server.process.wait, WITHIN_S)


async def test_cancelling_leaves_no_connection(
    server: TlsPostgres, admin: asyncpg.Connection
) -> None:
    for turns in range(25):
        task = asyncio.create_task(
            connect(server.address, timeout_s=10, application_name="cancelled")
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).close()
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled'"
    until_s = time.monotonic() + WITHIN_S
    while await admin.fetchval(sql):
        assert time.monotonic() < until_s


# What is said of statements


STATEMENTS: list[tuple[str, type[Exception], str]] = [
    ("INSERT INTO t VALUES (1, 'S3CRET')", ConflictError, "in t (t_pkey)"),
    ("INSERT INTO t VALUES (-5, 'S3CRET')", InvalidError, "in t (t_check)"),
    ("INSERT INTO t VALUES (NULL, 'S3CRET')", InvalidError, "NotNullViolation"),
    ("SELECT 'S3CRET'::int", InvalidError, "InvalidTextRepresentation"),
    ("SET transaction_read_only = on; DELETE FROM t", StorageError, "read-only"),
    ("SET ROLE stranger; SELECT * FROM t", ForbiddenError, "permission denied for table t"),
    ("SET ROLE lodger; INSERT INTO t VALUES (9, 'S3CRET')", ForbiddenError, "another bot"),
    ("SELECT nonsense", StorageError, "nonsense"),
    ("SET statement_timeout = 10; SELECT pg_sleep(9)", TimedOutError, "longer than allowed"),
    ("SET lock_timeout = 10; SET ROLE dims; LOCK held", ContendedError, "in the way"),
    ("SELECT pg_terminate_backend(pg_backend_pid())", LostError, "unknown"),
]


@pytest.fixture
async def table(admin: asyncpg.Connection) -> AsyncIterator[None]:
    await admin.execute(
        "CREATE TABLE t (id int PRIMARY KEY CONSTRAINT t_check CHECK (id > 0), text text);"
        "INSERT INTO t VALUES (1, 'x'); CREATE TABLE held ();"
        "CREATE ROLE stranger; CREATE ROLE lodger; GRANT ALL ON t TO lodger;"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (false)"
    )
    async with admin.transaction():
        await admin.execute("LOCK held")
        yield
    await admin.execute("DROP TABLE t, held; DROP ROLE stranger, lodger")


@pytest.mark.parametrize(("sql", "kind", "text"), STATEMENTS, ids=[one[2] for one in STATEMENTS])
async def test_what_is_said_of_a_statement(
    server: TlsPostgres, table: None, sql: str, kind: type[Exception], text: str
) -> None:
    connection = await connect(server.local, timeout_s=10, application_name="test")
    error = await failing(connection.execute(sql))
    await connection.close()
    assert type(error) is kind
    assert text in str(error)
    assert "S3CRET" not in f"{error!r}{error}"
    assert is_passing(error) == isinstance(error, (UnavailableError, TimedOutError))


async def test_what_is_not_the_drivers_is_not_translated() -> None:
    assert translate(ValueError("x")) is None
    assert translate(KeyError("x")) is None


async def failing(answer: Awaitable[object]) -> Exception:
    """Awaits it in vain; its error as a repository would raise it."""
    try:
        await answer
    except Exception as error:
        return translate(error) or error
    raise AssertionError("it did not fail")


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, silent: bool = False) -> AsyncIterator[PostgresAddress]:
    """A listener that answers anything with `answer` and closes; `silent`: never anything."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            if silent:
                await ended.wait()
            writer.write(answer)
            await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield PostgresAddress("127.0.0.1", port, user="someone", password=PASSWORD)
    finally:
        ended.set()
        listening.close()
