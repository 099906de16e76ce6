"""`dims db …` as an operator meets it: on a fresh directory, and on a server that a URL names."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
from embedded import USERS, Service, place_for
from fleet import DIMS, WITHIN_S, Fleet, MakeFleet, Result, is_running, until
from roles import give_password, put_bot

from dims.layout import Layout
from dims.storage.admin.scram import verifier
from dims.storage.admin.sealed_roles import OPERATOR, SealedRole, SealedRoles, roles_file
from dims.storage.names import Shape
from dims.system.locks import holder
from dims.system.sealed import new_password

T = TypeVar("T")
_numbers = itertools.count()
BOTS = """
telegram: {server: sandbox}
bots:
  - {id: echo, handlers: echo.py}
  - {id: other, handlers: echo.py}
"""
EMBEDDED = BOTS + "storage: {database: embedded, redis: off}\n"
BY_URL = BOTS + "storage: {database: '${DATABASE_URL}', partitions: 2, redis: off}\n"
HANDLERS = {"echo.py": ""}
SHAPE = Shape(partitions=2)


def complaint(result: Result) -> str:
    """The one line of complaint."""
    lines = [line for line in result.err.splitlines() if "hint:" not in line]
    said = [line for line in lines if "it is started for this command" not in line]
    assert len(said) == 1, result.err
    return said[0]


def hint(result: Result) -> str:
    return next(line.strip() for line in result.err.splitlines() if "hint:" in line)


# A fresh directory


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that is never started, with a database that commands have made."""
    fleet = Fleet(tmp_path_factory.mktemp("embedded"), EMBEDDED, HANDLERS)
    fleet.dims("db", "migrate")
    try:
        yield fleet
    finally:
        fleet.end()
        forget(fleet.layout)


def forget(layout: Layout) -> None:
    """Removes what root's database keeps outside of the state directory."""
    pointer = layout.state / "embedded.home"
    if pointer.exists():
        shutil.rmtree(Path(pointer.read_text().strip()))


def servers(fleet: Fleet) -> list[int]:
    """The PostgreSQL processes of the fleet that run."""
    pointer = fleet.layout.state / "embedded.home"
    home = Path(pointer.read_text().strip()) if pointer.exists() else fleet.layout.state
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            where = (entry / "cwd").readlink()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if where.is_relative_to(home) and is_running(int(entry.name)):
            found.append(int(entry.name))
    return found


def assert_nothing_runs(fleet: Fleet) -> None:
    assert servers(fleet) == []
    runtime = fleet.layout.runtime
    assert not runtime.with_name(f"{runtime.name}-postgres").exists()
    assert holder(fleet.layout.state / "postgres.lock") is None


