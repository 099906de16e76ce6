"""The steward as a process, between a brain that only says what it is told to and a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from embedded import USERS, Service, place_for
from fleet import REPOSITORY, WITHIN_S
from storage_site import StorageSite, becomes, storage_site

from dims.addresses import PostgresAddress
from dims.errors import DimsError
from dims.ipc.links.channel import Channel, listen
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.sentences import read, written
from dims.ipc.words.services import DatabaseMoved, StewardReady
from dims.migrations.advisory_lock import LOCK_KEY
from dims.migrations.head import head
from dims.storage.admin.sealed_roles import SealedRoles, roles_file
from dims.storage.connections.connecting import connect

_numbers = itertools.count()
BOTS = ("ada", "bob")
SOMEBODY_WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.fixture(scope="module")
def server() -> Iterator[StorageSite]:
    with storage_site() as site:
        yield site


@pytest.fixture
async def empty(server: StorageSite) -> PostgresAddress:
    """A new database, without our schema."""
    name = f"w{next(_numbers)}"
    root = await server.admin()
    await root.execute(f"CREATE DATABASE {name}")
    await root.close()
    return replace(server.owner, database=name)


class Steward:
    """The process, and the end of its bond that a brain would have."""

    def __init__(self, directory: Path, terms: Mapping[str, Any]) -> None:
        self.directory = directory
        self.terms = dict(terms)
        self.said: list[Envelope] = []
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.Server | None = None
        self._news = asyncio.Event()

    async def starts(self, embedded: PostgresAddress | None = None) -> None:
        """Listens, and starts the process, which hears later where an embedded server is; a former
        one has ended."""
        path = self.directory / "bot.sock"
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        self._server = await listen(sock, self._make)
        self.said.clear()
        with (self.directory / "output").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dims.services.steward", "--notify", str(path)),
                *("--unit", "steward", "--incarnation", "1", "--log", str(self.log)),
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
            )
        if embedded is not None:
            await self.says("hello")
            self.channel.say(DatabaseMoved.kind, written(DatabaseMoved(embedded)))

    def forsakes(self) -> None:
        """As a brain that was killed: the link is cut, and nobody listens."""
        assert self._server is not None
        assert self._channel is not None
        self._server.close()
        self._channel.abort()

    async def returns(self) -> None:
        """Another brain listens, and has heard nothing yet."""
        path = self.directory / "bot.sock"
        path.unlink()
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        self.said.clear()
        self._server = await listen(sock, self._make)

    def _make(self) -> Channel:
        return Channel(self._heard, lambda _channel, _why: None, name=Address("brain"))

    def _heard(self, channel: Channel, message: Envelope) -> None:
        self._channel = channel
        self.said.append(message)
        self._news.set()
        if message.kind == "hello":
            channel.say("welcome", self.terms)

    @property
    def channel(self) -> Channel:
        assert self._channel is not None
        return self._channel

    @property
    def log(self) -> Path:
        return self.directory / "steward.log"

    @property
    def logged(self) -> str:
        """All that it ever wrote."""
        return "".join(p.read_text() for p in (self.log, self.directory / "output") if p.exists())

    def kinds(self, kind: str) -> list[Mapping[str, Any]]:
        return [message.body for message in self.said if message.kind == kind]

    async def ready(
        self, where: Callable[[StewardReady], object] = bool, after: int = 0
    ) -> StewardReady:
        """As `says`, for what it says of itself when it is ready."""
        said = await self.says("ready", lambda body: where(_about(body)), after)
        return _about(said)

    async def says(
        self, kind: str, where: Callable[[Mapping[str, Any]], object] = bool, after: int = 0
    ) -> Mapping[str, Any]:
        """The last of that kind once there is one more than `after`, with `where`."""
        try:
            async with asyncio.timeout(WITHIN_S):
                while not (found := [b for b in self.kinds(kind)[after:] if where(b)]):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pytest.fail(f"it never said {kind}: {self.said}\n{self.logged}")
        return found[-1]

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        assert self._process is not None
        assert self._server is not None
        async with asyncio.timeout(WITHIN_S):
            code = await self._process.wait()
        self._server.close()
        return code

    async def leaves(self) -> None:
        self.channel.say("leave", {})
        assert await self.ended() == 0, self.logged

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self.ended()


def _about(body: Mapping[str, Any]) -> StewardReady:
    return read(StewardReady, body["about"])


@asynccontextmanager
async def steward(address: PostgresAddress | None, **changes: Any) -> AsyncIterator[Steward]:
    """One that is to look after this database; at the end it has left and told no secret."""
    with tempfile.TemporaryDirectory(prefix="dims-st-") as name:
        directory = Path(name)
        prefix = f"p{next(_numbers)}"
        terms = {
            "address": written(address) if address else None,
            "password_file": None,
            "roles_file": str(roles_file(directory)),
            "server_file": str(directory / "database.json"),
            "bots": list(BOTS),
            "prefix": prefix,
            "partitions": 2,
            "migrates": True,
            "rotate_days": 30,
            **changes,
        }
        one = Steward(directory, terms)
        try:
            yield one
        finally:
            await one.close()
        if roles_file(directory).exists():
            try:
                sealed = SealedRoles.load(roles_file(directory))
            except DimsError:
                return
            for role in filter(None, map(sealed.get, sealed.ids())):
                assert role.password not in one.logged
                assert role.verifier not in one.logged
        assert address is None or not address.password or address.password not in one.logged
        assert "Traceback" not in one.logged, one.logged


async def may_come_in(address: PostgresAddress, ready: StewardReady) -> None:
    for role, password in ready.roles.values():
        connection = await connect(
            address.as_user(role, password), timeout_s=10, application_name="test"
        )
        await connection.close()


async def end_connections(server: StorageSite, database: str) -> None:
    root = await server.admin()
    await root.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = $1 AND application_name = 'dims steward'",
        database,
    )
    await root.close()


async def test_it_prepares_an_empty_database_and_hands_over_what_workers_need(
    empty: PostgresAddress,
) -> None:
    async with steward(empty) as one:
        await one.starts()
        ready = await one.ready()
        assert ready.server.revision == head()
        assert ready.server.max_connections == 100
        assert ready.server.reserved == 3
        assert ready.refused == {}
        assert set(ready.roles) == set(BOTS)
        await may_come_in(empty, ready)
        assert await one.says("heartbeat", lambda body: body["trouble"] == "")
        await one.leaves()
        # The next start needs no migration, and so no Alembic.
        await one.starts()
        assert (await one.ready()).roles == ready.roles
        one.signal(signal.SIGTERM)
        assert await one.ended() == 0


async def test_it_waits_for_a_server_that_comes_late(empty: PostgresAddress) -> None:
    async with steward(None) as one:
        await one.starts()
        await one.says("heartbeat", lambda body: "server is not ready" in body["trouble"])
        assert not one.kinds("ready")
        one.channel.say(DatabaseMoved.kind, written(DatabaseMoved(empty)))
        await may_come_in(empty, await one.ready())


async def test_it_waits_for_an_address_at_which_nobody_answers_yet(empty: PostgresAddress) -> None:
    with tempfile.TemporaryDirectory(prefix="dims-late-") as directory:
        place = Path(directory) / "sockets"
        late = replace(empty, host=str(place))
        async with steward(late) as one:
            await one.starts()
            await one.says("heartbeat", lambda body: "cannot connect" in body["trouble"])
            place.symlink_to(empty.host)
            await may_come_in(empty, await one.ready())


async def test_where_all_roles_are_known_it_goes_on_without_the_database(
    empty: PostgresAddress,
) -> None:
    with tempfile.TemporaryDirectory(prefix="dims-late-") as directory:
        place = Path(directory) / "sockets"
        place.symlink_to(empty.host)
        async with steward(replace(empty, host=str(place))) as one:
            await one.starts()
            before = await one.ready()
            await one.leaves()
            place.unlink()
            await one.starts()
            ready = await one.ready()
            assert ready.roles == before.roles
            assert ready.server.max_connections == 100
            await one.says("heartbeat", lambda body: "cannot connect" in body["trouble"])
            place.symlink_to(empty.host)
            await one.says("heartbeat", lambda body: not body["trouble"])
            assert (await one.ready(after=1)).server.revision == head()


async def test_it_goes_on_without_a_server_whose_place_nobody_has_told(
    empty: PostgresAddress,
) -> None:
    async with steward(empty) as one:
        await one.starts()
        before = await one.ready()
        await one.leaves()
        one.terms["address"] = None
        await one.starts()
        assert (await one.ready()).roles == before.roles
        # It has looked again since, and still nobody has told.
        await one.says("heartbeat", after=len(one.kinds("heartbeat")) + 1)
        one.channel.say(DatabaseMoved.kind, written(DatabaseMoved(empty)))
        await one.says("heartbeat", lambda body: not body["trouble"])


@pytest.mark.parametrize("text", ["", '{"max_connections": "x"}'])
async def test_what_was_kept_of_the_server_and_is_damaged_is_no_reason_to_go_on(
    empty: PostgresAddress, text: str
) -> None:
    async with steward(empty) as one:
        await one.starts()
        await one.ready()
        await one.leaves()
        (one.directory / "database.json").write_text(text)
        one.terms["address"] = None
        await one.starts()
        await one.says("heartbeat", lambda body: body["trouble"])
        await one.says("heartbeat", after=len(one.kinds("heartbeat")))
        assert not one.kinds("ready")
        one.channel.say(DatabaseMoved.kind, written(DatabaseMoved(empty)))
        await one.ready()


async def last_will_of(one: Steward) -> str:
    await one.starts()
    will = await one.says("last_will")
    assert will["failure"] == "crash", "somebody mends the server, and it starts by itself"
    assert await one.ended() != 0
    assert not one.kinds("ready")
    assert "\n" not in will["reason"]
    return str(will["reason"])


async def test_a_wrong_password_is_a_reason_to_leave(empty: PostgresAddress) -> None:
    async with steward(replace(empty, password="wr0ngSecret")) as one:
        assert "the password for 'dims' is wrong" in await last_will_of(one)


async def test_a_missing_password_file_is_a_reason_to_leave(empty: PostgresAddress) -> None:
    async with steward(empty, password_file="/nowhere/postgres.password") as one:
        assert "/nowhere/postgres.password is missing" in await last_will_of(one)


async def test_a_schema_that_is_ahead_is_a_reason_to_leave(empty: PostgresAddress) -> None:
    async with steward(empty) as one:
        await one.starts()
        await one.ready()
        await one.leaves()
        admin = await connect(empty, timeout_s=10, application_name="test")
        await admin.execute("UPDATE dims.alembic_version SET version_num = '9999'")
        await admin.close()
        assert "9999" in await last_will_of(one)


async def test_a_schema_that_it_must_not_change_is_a_reason_to_leave(
    empty: PostgresAddress,
) -> None:
    async with steward(empty, migrates=False) as one:
        reason = await last_will_of(one)
        assert f"the database is at revision none, this DIMS needs {head()}" in reason
        assert "dims db migrate" in reason


async def test_damaged_passwords_are_a_reason_to_leave(empty: PostgresAddress) -> None:
    async with steward(empty) as one:
        roles_file(one.directory).write_text('{"version": 1, "roles": {"ada"')
        reason = await last_will_of(one)
        assert f"{roles_file(one.directory)} is damaged" in reason
        assert "restore it from a backup" in reason


async def test_an_administrator_without_the_rights_is_a_reason_to_leave(
    server: StorageSite, empty: PostgresAddress
) -> None:
    role = f"poor{next(_numbers)}"
    root = await server.admin()
    await root.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'poor'")
    await root.close()
    async with steward(empty.as_user(role, "poor")) as one:
        reason = await last_will_of(one)
        assert "permission denied to create role (connect as the administrator" in reason


async def test_a_connection_that_breaks_is_made_again(
    server: StorageSite, empty: PostgresAddress
) -> None:
    async with steward(empty) as one:
        await one.starts()
        before = await one.ready()
        await end_connections(server, empty.database)
        again = await one.ready(after=1)
        assert again.roles == before.roles
        assert not one.kinds("last_will")


async def test_a_server_that_was_killed_is_waited_for_and_prepared_again() -> None:
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        address = PostgresAddress(str(place.sockets("postgres")), user="dims")
        secret = place.state / "postgres.password"
        try:
            async with steward(None, password_file=str(secret)) as one:
                await one.starts(address)
                before = await one.ready()
                service.kill()
                await one.says("heartbeat", lambda body: body["trouble"])
                service = Service(place, "postgres")
                service.ready()
                assert (await one.ready(after=1)).roles == before.roles
                await one.says("heartbeat", lambda body: not body["trouble"])
                await one.leaves()
        finally:
            service.end()


async def test_a_server_that_is_killed_while_it_is_prepared_is_waited_for() -> None:
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres")
        service.ready()
        address = PostgresAddress(str(place.sockets("postgres")), user="dims")
        secret = place.state / "postgres.password"
        bots = [f"bot{n}" for n in range(300)]
        try:
            async with steward(None, password_file=str(secret), bots=bots) as one:
                await one.starts(address)
                root = await connect(
                    address.as_user("dims", secret.read_text().strip()),
                    timeout_s=10,
                    application_name="test",
                )
                prefix = f"{one.terms['prefix']}_bot_"
                ask = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname::text, $1)"
                await becomes(lambda: root.fetchval(ask, prefix), "some roles are made")
                assert await root.fetchval(ask, prefix) < len(bots)
                service.kill()
                root.terminate()
                await one.says("heartbeat", lambda body: body["trouble"])
                service = Service(place, "postgres")
                service.ready()
                ready = await one.ready()
                assert set(ready.roles) == set(bots)
                assert not one.kinds("last_will")
                await one.leaves()
        finally:
            service.end()


@pytest.mark.parametrize("said", ["hello", "ready"])
async def test_killed_before_and_after_its_work_the_next_one_finishes(
    empty: PostgresAddress, said: str
) -> None:
    async with steward(empty) as one:
        await one.starts()
        await one.says(said)
        one.signal(signal.SIGKILL)
        await one.ended()
        await one.starts()
        await may_come_in(empty, await one.ready())
        await one.leaves()


@pytest.mark.parametrize(
    ("is_first", "holding_up"),
    [
        pytest.param(True, f"SELECT pg_advisory_xact_lock({LOCK_KEY})", id="before-migration"),
        pytest.param(True, "CREATE ROLE {prefix}_bot", id="migration"),
        pytest.param(True, "CREATE ROLE {prefix}_bot_bob", id="roles"),
        pytest.param(False, "LOCK TABLE dims.bots", id="rows"),
    ],
)
async def test_killed_at_any_step_of_its_work_the_next_one_finishes(
    empty: PostgresAddress, is_first: bool, holding_up: str
) -> None:
    """Somebody holds what the step needs: it is known to be there when it is killed."""
    root = await connect(empty, timeout_s=10, application_name="test")
    async with steward(empty) as one:
        if not is_first:
            await one.starts()
            await one.ready()
            await one.leaves()
        await root.execute(f"BEGIN; {holding_up.format(**one.terms)}")
        await one.starts()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await becomes(lambda: root.fetchval(waiting), "it waits for what is held")
        assert not one.kinds("ready")
        one.signal(signal.SIGKILL)
        await one.ended()
        await root.execute("ROLLBACK")
        await one.starts()
        await may_come_in(empty, await one.ready())
        await one.leaves()
    await root.close()


async def test_asked_to_it_rotates_and_tells_what_is_new(empty: PostgresAddress) -> None:
    async with steward(empty) as one:
        await one.starts()
        before = await one.ready()
        ada = await connect(
            empty.as_user(*before.roles["ada"]), timeout_s=10, application_name="test"
        )
        reply = await one.channel.request("rotate", {"bots": ["ada"]}, timeout_s=WITHIN_S)
        assert reply.body == {"rotated": ["ada"], "ended_sessions": 0}
        after = await one.ready(after=1)
        assert after.roles["ada"] != before.roles["ada"]
        assert after.roles["bob"] == before.roles["bob"]
        assert await ada.fetchval("SELECT 1") == 1
        await may_come_in(empty, after)
        order = {"bots": ["ada"], "end_sessions": True}
        reply = await one.channel.request("rotate", order, timeout_s=WITHIN_S)
        assert reply.body == {"rotated": ["ada"], "ended_sessions": 1}
        # As a statement's answer, or known already when it is asked.
        ended = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        with pytest.raises((*ended, OSError)):
            await ada.fetchval("SELECT 1")
        ada.terminate()
        for wrong in (["nobody"], "ada", [["ada"]], 7):
            with pytest.raises(DimsError):
                await one.channel.request("rotate", {"bots": wrong}, timeout_s=WITHIN_S)
        with pytest.raises(DimsError, match="does not know 'dance'"):
            await one.channel.request("dance", {}, timeout_s=WITHIN_S)


async def test_another_brain_hears_of_passwords_that_changed_meanwhile(
    empty: PostgresAddress,
) -> None:
    async with steward(empty) as one:
        await one.starts()
        await one.ready()
        await one.channel.request("rotate", {}, timeout_s=WITHIN_S)
        after = await one.ready(after=1)
        one.forsakes()
        await one.returns()
        assert await one.ready() == after
        await may_come_in(empty, after)


async def test_a_rotation_that_breaks_is_finished_without_being_asked_again(
    server: StorageSite, empty: PostgresAddress
) -> None:
    async with steward(empty) as one:
        await one.starts()
        await one.ready()
        root = await server.admin()
        role = f"{one.terms['prefix']}_bot_ada"
        await root.execute(f"BEGIN; ALTER ROLE {role} VALID UNTIL 'infinity'")
        asking = asyncio.ensure_future(one.channel.request("rotate", {}, timeout_s=WITHIN_S))
        waits = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'dims steward' "
            "AND datname = $1 AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(WITHIN_S):
            while (pid := await root.fetchval(waits, empty.database)) is None:
                await root.execute("SELECT pg_stat_clear_snapshot()")
        await root.execute("SELECT pg_terminate_backend($1)", pid)
        await root.execute("ROLLBACK")
        await root.close()
        with pytest.raises(DimsError, match="the connection to the database broke"):
            await asking
        await may_come_in(empty, await one.ready(after=1))


async def test_old_passwords_are_replaced_soon_after_a_start(empty: PostgresAddress) -> None:
    async with steward(empty) as one:
        await one.starts()
        before = await one.ready()
        await one.leaves()
        document = json.loads(roles_file(one.directory).read_text())
        document["roles"]["ada"]["since"] = 0
        roles_file(one.directory).write_text(json.dumps(document))
        await one.starts()
        after = await one.ready(lambda said: said.roles["ada"] != before.roles["ada"])
        assert after.roles["bob"] == before.roles["bob"]
        await may_come_in(empty, after)


async def test_a_bot_that_was_refused_may_come_once_its_role_is_free(
    server: StorageSite, empty: PostgresAddress
) -> None:
    async with steward(empty) as one:
        root = await server.admin()
        role = f"{one.terms['prefix']}_bot_ada"
        await root.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'other'")
        await root.close()
        elsewhere = empty.as_user(role, "other")
        other = await connect(elsewhere, timeout_s=10, application_name="another fleet")
        await one.starts()
        ready = await one.ready()
        assert "another fleet runs this bot" in ready.refused["ada"]
        assert set(ready.roles) == {"bob"}
        await other.close()
        await may_come_in(empty, await one.ready(lambda said: not said.refused))


async def test_what_has_to_migrate_later_does_so_in_a_start_of_its_own(
    empty: PostgresAddress, server: StorageSite
) -> None:
    """A start has an hour; who is ready must be heard of all the time."""
    async with steward(empty) as one:
        await one.starts()
        await one.ready()
        admin = await connect(empty, timeout_s=10, application_name="test")
        await admin.execute("DROP SCHEMA dims CASCADE")
        await admin.close()
        await end_connections(server, empty.database)
        will = await one.says("last_will")
        assert "the database is at revision none" in will["reason"]
        await one.ended()
        await one.starts()
        await may_come_in(empty, await one.ready())


async def test_another_migration_is_waited_for(empty: PostgresAddress) -> None:
    other = await connect(empty, timeout_s=10, application_name="dims db migrate")
    from dims.migrations.advisory_lock import LOCK_KEY  # noqa: PLC0415 (SQLAlchemy)

    await other.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
    async with steward(empty) as one:
        await one.starts()
        await becomes(lambda: other.fetchval(SOMEBODY_WAITS), "it waits for the other")
        assert not one.kinds("ready")
        await other.close()
        await one.ready()


async def test_it_leaves_while_it_waits_for_a_migration(empty: PostgresAddress) -> None:
    other = await connect(empty, timeout_s=10, application_name="dims db migrate")
    from dims.migrations.advisory_lock import LOCK_KEY  # noqa: PLC0415 (SQLAlchemy)

    await other.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
    async with steward(empty) as one:
        await one.starts()
        await becomes(lambda: other.fetchval(SOMEBODY_WAITS), "it waits for the other")
        await one.leaves()
    await other.close()
