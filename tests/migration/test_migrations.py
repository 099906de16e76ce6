"""Migrations on a real PostgreSQL, a database of its own for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from embedded import USERS, Service, place_for
from roles import give_password, put_bot
from sqlalchemy import Connection

from dims.addresses import PostgresAddress
from dims.errors import DimsError, ServiceError, StateError, TimedOutError, UsageError
from dims.migrations.advisory_lock import LOCK_KEY
from dims.migrations.catalogue import Catalogue, catalogue, differences
from dims.migrations.history import History
from dims.migrations.link import connected
from dims.migrations.risks import risks
from dims.migrations.runner import BIG_BYTES, MigrationLimits, MigrationProgress, Migrations
from dims.storage.admin import foundations as ground
from dims.storage.admin import tenancy
from dims.storage.admin.blueprint import expand, templates
from dims.storage.embedded.binaries import Source, find_postgres
from dims.storage.names import Shape

SMALL = Shape(partitions=2)
SOON = MigrationLimits(migration_lock_s=0.3, table_lock_s=0.2, tries=2, pause_s=0.01)
_numbers = itertools.count()


def sources() -> list[str]:
    found = []
    for source in (Source.WHEEL, Source.SYSTEM):
        try:
            find_postgres(source=source)
        except ServiceError:
            continue
        found.append(source.value)
    return found


@dataclass
class Server:
    host: str
    password: str

    def address(
        self, database: str, user: str = "dims", password: str | None = None
    ) -> PostgresAddress:
        return PostgresAddress(
            self.host, database=database, user=user, password=password or self.password
        )

    async def connect(self, database: str, **options: Any) -> asyncpg.Connection:
        told = {"user": "dims", "password": self.password, **options}
        return await asyncpg.connect(host=self.host, database=database, **told)


@pytest.fixture(scope="module", params=sources())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres", "--source", request.param)
        service.ready()
        password = (place.state / "postgres.password").read_text().strip()
        try:
            yield Server(str(place.sockets("postgres")), password)
        finally:
            service.end()


@dataclass
class Database:
    server: Server
    name: str
    admin: asyncpg.Connection

    @property
    def address(self) -> PostgresAddress:
        return self.server.address(self.name)

    def migrations(self, **options: Any) -> Migrations:
        return Migrations(self.address, **{"shape": SMALL, **options})

    async def catalogue(self) -> Catalogue:
        async with connected(self.address) as connection:
            return await connection.run_sync(catalogue)


@pytest.fixture
async def database(server: Server) -> AsyncIterator[Database]:
    name = f"test{next(_numbers)}"
    postgres = await server.connect("postgres")
    await postgres.execute(f"CREATE DATABASE {name}")
    admin = await server.connect(name)
    yield Database(server, name, admin)
    await admin.close()
    await postgres.execute(f"DROP DATABASE {name}")
    await postgres.close()


def more(directory: Path, upgrade: str, downgrade: str = "pass") -> History:
    """The revisions with one more, whose code is given."""
    text = (
        '"""One more.\n\nRevision ID: 0002\n"""\n'
        "from dims.migrations.steps import run\n"
        'revision = "0002"\ndown_revision = "0001"\nbranch_labels = None\ndepends_on = None\n'
        f"def upgrade():\n    {upgrade}\ndef downgrade():\n    {downgrade}\n"
    )
    (directory / "r0002_more.py").write_text(text)
    return History(directory)


async def test_up_down_up_gives_the_identical_schema(database: Database) -> None:
    migrations = database.migrations()
    await migrations.migrate()
    first = await database.catalogue()
    await migrations.rollback(to="base", allow_unsafe=True)
    empty = await database.catalogue()
    assert not [name for name in empty if "messages" in name or name.startswith("policy")]
    await migrations.migrate()
    assert differences(first, await database.catalogue()) == []
    await migrations.rollback(to="base", allow_unsafe=True)
    assert differences(empty, await database.catalogue()) == []


async def test_what_the_code_describes_is_what_revisions_make(database: Database) -> None:
    await database.migrations().migrate()
    migrated = await database.catalogue()
    await database.admin.execute("DROP SCHEMA dims CASCADE")

    def make(connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL ROLE {SMALL.owner}")
        for statement in (*ground.schema(SMALL), *expand(templates(), SMALL)):
            connection.exec_driver_sql(statement)

    async with connected(database.address) as connection:
        await connection.run_sync(make)
        await connection.commit()
    assert differences(migrated, await database.catalogue()) == []


async def test_the_number_of_partitions_is_chosen_once(database: Database) -> None:
    await database.migrations(shape=Shape(partitions=3)).migrate()
    count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'dims.messages'::regclass"
    assert await database.admin.fetchval(count) == 3
    other = database.migrations(shape=Shape(partitions=7))
    assert (await other.status()).shape.partitions == 3
    await other.rollback(allow_unsafe=True)
    await other.migrate()
    assert await database.admin.fetchval(count) == 3
    assert await other.check() == []


async def test_status_tells_where_a_database_is(database: Database, tmp_path: Path) -> None:
    migrations = database.migrations(history=more(tmp_path, "pass"))
    status = await migrations.status()
    assert (status.revision, status.is_made, status.pending) == (None, False, ("0001", "0002"))
    report = await migrations.migrate("0001")
    assert (report.before, report.after) == (None, "0001")
    status = await migrations.status()
    assert (status.revision, status.is_made, status.pending) == ("0001", True, ("0002",))
    assert (await migrations.migrate()).steps == ("revision 0002 (One more.)",)
    assert (await migrations.migrate()).steps == ()
    assert (await migrations.rollback()).after == "0001"


DRIFT = (
    ("ALTER TABLE dims.users NO FORCE ROW LEVEL SECURITY", "relation users"),
    ("ALTER TABLE dims.users_p1 DISABLE ROW LEVEL SECURITY", "relation users_p1"),
    ("DROP POLICY tenant ON dims.users", "policy users.tenant"),
    ("ALTER POLICY tenant ON dims.chats USING (true)", "policy chats.tenant"),
    ("GRANT SELECT ON dims.messages_p0 TO dims_bot", "relation messages_p0"),
    ("GRANT UPDATE (name) ON dims.personas TO dims_auditor", "column personas.name"),
    ("GRANT EXECUTE ON FUNCTION dims.audit_row() TO PUBLIC", "function dims.audit_row()"),
    ("CREATE INDEX stray ON dims.chats (bot_id, title)", "index stray"),
    ("DROP INDEX dims.users_last_seen_idx", "index users_last_seen_idx"),
    ("ALTER TABLE dims.chats ADD COLUMN stray int", "column chats.stray"),
    ("ALTER TABLE dims.chats ALTER COLUMN title SET NOT NULL", "column chats.title"),
    ("ALTER TABLE dims.chats DROP CONSTRAINT chats_kind_check", "constraint"),
    ("DROP TRIGGER audit_1 ON dims.bots", "trigger bots.audit_1"),
    ("ALTER TABLE dims.personas DISABLE TRIGGER audit_1", "trigger personas.audit_1"),
    ("ALTER VIEW dims.backlog RESET (security_invoker)", "relation backlog"),
    ("ALTER TABLE dims.inbox DETACH PARTITION dims.inbox_p0", "relation inbox_p0"),
    ("DROP TABLE dims.outbox_p0", "relation outbox_p0"),
    ("ALTER TABLE dims.bots OWNER TO dims", "relation bots"),
    ("CREATE TABLE dims.strange (bot_id text)", "relation strange"),
    ("GRANT CREATE ON SCHEMA dims TO dims_bot", "schema dims"),
    ("ALTER ROLE dims_bot BYPASSRLS", "dims_bot may do more"),
    ("ALTER ROLE dims_owner LOGIN", "dims_owner may log in"),
    ("GRANT dims_owner TO dims_operator", "dims_operator is a member of dims_owner"),
    ("GRANT TEMPORARY ON DATABASE {database} TO PUBLIC", "everybody may TEMPORARY"),
    ("GRANT USAGE ON SCHEMA public TO PUBLIC", "everybody may USAGE"),
)


async def test_drift_is_found(database: Database) -> None:
    migrations = database.migrations()
    await migrations.migrate()
    assert await migrations.check() == []
    for statement, name in DRIFT:
        # The check sees what is committed; a copy of the database would take longer.
        await database.admin.execute(statement.format(database=database.name))
        found = await migrations.check()
        assert any(name in str(one) for one in found), (statement, [str(one) for one in found])
        if statement.startswith(("ALTER ROLE", "GRANT dims_owner")):
            await database.admin.execute(
                "ALTER ROLE dims_bot NOBYPASSRLS; ALTER ROLE dims_owner NOLOGIN;"
                "REVOKE dims_owner FROM dims_operator"
            )


async def test_a_check_changes_nothing(database: Database) -> None:
    migrations = database.migrations()
    await migrations.migrate()
    await database.admin.execute("INSERT INTO dims.bots (bot_id) VALUES ('one')")
    before = await database.catalogue()
    await migrations.check()
    assert differences(before, await database.catalogue()) == []
    assert await database.admin.fetchval("SELECT count(*) FROM dims.bots") == 1
    left = "SELECT count(*) FROM pg_namespace WHERE nspname = 'dims_live'"
    assert await database.admin.fetchval(left) == 0


async def test_a_lock_held_by_somebody_is_waited_for_and_its_holder_named(
    database: Database,
) -> None:
    await database.admin.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
    holder = database.admin.get_server_pid()
    migrations = database.migrations(limits=SOON)
    for work in (migrations.migrate, migrations.rollback, migrations.check):
        with pytest.raises(TimedOutError, match=f"pid {holder} "):
            await work()
    assert f"pid {holder} " in (await migrations.status()).migrating
    await database.admin.execute(f"SELECT pg_advisory_unlock({LOCK_KEY})")
    assert (await migrations.migrate()).after == "0001"
    assert (await migrations.status()).migrating == ""


async def test_of_two_migrations_at_once_one_does_the_work(database: Database) -> None:
    reports = await asyncio.gather(*(database.migrations().migrate() for _ in range(2)))
    assert sorted(len(report.steps) for report in reports) == [0, 1]
    assert await database.migrations().check() == []


async def test_a_revision_that_fails_half_way_leaves_nothing(
    database: Database, tmp_path: Path
) -> None:
    await database.migrations().migrate()
    before = await database.catalogue()
    history = more(
        tmp_path, 'run("CREATE TABLE dims.half (x int)", "ALTER TABLE dims.bots ADD y int",'
        ' "SELECT 1 / 0")',
    )  # fmt: skip
    with pytest.raises(StateError, match=r"0002.*statement 3.*division by zero"):
        await database.migrations(history=history).migrate()
    assert differences(before, await database.catalogue()) == []
    assert (await database.migrations(history=history).status()).revision == "0001"


async def test_a_first_migration_that_fails_leaves_no_tables(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(StateError, match="0002"):
        await database.migrations(history=more(tmp_path, 'run("nonsense")')).migrate()
    assert (await database.migrations().status()).revision == "0001"
    assert await database.migrations().check() == []


async def test_a_server_that_dies_during_a_revision_leaves_nothing(
    database: Database, tmp_path: Path
) -> None:
    await database.migrations().migrate()
    before = await database.catalogue()
    history = more(
        tmp_path, 'run("CREATE TABLE dims.half (x int)",'
        ' "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())")',
    )  # fmt: skip
    with pytest.raises(DimsError, match="nothing of it was kept"):
        await database.migrations(history=history).migrate()
    assert differences(before, await database.catalogue()) == []


async def test_a_table_in_use_is_waited_for_in_tries(database: Database, tmp_path: Path) -> None:
    await database.migrations().migrate()
    history = more(tmp_path, 'run("ALTER TABLE dims.bots ADD COLUMN more int")')
    pid = database.admin.get_server_pid()
    release = asyncio.Event()

    def progress(said: MigrationProgress) -> None:
        if f"waits for pid {pid} " in said.text:
            release.set()

    async def use() -> None:
        async with database.admin.transaction():
            await database.admin.execute("SELECT FROM dims.bots")
            in_use.set()
            await release.wait()

    in_use = asyncio.Event()
    user = asyncio.create_task(use())
    await in_use.wait()
    limits = MigrationLimits(table_lock_s=0.2, tries=2, pause_s=0.01)
    with pytest.raises(TimedOutError, match=f"0002 .*2 tries.*pid {pid} .*bots"):
        await database.migrations(history=history, limits=limits).migrate()
    patient = MigrationLimits(table_lock_s=0.2, tries=50, pause_s=0.01)
    migrations = database.migrations(history=history, limits=patient, progress=progress)
    assert (await migrations.migrate()).after == "0002"
    await user


async def test_a_dry_run_shows_sql_and_locks_and_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    roles = "SELECT array_agg(t::text ORDER BY rolname) FROM pg_roles t"
    before = await database.admin.fetchval(roles)
    report = await database.migrations().migrate(dry_run=True)
    assert any("CREATE TABLE dims.messages_p1" in statement for statement in report.statements)
    assert not report.locks
    assert not (await database.migrations().status()).is_made
    assert await database.admin.fetchval(roles) == before

    await database.migrations().migrate()
    made = await database.catalogue()
    history = more(tmp_path, 'run("ALTER TABLE dims.bots ADD COLUMN more int")')
    report = await database.migrations(history=history).migrate(dry_run=True)
    assert report.statements[0] == "ALTER TABLE dims.bots ADD COLUMN more int"
    strongest = {lock.table: lock.mode for lock in report.locks}
    assert strongest["bots"] == strongest["bots_p0"] == "AccessExclusiveLock"
    assert "users" not in strongest
    report = await database.migrations().rollback(dry_run=True, allow_unsafe=True)
    assert {lock.table: lock.effect for lock in report.locks}["users"].startswith("keeps reads")
    assert differences(made, await database.catalogue()) == []
    assert (await database.migrations().status()).revision == "0001"


async def test_a_schema_that_is_ahead_is_refused(database: Database) -> None:
    migrations = database.migrations()
    await migrations.migrate()
    await database.admin.execute("UPDATE dims.alembic_version SET version_num = '9999'")
    before = await database.catalogue()
    for work in (migrations.migrate, migrations.rollback, migrations.check):
        with pytest.raises(StateError, match=r"9999.*does not know"):
            await work()
    assert (await migrations.status()).is_ahead
    assert differences(before, await database.catalogue()) == []


async def test_what_loses_data_is_refused_without_the_flag(
    database: Database, tmp_path: Path
) -> None:
    history = more(tmp_path, 'run("ALTER TABLE dims.bots DROP COLUMN username")')
    migrations = database.migrations(history=history)
    for dry_run in (True, False):
        with pytest.raises(StateError, match="drops a column"):
            await migrations.migrate(dry_run=dry_run)
    assert (await migrations.status()).revision == "0001"
    with pytest.raises(StateError, match="drops a table"):
        await migrations.rollback()
    assert await database.admin.fetchval("SELECT count(*) FROM dims.bots") == 0
    await migrations.migrate(allow_unsafe=True)
    assert (await migrations.status()).revision == "0002"


async def test_an_index_is_refused_on_a_big_table_only(database: Database, tmp_path: Path) -> None:
    history = more(
        tmp_path, 'run("CREATE INDEX more ON dims.messages (bot_id, sender_id)")',
        'run("DROP INDEX dims.more")',
    )  # fmt: skip
    migrations = database.migrations(history=history)
    await migrations.migrate()
    await migrations.rollback()
    rows = BIG_BYTES // 500
    await database.admin.execute(
        "INSERT INTO dims.messages (bot_id, chat_id, message_id, text) "
        "SELECT 'bot' || n % 9, 1, n, repeat('x', 600) FROM generate_series(1, $1::int) AS n",
        rows,
    )
    with pytest.raises(StateError, match="makes an index"):
        await migrations.migrate()
    await migrations.migrate(allow_unsafe=True)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DROP TABLE dims.a", "table"),
        ("drop table if exists a", "table"),
        ("ALTER TABLE dims.a DROP COLUMN b", "column"),
        ("ALTER TABLE dims.a DROP b", "column"),
        ("alter table dims.a\n add c int,\n drop column b", "column"),
        ("TRUNCATE dims.a", "empties"),
        ("DO $$BEGIN DROP TABLE dims.a; END$$", "table"),
        ("ALTER TABLE dims.a NO FORCE ROW LEVEL SECURITY", "tenants"),
        ("ALTER TABLE dims.a ALTER COLUMN b SET NOT NULL", "reads"),
        ("ALTER TABLE dims.a ALTER b TYPE bigint", "anew"),
        ("ALTER TABLE dims.a ADD CONSTRAINT c CHECK (b > 0)", "reads"),
        ("CREATE UNIQUE INDEX i ON dims.a (b)", "index"),
        ("CREATE INDEX ON dims.a USING gin (b)", "index"),
    ],
)
def test_risky_statements_are_known(statement: str, why: str) -> None:
    assert any(why in risk.why for risk in risks(statement))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE dims.a (b int NOT NULL)",
        "ALTER TABLE dims.a ADD COLUMN b int",
        "ALTER TABLE dims.a ALTER COLUMN b DROP NOT NULL",
        "ALTER TABLE dims.a ALTER COLUMN b DROP DEFAULT",
        "ALTER TABLE dims.a DROP CONSTRAINT c",
        "ALTER TABLE dims.a ADD CONSTRAINT c CHECK (b > 0) NOT VALID",
        "CREATE INDEX CONCURRENTLY i ON dims.a (b)",
        "CREATE INDEX i ON ONLY dims.a (b)",
        "INSERT INTO dims.a VALUES ('DROP TABLE a; TRUNCATE b')",
        "-- DROP TABLE a\nSELECT 1",
        "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $x$ DROP TABLE a $x$",
        "GRANT TRUNCATE ON a TO b",
    ],
)
def test_harmless_statements_are_let_through(statement: str) -> None:
    assert list(risks(statement)) == []


async def test_the_migrator_needs_no_superuser(database: Database, tmp_path: Path) -> None:
    await database.migrations().migrate("0001")
    password = await give_password(database.admin, SMALL, SMALL.migrator)
    address = database.server.address(database.name, SMALL.migrator, password)
    history = more(
        tmp_path, 'run("ALTER TABLE dims.bots ADD more int")',
        'run("ALTER TABLE dims.bots DROP more")',
    )  # fmt: skip
    migrations = Migrations(address, shape=SMALL, history=history)
    assert (await migrations.migrate()).after == "0002"
    assert await migrations.check() == []
    await migrations.rollback(allow_unsafe=True)
    owner = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'dims.bots'::regclass"
    assert await database.admin.fetchval(owner) == SMALL.owner


async def test_an_administrator_needs_no_superuser_either(server: Server) -> None:
    """As on a server that somebody else runs: may create roles, and owns the database."""
    postgres = await server.connect("postgres")
    await postgres.execute("CREATE ROLE dba LOGIN CREATEROLE PASSWORD 'dba'")
    await postgres.execute("CREATE DATABASE theirs OWNER dba")
    shape = Shape(partitions=2, prefix="theirs")
    migrations = Migrations(server.address("theirs", "dba", "dba"), shape=shape)
    assert (await migrations.migrate()).after == "0001"
    dba = await server.connect("theirs", user="dba", password="dba")
    await put_bot(dba, shape, "one")
    password = await put_bot(dba, shape, "one")
    bot = await server.connect("theirs", user=shape.bot_role("one"), password=password)
    assert await bot.fetchval("SELECT dims.current_bot()") == "one"
    assert await migrations.check() == []
    await bot.close()
    assert await tenancy.drop_bot_role(dba, shape, "one")
    await dba.close()
    await postgres.execute("DROP DATABASE theirs")
    for role in ("owner", "migrator", "operator", "auditor", "bot"):
        await postgres.execute(f"DROP ROLE theirs_{role}")
    await postgres.execute("DROP ROLE dba")
    await postgres.close()


async def test_a_role_without_rights_is_told_so(database: Database) -> None:
    await database.migrations().migrate()
    password = await give_password(database.admin, SMALL, SMALL.operator)
    address = database.server.address(database.name, SMALL.operator, password)
    with pytest.raises(StateError, match="permission denied") as caught:
        await Migrations(address, shape=SMALL).migrate()
    assert "migrator" in caught.value.hint


async def test_a_wrong_address_or_password_is_one_clear_error(
    database: Database, tmp_path: Path
) -> None:
    wrong = replace(database.address, password="wr0ng")
    nowhere = replace(database.address, host=str(tmp_path))
    absent = replace(database.address, database="absent")
    for address in (wrong, nowhere, absent):
        with pytest.raises(ServiceError, match="cannot connect to") as caught:
            await Migrations(address).migrate()
        assert "wr0ng" not in str(caught.value)
        assert database.server.password not in str(caught.value)


async def test_what_cannot_be_asked_is_refused(database: Database) -> None:
    migrations = database.migrations()
    with pytest.raises(UsageError, match="no revision 'zz'"):
        await migrations.migrate("zz")
    with pytest.raises(UsageError, match="cannot go back"):
        await migrations.rollback()
    with pytest.raises(UsageError, match="either"):
        await migrations.rollback(steps=1, to="base")
    with pytest.raises(UsageError, match="partitions"):
        database.migrations(shape=Shape(partitions=0))
    await migrations.migrate()
    with pytest.raises(UsageError, match="after 'base'"):
        await migrations.migrate("base")
    with pytest.raises(UsageError, match="belongs to dims_owner, not to other_owner"):
        await database.migrations(shape=Shape(prefix="other")).migrate()


async def test_progress_tells_every_statement(database: Database) -> None:
    said: list[MigrationProgress] = []
    report = await database.migrations(progress=said.append).migrate()
    assert said[0].text == "roles and schema"
    assert all(one.steps == 1 for one in said[1:])
    assert max(one.statements for one in said) > 100
    assert len(report.statements) > max(one.statements for one in said)


def test_revisions_that_fork_are_refused(tmp_path: Path) -> None:
    more(tmp_path, "pass")
    (tmp_path / "r0003.py").write_text('"""Fork."""\nrevision = "0003"\ndown_revision = "0001"\n')
    with pytest.raises(StateError, match="one line"):
        History(tmp_path)