def test_before_the_first_migration_readers_make_nothing(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(EMBEDDED, files=HANDLERS)
    for words in (("status",), ("history",), ("check",), ("rollback", "--yes"), ("maintain",)):
        refused = fleet.dims("db", *words, code=4)
        assert "there is no database" in complaint(refused)
        assert "dims db migrate" in hint(refused)
        assert not fleet.layout.state.exists()


def test_a_stopped_fleet_gets_its_server_for_one_command(embedded: Fleet) -> None:
    again = embedded.dims("db", "migrate")
    assert "it is started for this command" in again.err
    assert again.out == "the database is at 0001, as it was\n"
    assert_nothing_runs(embedded)
    assert "all is as revision 0001" in embedded.dims("db", "check").out
    assert "applied" in embedded.dims("db", "history").out
    assert_nothing_runs(embedded)


def test_status_tells_all_of_a_stopped_fleet(embedded: Fleet) -> None:
    answer = embedded.dims("db", "status", "--json").json
    assert answer["server"]["kind"] == "embedded"
    assert answer["server"]["started_for_this"]
    assert answer["server"]["source"] in {"system", "wheel"}
    assert answer["revision"]["current"] == answer["revision"]["head"] == "0001"
    assert answer["brain"] is None
    assert {one["table"] for one in answer["tables"]} >= {"messages", "audit_log"}
    assert [role["id"] for role in answer["roles"]["known"]] == [
        "#operator", "#auditor", "echo", "other",
    ]  # fmt: skip
    assert len(answer["audit"]["months"]) == 3
    text = embedded.dims("db", "status").out
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 110
    assert "no supervisor runs" in text


def test_ctrl_c_stops_the_server_with_the_command(embedded: Fleet) -> None:
    process = embedded.front("db", "psql", "--role", "admin", "--", "-c", "SELECT pg_sleep(60)")
    until(lambda: _sleeps(embedded), "psql waits")
    process.send_signal(signal.SIGINT)
    # To both, as a terminal does.
    for pid in _children(process.pid, "psql"):
        os.kill(pid, signal.SIGINT)
    out, err = process.communicate(timeout=WITHIN_S)
    # psql says why its statement ended, unless it is gone before the server has told it.
    assert "canceling statement" in err or "interrupted" in err, (out, err)
    assert_nothing_runs(embedded)

    migration = embedded.front("db", "check")
    until(lambda: len(servers(embedded)) > 3, "the server runs")
    migration.send_signal(signal.SIGINT)
    assert migration.wait(WITHIN_S) in {0, 130}
    assert_nothing_runs(embedded)


def test_a_second_command_uses_the_server_of_the_first(embedded: Fleet) -> None:
    first = embedded.front("db", "psql", "--role", "admin", "--", "-c", "SELECT pg_sleep(60)")
    until(lambda: _sleeps(embedded), "psql waits")
    second = embedded.dims("db", "status", "--json")
    assert second.err == ""
    assert not second.json["server"]["started_for_this"]
    slow = [one for one in second.json["running"] if "pg_sleep" in one["sql"]]
    assert slow or second.json["server"]["connections"]["admin"] == 2
    for pid in _children(first.pid, "psql"):
        os.kill(pid, signal.SIGINT)
    first.wait(WITHIN_S)
    assert_nothing_runs(embedded)


def test_the_server_stays_while_another_command_needs_it(embedded: Fleet) -> None:
    sleep = ("db", "psql", "--role", "admin", "--", "-Atc")
    first = embedded.front(*sleep, "SELECT pg_sleep(60)")
    until(lambda: _sleeps(embedded), "psql waits")
    # It becomes psql, and keeps the server there all the same.
    second = embedded.front(*sleep, "SELECT 'here' FROM pg_sleep(3)")
    until(lambda: "psql" in _cmdline(second.pid).split(" ")[0], "the second has become psql")
    for pid in _children(first.pid, "psql"):
        os.kill(pid, signal.SIGINT)
    _, err = first.communicate(timeout=WITHIN_S)
    assert "another command uses this PostgreSQL" in err
    assert second.wait(WITHIN_S) == 0
    assert second.communicate()[0] == "here\n"
    together = [embedded.front("db", "check") for _ in range(2)]
    assert [one.wait(WITHIN_S) for one in together] == [0, 0]
    assert_nothing_runs(embedded)


def _sleeps(fleet: Fleet) -> bool:
    return any("SELECT" in _cmdline(pid) for pid in servers(fleet))


def _cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children(pid: int, name: str) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if name in _cmdline(int(child)).split(" ")[0]]


# A server that a URL names


class Site:
    """A fleet with a database of its own on the shared server."""

    def __init__(self, fleet: Fleet, host: str, password: str, database: str) -> None:
        self.fleet = fleet
        self.host = host
        self.password = password
        self.database = database

    def dims(self, *words: str, code: int | None = 0) -> Result:
        result = self.fleet.dims("db", *words, code=code)
        assert self.password not in result.out + result.err
        return result

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    async def connect(self, **options: Any) -> asyncpg.Connection:
        told = {"user": "dims", "password": self.password, "database": self.database, **options}
        return await asyncpg.connect(host=self.host, **told)

    def sql(self, *statements: str) -> Any:
        """The first value of the last."""

        async def run() -> Any:
            connection = await self.connect()
            try:
                for statement in statements[:-1]:
                    await connection.execute(statement)
                return await connection.fetchval(statements[-1])
            finally:
                await connection.close()

        return self.do(run())

    def url(self, **changed: str) -> str:
        told = {"user": "dims", "password": self.password, "database": self.database, **changed}
        host = told.get("host", self.host)
        return f"postgresql://{told['user']}:{told['password']}@/{told['database']}?host={host}"

    def seal(self) -> None:
        """What a start of the fleet would have done: roles with sealed passwords."""

        async def run() -> None:
            connection = await self.connect()
            sealed = SealedRoles(roles_file(self.fleet.layout.state))
            made = {
                "echo": (SHAPE.bot_role("echo"), await put_bot(connection, SHAPE, "echo")),
                OPERATOR: (SHAPE.operator, await give_password(connection, SHAPE, SHAPE.operator)),
            }
            for id_, (role, password) in made.items():
                sealed.set(
                    id_, SealedRole(role, password, verifier(password), time.time() - 90_000, True)
                )
            sealed.save()
            await connection.close()

        self.fleet.layout.make()
        self.do(run())


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        try:
            yield (
                str(place.sockets("postgres")),
                (place.state / "postgres.password").read_text().strip(),
            )
        finally:
            service.end()


@pytest.fixture
def site(server: tuple[str, str], make_fleet: MakeFleet) -> Iterator[Site]:
    host, password = server
    name = f"db{next(_numbers)}"
    first = Site(make_fleet(), host, password, "postgres")
    first.sql(f"CREATE DATABASE {name}", "SELECT 1")
    fleet = make_fleet(BY_URL, files=HANDLERS)
    site = Site(fleet, host, password, name)
    fleet.environment["DATABASE_URL"] = site.url()
    yield site
    first.sql(f"DROP DATABASE {name} WITH (FORCE)", "SELECT 1")
    roles = "SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolname LIKE 'dims\\_bot\\_%'"
    bots = first.sql(roles)
    if bots:
        first.sql(f"DROP ROLE {bots}", "SELECT 1")


def test_a_dry_run_prints_sql_and_changes_nothing(site: Site) -> None:
    shown = site.dims("migrate", "--dry-run").out
    assert "CREATE TABLE dims.messages_p1" in shown
    assert shown.endswith("nothing was changed.\n")
    assert site.sql("SELECT to_regnamespace('dims') IS NULL")

    done = site.dims("migrate", "--json").json
    assert (done["before"], done["after"], done["dry_run"]) == (None, "0001", False)
    shown = site.dims("rollback", "--dry-run").out
    assert "AccessExclusiveLock" in shown
    assert "DROP TABLE dims.messages;" in shown
    assert site.dims("history", "--json").json["current"] == "0001"


def test_losing_data_is_asked_for(site: Site) -> None:
    site.dims("migrate")
    refused = site.dims("rollback", code=2)
    assert "drops a table with its rows" in complaint(refused)
    assert "--yes" in hint(refused)
    refused = site.dims("rollback", "--allow-unsafe", code=2)
    assert "--yes" in hint(refused)
    assert site.dims("history", "--json").json["current"] == "0001"

    code, said = typed(site.fleet, "db", "rollback", answer="n\n")
    assert code == 130, said
    assert "Go on?" in said
    assert site.dims("history", "--json").json["current"] == "0001"
    code, said = typed(site.fleet, "db", "rollback", answer="y\n")
    assert code == 0, said
    assert "0001 -> base" in said
    site.dims("migrate")
    assert "0001 -> base" in site.dims("rollback", "--yes").out
    refused = site.dims("rollback", "--yes", code=2)
    assert "cannot go back" in complaint(refused)


def test_progress_is_for_terminals_only(site: Site) -> None:
    code, said = typed(site.fleet, "db", "migrate", answer="")
    assert code == 0
    assert "[1/1] revision 0001" in said
    assert site.dims("migrate").err == ""


def test_drift_is_found_and_exits_with_4(site: Site) -> None:
    site.dims("migrate")
    site.sql("ALTER TABLE dims.bots ADD COLUMN sneaked int", "SELECT 1")
    found = site.dims("check", code=4)
    assert "column bots.sneaked should not be there" in found.out
    assert "not as the revisions make it" in complaint(found)
    told = site.dims("check", "--json", code=4).json["differences"]
    assert {"what": "column bots.sneaked", "expected": None}.items() <= told[0].items()


def test_a_database_that_is_ahead_is_refused_and_shown(site: Site) -> None:
    site.dims("migrate")
    site.sql("UPDATE dims.alembic_version SET version_num = '9999'", "SELECT 1")
    for words in (("migrate",), ("rollback", "--yes"), ("check",), ("maintain",)):
        assert "9999" in complaint(site.dims(*words, code=4))
    assert "AHEAD" in site.dims("status").out
    assert "unknown" in site.dims("history").out


@pytest.mark.parametrize("wrong", [{"password": "wr0ng"}, {"host": "/nowhere"},
                                   {"database": "absent"}, {"user": "nobody_there"}])  # fmt: skip
def test_a_wrong_url_is_one_clear_error(site: Site, wrong: dict[str, str]) -> None:
    site.fleet.environment["DATABASE_URL"] = site.url(**wrong)
    for words in (("migrate",), ("status",), ("maintain",), ("check", "--json")):
        refused = site.dims(*words, code=9)
        assert refused.out == ""
        assert "cannot connect to" in complaint(refused)
        assert "wr0ng" not in refused.err


def test_a_fleet_without_a_database_is_told_so(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(BOTS + "storage: {database: off, redis: off}\n", files=HANDLERS)
    for words in (("status",), ("migrate",), ("psql",)):
        refused = fleet.dims("db", *words, code=2)
        assert "storage.database" in complaint(refused)
        assert "embedded" in hint(refused)
    assert not fleet.layout.state.exists()


def test_a_role_without_rights_is_told_so(site: Site) -> None:
    site.dims("migrate")

    async def make() -> str:
        connection = await site.connect()
        password = await give_password(connection, SHAPE, SHAPE.auditor)
        await connection.close()
        return password

    password = site.do(make())
    site.fleet.environment["DATABASE_URL"] = site.url(user=SHAPE.auditor, password=password)
    for words in (("migrate",), ("check",), ("maintain",), ("status",)):
        refused = site.dims(*words, code=4)
        assert "permission denied" in complaint(refused)
        assert "administrator" in hint(refused)


# psql


def test_psql_is_whom_it_is_asked_to_be(site: Site) -> None:
    site.dims("migrate")
    who = "SELECT session_user, dims.current_bot()"
    refused = site.dims("psql", "--", "-c", "SELECT 1", code=4)
    assert "--role admin" in hint(refused)
    site.seal()
    assert site.dims("psql", "--", "-Atc", who).out == "dims_operator|\n"
    assert site.dims("psql", "--role", "admin", "--", "-Atc", who).out == "dims|\n"
    assert site.dims("psql", "--as", "echo", "--", "-Atc", who).out == "dims_bot_echo|echo\n"
    assert "Did you mean 'echo'" in complaint(site.dims("psql", "--as", "eco", code=2))
    assert site.dims("psql", "--as", "other", code=4)
    site.dims("psql", "--as", "echo", "--role", "admin", code=2)
    assert "syntax" in site.dims("psql", "--", "-c", "selec", code=1).err


def test_a_bot_in_psql_sees_its_own_rows_only(site: Site) -> None:
    site.dims("migrate")
    site.seal()
    site.sql("INSERT INTO dims.users (bot_id, user_id) VALUES ('echo', 1), ('other', 2)",
             "SELECT 1")  # fmt: skip
    ids = "SELECT user_id FROM dims.users ORDER BY 1"
    assert site.dims("psql", "--as", "echo", "--", "-Atc", ids).out == "1\n"
    assert site.dims("psql", "--", "-Atc", ids).out == "1\n2\n"


def test_no_password_in_what_psql_is_started_with(site: Site) -> None:
    site.dims("migrate")
    site.seal()
    sealed = SealedRoles.load(roles_file(site.fleet.layout.state)).get(OPERATOR)
    assert sealed is not None
    # psql's shell is its child: what it sees of its parent is what anybody of this user sees.
    site.fleet.environment.pop("DATABASE_URL")
    site.fleet.write(".env", f"DATABASE_URL={site.url()}\n")
    seen = site.dims("psql", "--", "-c", r"\! cat /proc/$PPID/environ /proc/$PPID/cmdline").out
    assert "PGPASSFILE=/dev/fd/" in seen
    assert sealed.password not in seen


# Upkeep


def test_maintain_deletes_what_is_done_and_keeps_the_rest(site: Site) -> None:
    site.dims("migrate")
    site.sql(
        "INSERT INTO dims.inbox (bot_id, inbox_id, dedupe_key, kind, layer, payload, status, "
        "finished_at) SELECT 'echo', n, n, 'k', 1, '', CASE WHEN n % 2 = 0 THEN 'done' ELSE 'new' "
        "END, now() - interval '30 days' FROM generate_series(1, 5000) AS n",
        "SELECT 1",
    )
    rehearsed = site.dims("maintain", "--dry-run", "--json").json
    assert rehearsed["rows_deleted"] == {"inbox": 2500, "outbox": 0}
    assert site.sql("SELECT count(*) FROM dims.inbox") == 5000
    done = site.dims("maintain", "--json").json
    assert done["rows_deleted"] == {"inbox": 2500, "outbox": 0}
    assert "inbox" in done["vacuumed"]
    assert site.sql("SELECT count(*) FROM dims.inbox WHERE status = 'new'") == 2500
    assert "none needs it" in site.dims("maintain").out


def test_a_bot_is_erased_when_one_says_so(site: Site) -> None:
    site.dims("migrate")
    site.sql("INSERT INTO dims.users (bot_id, user_id) VALUES ('echo', 1), ('other', 2)",
             "SELECT 1")  # fmt: skip
    assert "--yes" in hint(site.dims("maintain", "--erase", "echo", code=2))
    rehearsed = site.dims("maintain", "--erase", "echo", "--dry-run", "--json").json
    assert rehearsed == {"bot": "echo", "rows": 1, "erased": False}
    assert site.sql("SELECT count(*) FROM dims.users") == 2
    assert "1 rows of echo deleted" in site.dims("maintain", "--erase", "echo", "--yes").out
    assert site.sql("SELECT string_agg(bot_id, ' ') FROM dims.users") == "other"
    assert "no rows" in site.dims("maintain", "--erase", "echo", "--yes").out
    assert "no bot id" in complaint(site.dims("maintain", "--erase", "ECHO", code=2))


def test_upkeep_waits_for_the_migration(site: Site) -> None:
    assert "dims db migrate" in hint(site.dims("maintain", code=4))


# Roles


def test_new_passwords_need_the_running_fleet(site: Site) -> None:
    assert "dims start" in hint(site.dims("rotate", "--all", code=6))
    site.dims("rotate", code=2)
    site.dims("rotate", "echo", "--all", code=2)


def test_status_and_roles_tell_who_is_missing_and_who_is_strange(site: Site) -> None:
    site.dims("migrate")
    site.seal()
    site.sql("CREATE ROLE dims_bot_ghost LOGIN", "SELECT 1")
    answer = site.dims("status", "--json").json["roles"]
    assert answer["strangers"] == ["dims_bot_ghost"]
    found = {role["id"]: role for role in answer["known"]}
    assert found["echo"]["exists"]
    assert found["echo"]["password_age_s"] >= 90_000
    assert not found["other"]["exists"]
    text = site.dims("status").out
    assert "1 of 2 bots have theirs; oldest password 1d1h" in text
    listed = {one["role"]: one for one in site.dims("roles", "--json").json["roles"]}
    assert listed["dims_bot_echo"]["member_of"] == ["dims_bot"]
    assert listed["dims_auditor"]["rights"] == {"SELECT": ["audit_log", "bots"]}
    assert "dims_bot_ghost" in site.dims("roles").out


def test_a_damaged_file_of_passwords_is_one_clear_error(site: Site) -> None:
    site.dims("migrate")
    site.seal()
    path = roles_file(site.fleet.layout.state)
    secret = new_password()
    path.write_text(json.dumps({"version": 1, "roles": {"echo": {"password": secret}}}))
    refused = site.dims("psql", code=4)
    assert "is damaged" in complaint(refused)
    assert secret not in refused.err
    assert "is damaged" in site.dims("status").out


def typed(fleet: Fleet, *words: str, answer: str) -> tuple[int, str]:
    """The exit code and what `dims WORDS` says in a terminal, where somebody types."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [DIMS, *words],
        cwd=fleet.directory,
        env=fleet.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    said = b""
    until_s = time.monotonic() + WITHIN_S
    try:
        while time.monotonic() < until_s and select.select([ours], [], [], WITHIN_S)[0]:
            try:
                data = os.read(ours, 4096)
            except OSError:  # how Linux tells that the other end was closed
                break
            said += data
        return process.wait(WITHIN_S), said.decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        os.close(ours)
