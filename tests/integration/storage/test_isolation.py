"""A bot with its own password against another bot's rows: nothing seen, nothing changed.

Attacks are made from the catalogue, so that a table nobody thought of here is attacked as well.
Known and not closed, as PostgreSQL has no way to: bots see each other's names (pg_roles), sizes of
partitions and row estimates in plans, and share the channels of LISTEN and NOTIFY. What is sent
there must name nothing that is secret.
"""

# Statements are put together from names of the catalogue and read best on one line each.
# ruff: noqa: S608, E501

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import asyncpg
import pytest
from embedded import USERS, Service, place_for
from pgbouncer import pgbouncer, verifiers
from roles import give_password, put_bot

from dims.addresses import PostgresAddress
from dims.errors import ServiceError, UsageError
from dims.migrations.runner import Migrations
from dims.storage.admin import auditing, tenancy
from dims.storage.admin.scram import verifier
from dims.storage.embedded.binaries import Source, find_postgres
from dims.storage.names import CORRELATION, SCHEMA, Shape, quoted

SHAPE = Shape(partitions=4)
VICTIM, THIEF = "alpha", "mallory"
MARK = "S3CRET"
"""In every text of the victim's; attacks that only learn whether a row exists make it up."""
NUMBER = 7_777_777
"""Every number of the victim's begins with it."""
TRACE = "0WNED"
"""What attacks write."""

Act = Callable[[asyncpg.Connection], Awaitable[object]]


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
class Site:
    """A migrated database with two bots."""

    host: str
    owner_password: str
    uid: int
    passwords: dict[str, str] = field(default_factory=dict)
    database: str = "postgres"

    async def admin(self, database: str | None = None) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=self.host, user="dims", password=self.owner_password,
            database=database or self.database,
        )  # fmt: skip

    async def bot(self, bot_id: str, **options: Any) -> asyncpg.Connection:
        told = {"host": self.host, "password": self.passwords[bot_id], **options}
        return await asyncpg.connect(
            **{"user": SHAPE.bot_role(bot_id), "database": self.database, **told}
        )

    def address(self) -> PostgresAddress:
        return PostgresAddress(
            self.host, database=self.database, user="dims", password=self.owner_password
        )


@dataclass(frozen=True)
class Table:
    """A relation with a bot_id."""

    name: str
    kind: str
    is_partition: bool
    columns: tuple[tuple[str, str, bool], ...]
    """Name, type, whether it must be given."""

    @property
    def is_view(self) -> bool:
        return self.kind == "v"

    def row(self, bot_id: str, mark: str, number: int) -> dict[str, str]:
        """A value for every column, as SQL."""
        checked = {"kind": "private" if self.name == "chats" else mark, "action": "insert"}
        checked |= {"level": "error", "status": "dead"}
        if self.name == "conversations":
            checked["status"] = "open"
        made = {}
        for name, kind, _ in self.columns:
            text = checked.get(name, f"{mark} {name}")
            made[name] = {
                "text": f"'{bot_id if name == 'bot_id' else text}'",
                "bytea": f"'{mark * 100}'::bytea",
                "jsonb": f"""'{{"error": "{mark}"}}'""",
                "uuid": f"md5('{mark}{number}')::uuid",
                "boolean": "true",
                "smallint": "7",
                "integer": str(number),
                "bigint": f"{number}001",
                "timestamp with time zone": "now()",
                "date": "current_date",
            }[kind]
        return made


async def relations(admin: asyncpg.Connection) -> list[Table]:
    """All relations in which anybody has a bot_id, whatever they are called."""
    rows = await admin.fetch(
        "SELECT c.oid::regclass::text AS name, c.relkind::text AS kind, c.relispartition AS part, "
        "array_agg(ROW(a.attname::text, format_type(a.atttypid, -1), a.attnotnull)) AS columns "
        "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 "
        "AND NOT a.attisdropped WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') "
        "AND EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = c.oid AND b.attname = 'bot_id') "
        "GROUP BY c.oid ORDER BY c.relispartition, 1"
    )
    return [
        Table(
            row["name"].removeprefix(f"{SCHEMA}."), row["kind"], row["part"], tuple(row["columns"])
        )
        for row in rows
    ]


async def seed(site: Site, admin: asyncpg.Connection, tables: list[Table]) -> None:
    """One row of each bot in each table, as the superuser."""
    marks = {VICTIM: (MARK, NUMBER), THIEF: ("mine", 1_111_111)}
    for bot_id, (mark, number) in marks.items():
        for table in tables:
            if table.is_view or table.is_partition:
                continue
            row = table.row(bot_id, mark, number)
            await admin.execute(
                f"INSERT INTO {SCHEMA}.{table.name} ({', '.join(row)}) "
                f"VALUES ({', '.join(row.values())})"
            )


async def state(admin: asyncpg.Connection, tables: list[Table]) -> dict[str, str]:
    """What there is of everybody but the thief, and who may do what."""
    found = {}
    for table in tables:
        if not table.is_view and not table.is_partition:
            found[table.name] = await admin.fetchval(
                "SELECT string_agg(t::text, E'\\n' ORDER BY t::text) "
                f"FROM {SCHEMA}.{table.name} t WHERE bot_id <> '{THIEF}'"
            )
    rights = "SELECT string_agg(t::text, E'\\n' ORDER BY t::text) FROM {} t"
    for catalogue in ("pg_policy", "pg_auth_members", "pg_namespace", "pg_proc", "pg_trigger"):
        found[catalogue] = await admin.fetchval(rights.format(catalogue))
    found["roles"] = await admin.fetchval(
        "SELECT string_agg(t::text, E'\\n' ORDER BY rolname) FROM (SELECT * FROM pg_authid "
        f"WHERE rolname <> '{SHAPE.bot_role(THIEF)}') t"
    )
    found["class"] = await admin.fetchval(
        "SELECT string_agg(concat_ws(' ', relname, relowner, relacl, relrowsecurity, "
        "relforcerowsecurity), E'\\n' ORDER BY oid) FROM pg_class WHERE relkind <> 't'"
    )
    return found


@pytest.fixture(scope="module", params=sources())
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with place_for(USERS[0]) as place:
        service = Service(place, "postgres", "--source", request.param)
        service.ready()
        password = (place.state / "postgres.password").read_text().strip()
        uid = (place.files("postgres") / "data").stat().st_uid
        made = Site(str(place.sockets("postgres")), password, uid)
        try:
            asyncio.run(_prepare(made))
            yield made
        finally:
            service.end()


async def _prepare(site: Site) -> None:
    await Migrations(site.address(), shape=SHAPE).migrate()
    admin = await site.admin()
    for bot_id in (VICTIM, THIEF):
        site.passwords[bot_id] = await put_bot(admin, SHAPE, bot_id)
    await seed(site, admin, await relations(admin))
    await admin.execute("ANALYZE")
    await admin.close()


@pytest.fixture
async def admin(site: Site) -> AsyncIterator[asyncpg.Connection]:
    connection = await site.admin()
    yield connection
    await connection.close()


# What attacks there are


def on_table(table: Table) -> Iterator[str]:
    """Statements against one relation."""
    t = f"{SCHEMA}.{table.name}"
    theirs = f"bot_id = '{VICTIM}'"
    exists = f"SELECT '{MARK[:3]}' || '{MARK[3:]}' FROM {t} WHERE {theirs}"
    row = table.row(VICTIM, TRACE, 6_666_666)
    names, values = ", ".join(row), ", ".join(row.values())
    same = table.row(VICTIM, MARK.lower(), NUMBER)
    others = [(name, kind) for name, kind, _ in table.columns if name != "bot_id"]
    text = next((name for name, kind in others if kind == "text"), others[0][0])
    yield f"UPDATE {t} SET bot_id = '{VICTIM}'"
    yield f"UPDATE {t} SET bot_id = '{VICTIM}' WHERE bot_id = '{THIEF}' RETURNING *"
    yield f"SELECT * FROM {t}"
    yield f"TABLE {t}"
    yield f"SELECT * FROM ONLY {t}"
    yield f"SELECT t FROM {t} t WHERE {theirs}"
    yield f"SELECT row_to_json(t) FROM {t} t"
    yield exists
    yield f"{exists} AND current_setting('is_superuser') = 'off'"
    yield f"{exists} OR bot_id <> '{THIEF}'"
    yield f"{exists} UNION ALL SELECT 'x'"
    yield f"SELECT ({exists} LIMIT 1)"
    yield f"WITH x AS MATERIALIZED (SELECT * FROM {t}) SELECT * FROM x WHERE {theirs}"
    yield f"SELECT s.* FROM (VALUES ('{VICTIM}')) v(b), LATERAL (SELECT * FROM {t} WHERE bot_id = b) s"
    yield f"SELECT * FROM {t} a FULL JOIN {t} b ON a.bot_id <> b.bot_id"
    yield f"SELECT * FROM {t} TABLESAMPLE SYSTEM (100)"
    yield f"SELECT * FROM {t} WHERE ctid = '(0,1)'"
    yield f"SELECT tableoid, ctid, xmin, * FROM {t} WHERE {theirs}"
    yield f"{exists} FOR UPDATE"
    yield f"{exists} FOR KEY SHARE SKIP LOCKED"
    yield f"SELECT string_agg(t::text, ',') FROM {t} t"
    yield f"SELECT min({text}), max({text}), array_agg({text}) FROM {t}"
    yield f"SELECT {text}, count(*) OVER () FROM {t}"
    yield f"SET row_security = off; SELECT * FROM {t}"
    # Errors and side effects that tell of rows which the result does not have.
    yield f"SELECT ({text}::text)::int FROM {t}"
    yield f"SELECT * FROM {t} WHERE ({text}::text)::int = 0"
    yield f"SELECT * FROM {t} WHERE (t::text)::int = 0".replace(f"{t} WHERE", f"{t} t WHERE")
    yield f"SELECT * FROM {t} WHERE 1 / (CASE WHEN {theirs} THEN 0 ELSE 1 END) = 1"
    yield f"SELECT * FROM {t} WHERE bot_id = '{VICTIM}' AND pg_sleep(0) IS NULL"
    yield f"SELECT * FROM {t} WHERE json_build_object('a', {text})::text::xml IS NULL"
    yield f"SELECT * FROM {t} WHERE set_config('dims.seen', {text}::text, false) IS NULL"
    yield "SELECT current_setting('dims.seen', true)"
    yield f"EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM {t} WHERE {theirs}"
    yield f"EXPLAIN (FORMAT JSON) SELECT * FROM {t} WHERE {text}::text > ''"
    yield f"DO $$ DECLARE r record; BEGIN FOR r IN SELECT * FROM {t} LOOP RAISE NOTICE '%', r; END LOOP; END $$"
    yield (
        f"DO $$ DECLARE r text; BEGIN SELECT x::text INTO r FROM {t} x WHERE {theirs}; "
        "RAISE EXCEPTION '%', r; END $$"
    )
    yield f"SELECT query_to_xml('SELECT * FROM {t}', true, false, '')"
    yield f"SELECT table_to_xml('{t}', true, false, '')"
    yield f"SELECT * FROM ts_stat('SELECT to_tsvector(x::text) FROM {t} x')"
    yield f"PREPARE steal AS SELECT * FROM {t}; EXECUTE steal; DEALLOCATE steal"
    yield f"BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM {t}; COMMIT; FETCH ALL FROM c; CLOSE c"
    yield f"CREATE TEMP TABLE loot AS SELECT * FROM {t}"
    yield f"SELECT * INTO loot FROM {t}"
    yield f"CREATE TABLE loot (LIKE {t} INCLUDING ALL)"
    yield f"CREATE TABLE loot () INHERITS ({t})"
    yield f"CREATE VIEW loot AS SELECT * FROM {t}"
    yield f"CREATE MATERIALIZED VIEW loot AS SELECT * FROM {t}"
    # Writing.
    yield f"INSERT INTO {t} ({names}) VALUES ({values})"
    yield f"INSERT INTO {t} ({names}) VALUES ({values}) RETURNING *"
    yield f"INSERT INTO {t} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})"
    yield f"INSERT INTO {t} ({names}) VALUES ({values}) ON CONFLICT DO NOTHING"
    yield f"INSERT INTO {t} ({', '.join(same)}) VALUES ({', '.join(same.values())})"
    yield f"INSERT INTO {t} ({', '.join(same)}) VALUES ({', '.join(same.values())}) ON CONFLICT DO NOTHING RETURNING *"
    own = {**same, "bot_id": f"'{THIEF}'"}
    for conflict in ("", " ON CONFLICT DO NOTHING RETURNING bot_id"):
        insert = f"INSERT INTO {t} ({', '.join(own)}) VALUES ({', '.join(own.values())})"
        yield f"BEGIN; {insert}{conflict}; ROLLBACK"
    yield f"INSERT INTO {t} SELECT * FROM {t} WHERE {theirs}"
    yield f"UPDATE {t} SET {text} = '{TRACE}' WHERE {theirs} RETURNING *"
    yield f"UPDATE {t} SET {text} = {text}"
    yield f"UPDATE {t} a SET {text} = b.{text} FROM {t} b WHERE b.{theirs}"
    yield f"WITH x AS (UPDATE {t} SET {text} = '{TRACE}' WHERE {theirs} RETURNING *) SELECT * FROM x"
    yield (
        f"MERGE INTO {t} a USING (VALUES ('{VICTIM}')) v(b) ON a.bot_id = v.b "
        "WHEN MATCHED THEN DELETE"
    )
    yield (
        f"MERGE INTO {t} a USING (VALUES ('{VICTIM}')) v(b) ON a.bot_id = v.b AND false "
        f"WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
    )
    yield f"DELETE FROM {t} WHERE {theirs} RETURNING *"
    yield f"DELETE FROM {t} a USING {t} b WHERE b.{theirs} OR a.{theirs}"
    yield f"TRUNCATE {t}"
    yield f"TRUNCATE {t} CASCADE"
    yield f"LOCK TABLE {t} IN ACCESS EXCLUSIVE MODE"
    # The definition.
    role = quoted(SHAPE.bot_role(THIEF))
    yield f"ALTER TABLE {t} DISABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {t} OWNER TO {role}"
    yield f"ALTER TABLE {t} ADD COLUMN loot text"
    yield f"ALTER TABLE {t} DISABLE TRIGGER ALL"
    yield f"CREATE POLICY loot ON {t} USING (true)"
    yield f"ALTER POLICY tenant ON {t} USING (true)"
    yield f"DROP POLICY tenant ON {t}"
    yield f"CREATE RULE loot AS ON SELECT TO {t} DO INSTEAD SELECT 1"
    yield f"CREATE TRIGGER loot AFTER INSERT ON {t} FOR EACH ROW EXECUTE FUNCTION dims.audit_row('a', 'b', '')"
    yield f"CREATE INDEX ON {t} (bot_id)"
    yield f"CREATE STATISTICS loot ON bot_id, {text} FROM {t}"
    yield f"GRANT ALL ON {t} TO PUBLIC"
    yield f"GRANT ALL ON {t} TO {role}"
    yield f"COMMENT ON TABLE {t} IS '{TRACE}'"
    yield f"DROP TABLE {t} CASCADE"
    yield f"DROP VIEW {t} CASCADE"
    # The disk of the server.
    yield f"COPY {t} TO '/tmp/dims-loot'"
    yield f"COPY {t} TO PROGRAM 'cat > /tmp/dims-loot'"
    yield f"COPY {t} FROM '/etc/passwd'"
    yield f"DELETE FROM {t}"


def copies(table: Table) -> Iterator[tuple[str, Act]]:
    """COPY, which travels in a protocol of its own."""
    row = table.row(VICTIM, TRACE, 5_555_555)
    given = [name for name in row if row[name][0] != "m" and row[name] != "now()"]
    line = "\t".join(row[name].split("'::")[0].strip("'") for name in given) + "\n"

    async def out(connection: asyncpg.Connection) -> object:
        sink = Sink()
        try:
            await connection.copy_from_table(table.name, schema_name=SCHEMA, output=sink)
        finally:
            assert MARK.encode() not in sink.got
        return bytes(sink.got)

    async def out_query(connection: asyncpg.Connection) -> object:
        sink = Sink()
        query = f"SELECT * FROM {SCHEMA}.{table.name} WHERE bot_id <> '{THIEF}'"
        await connection.copy_from_query(query, output=sink)
        return bytes(sink.got)

    async def into(connection: asyncpg.Connection) -> object:
        return await connection.copy_to_table(
            table.name, schema_name=SCHEMA, columns=given, source=Source_(line.encode())
        )

    yield f"COPY {table.name} TO STDOUT", out
    yield f"COPY (SELECT {table.name}) TO STDOUT", out_query
    yield f"COPY {table.name} FROM STDIN", into


class Sink:
    """A file that asyncpg writes to."""

    def __init__(self) -> None:
        self.got = bytearray()

    def write(self, data: bytes) -> None:
        self.got += data


class Source_:  # noqa: N801 (Source is the programs')
    """A file that asyncpg reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, _: int) -> bytes:
        data, self._data = self._data, b""
        return data


def becoming(tables: list[Table]) -> Iterator[str]:
    """Ways to be somebody else, or to make the server believe it."""
    look = "; ".join(
        f"SELECT * FROM {SCHEMA}.{name}" for name in ("messages", "sessions", "entities")
    )
    victim = SHAPE.bot_role(VICTIM)
    others = (SHAPE.owner, SHAPE.migrator, SHAPE.operator, SHAPE.auditor, SHAPE.bot, victim, "dims",
              "pg_read_all_data", "pg_write_all_data", "pg_monitor", "pg_execute_server_program",
              "none")  # fmt: skip
    for other in others:
        name = quoted(other) if other != "none" else "none"
        yield f"SET ROLE {name}; {look}"
        yield f"BEGIN; SET LOCAL ROLE {name}; {look}; COMMIT"
        yield f"SELECT set_config('role', '{other}', false); {look}"
        yield f"SET SESSION AUTHORIZATION {name}; {look}" if other != "none" else look
        yield f"SELECT set_config('session_authorization', '{other}', false); {look}"
        yield f"GRANT {name} TO {quoted(SHAPE.bot_role(THIEF))}; SET ROLE {name}; {look}"
        yield f"ALTER ROLE {quoted(SHAPE.bot_role(THIEF))} SET role = '{other}'"
        yield f"ALTER ROLE {name} PASSWORD 'x'"
        yield f"ALTER ROLE {name} SUPERUSER"
        yield f"DROP OWNED BY {name}"
        yield f"REASSIGN OWNED BY {name} TO {quoted(SHAPE.bot_role(THIEF))}"
        yield f"DROP ROLE {name}"
    me = quoted(SHAPE.bot_role(THIEF))
    for what in ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION",
                 "CONNECTION LIMIT -1"):  # fmt: skip
        yield f"ALTER ROLE {me} {what}"
    yield f"ALTER ROLE {me} RENAME TO {quoted(SHAPE.bot_role('loot'))}"
    yield f"GRANT {quoted(SHAPE.bot)} TO PUBLIC"
    yield f"GRANT {quoted(victim)} TO {me}"
    yield "CREATE ROLE loot SUPERUSER LOGIN"
    yield f"CREATE ROLE {quoted(SHAPE.bot_role('loot'))} LOGIN"
    for name in ("dims.bot_id", "dims.current_bot", "dims.tenant", "app.bot_id", "session_user",
                 "dims.user", "row_security", "is_superuser", "session_preload_libraries",
                 "local_preload_libraries", "search_path", "session_replication_role",
                 "default_tablespace", "log_statement", "plpgsql.variable_conflict"):  # fmt: skip
        for value in (VICTIM, victim, "off", "replica"):
            yield f"SELECT set_config('{name}', '{value}', false); {look}"
    yield "RESET ALL"
    # Other functions, operators and types in the place of ours.
    body = f"RETURNS text LANGUAGE sql AS $$ SELECT '{VICTIM}'::text $$"
    for place in ("dims", "public", "pg_temp", "pg_catalog"):
        yield f"CREATE OR REPLACE FUNCTION {place}.current_bot() {body}"
        yield f"CREATE FUNCTION {place}.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        yield f"CREATE FUNCTION {place}.substr(text, integer) {body}"
        yield f"CREATE TABLE {place}.messages (bot_id text)"
        yield "CREATE TEMP TABLE audit_log (bot_id text)"
        yield f"SET search_path = {place}, pg_catalog; SELECT * FROM dims.messages"
        yield f"SET search_path = pg_temp, {place}; {look}"
        yield "RESET search_path"
    yield "CREATE SCHEMA loot"
    yield "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
    yield "SELECT * FROM dims.messages WHERE pg_temp.leak(text)"
    yield "CREATE OPERATOR pg_temp.<<<< (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)"
    yield "DROP FUNCTION dims.current_bot() CASCADE"
    yield f"ALTER FUNCTION dims.current_bot() OWNER TO {me}"
    yield "ALTER FUNCTION dims.current_bot() SECURITY DEFINER SET row_security = off"
    yield "DO $$ BEGIN PERFORM dims.audit_row(); END $$"
    yield "SELECT dims.make_audit_months(500)"
    yield "SELECT dims.drop_audit_months('infinity')"
    yield "CREATE EVENT TRIGGER loot ON ddl_command_start EXECUTE FUNCTION dims.audit_row()"
    yield "SELECT * FROM dims.installation"
    yield "UPDATE dims.installation SET prefix = 'loot'"
    yield "UPDATE dims.alembic_version SET version_num = '9999'"
    yield "CREATE EXTENSION dblink"
    yield "CREATE EXTENSION file_fdw"
    yield "CREATE EXTENSION plpython3u"
    yield "CREATE SERVER loot FOREIGN DATA WRAPPER postgres_fdw"
    yield "LOAD 'auto_explain'"
    yield "CREATE LANGUAGE plperlu"
    yield "CREATE PUBLICATION loot FOR ALL TABLES"
    yield "SELECT pg_create_logical_replication_slot('loot', 'test_decoding')"
    yield "SELECT pg_export_snapshot()"
    yield "CREATE DATABASE loot TEMPLATE postgres"
    yield "CREATE TABLESPACE loot LOCATION '/tmp'"
    yield "ALTER DATABASE postgres SET row_security = off"
    yield "ALTER SYSTEM SET log_statement = 'all'"
    yield "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC"
    yield f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(SHAPE.owner)} GRANT ALL ON TABLES TO PUBLIC"
    yield "SECURITY LABEL ON ROLE dims IS 'x'"


def snooping(victim_pid: int) -> Iterator[str]:
    """What the server itself knows of others."""
    for name in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic", "pg_authid",
                 "pg_shadow", "pg_user_mapping", "pg_user_mappings", "pg_largeobject",
                 "pg_statistic_ext_data", "pg_stat_activity", "pg_stat_statements", "pg_cursors",
                 "pg_prepared_statements", "pg_prepared_xacts", "pg_locks", "pg_hba_file_rules",
                 "pg_file_settings", "pg_settings", "pg_db_role_setting", "pg_backend_memory_contexts",
                 "pg_stat_user_tables", "pg_stat_user_functions", "pg_stat_io", "pg_subscription",
                 "pg_seclabels", "pg_replication_slots", "pg_stat_ssl", "pg_config", "pg_views",
                 "pg_rules", "pg_policies", "pg_matviews", "pg_description", "pg_shdescription",
                 "information_schema.column_privileges", "pg_class", "pg_attrdef", "pg_roles",
                 "pg_stat_progress_copy", "pg_shmem_allocations"):  # fmt: skip
        yield f"SELECT x::text FROM {name} x"
    yield f"SELECT pg_stat_get_activity({victim_pid})::text"
    yield "SELECT pg_stat_get_backend_activity(i) FROM pg_stat_get_backend_idset() i"
    yield f"SELECT pg_terminate_backend({victim_pid})"
    yield f"SELECT pg_cancel_backend({victim_pid})"
    yield f"SELECT pg_log_backend_memory_contexts({victim_pid})"
    yield "SELECT pg_reload_conf()"
    yield "SELECT pg_rotate_logfile()"
    yield "SELECT pg_switch_wal()"
    yield "SELECT pg_stat_reset()"
    yield "SELECT pg_read_file('PG_VERSION')"
    yield "SELECT pg_read_binary_file('global/pg_control')"
    yield "SELECT pg_read_file(pg_relation_filepath('dims.messages_p0'))"
    yield "SELECT * FROM pg_ls_dir('.')"
    yield "SELECT * FROM pg_ls_logdir()"
    yield "SELECT pg_stat_file('PG_VERSION')"
    yield "SELECT pg_current_logfile()"
    yield "SELECT lo_create(0)"
    yield "SELECT lo_from_bytea(0, 'x')"
    yield "SELECT lo_import('/etc/passwd')"
    yield "SELECT lo_get(loid) FROM pg_largeobject_metadata"
    yield "SELECT lo_export(1, '/tmp/dims-loot')"
    yield "SELECT pg_advisory_lock(1)"
    yield "SELECT pg_try_advisory_xact_lock(1)"
    yield "SELECT pg_advisory_unlock_all()"
    yield "SELECT database_to_xml(true, false, '')"
    yield "SELECT schema_to_xml('dims', true, false, '')"
    yield "SELECT pg_column_size(x), pg_get_viewdef('dims.recent_errors'::regclass) FROM dims.messages x"
    yield "SELECT pg_sequence_last_value('dims.messages'::regclass)"
    yield "SELECT currtid2('dims.messages_p0', '(0,1)')"
    yield "SELECT pg_partition_root('dims.messages_p0'), pg_total_relation_size('dims.messages_p0')"
    yield "LISTEN everything"
    yield "VACUUM"
    yield "ANALYZE VERBOSE"
    yield "CLUSTER"
    yield "REINDEX SCHEMA dims"
    yield "CHECKPOINT"
    yield "PREPARE TRANSACTION 'loot'"
    yield "DISCARD ALL"


def statement(sql: str) -> tuple[str, Act]:
    """An attack that is SQL: rows, where it is one statement that has some, else the last one's."""

    async def act(connection: asyncpg.Connection) -> object:
        if ";" in sql and not sql.startswith("DO"):
            return [await connection.fetch(part) for part in sql.split("; ")]
        return await connection.fetch(sql)

    return sql, act


class Attempt:
    """Tries attacks one after another, each as if it were the first."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self.tried = 0
        self.refused = 0
        self.leaks: list[str] = []
        self.odd: list[str] = []
        """What failed on our side of the connection, and so may not have been tried at all."""

    async def all(self, attacks: Iterator[tuple[str, Act]]) -> None:
        connection = await self._connect()
        for what, act in attacks:
            said: list[str] = []
            listen = lambda _, message, said=said: said.append(repr(message.as_dict()))  # noqa: E731
            connection.add_log_listener(listen)
            try:
                said.append(repr(await act(connection)))
            except asyncpg.PostgresError as error:
                self.refused += 1
                said.append(f"{error} {error.as_dict() if hasattr(error, 'as_dict') else ''}")
                said.append(repr(vars(error)))
            except (
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
                ValueError,
                OSError,
            ) as error:
                self.refused += 1
                self.odd.append(f"{what}: {error!r}")
                said.append(repr(error))
            self.tried += 1
            shown = " ".join(said)
            # What the attack itself says is no leak, what comes back is.
            if any(mark in shown and mark not in what for mark in (MARK, str(NUMBER))):
                self.leaks.append(f"{what}: {shown[:500]}")
            if not connection.is_closed():
                connection.remove_log_listener(listen)
            connection = await self._again(connection)
        await connection.close()

    async def _again(self, connection: asyncpg.Connection) -> asyncpg.Connection:
        """The same connection as it was; a new one where that cannot be."""
        with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            await connection.execute("RESET ALL")
            await connection.execute("SET SESSION AUTHORIZATION DEFAULT; RESET ROLE")
            return connection
        connection.terminate()
        return await self._connect()


def strangers(site: Site) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ways to come in as somebody else, with what the thief has."""
    victim, me = SHAPE.bot_role(VICTIM), SHAPE.bot_role(THIEF)
    others = (victim, SHAPE.owner, SHAPE.migrator, SHAPE.operator, SHAPE.auditor, SHAPE.bot,
              "dims", "postgres", "pg_monitor", "pg_database_owner")  # fmt: skip
    own = site.passwords[THIEF]
    for other in others:
        for password in (own, "", other, verifier(own), "\0" * 3 and " "):
            yield f"log in as {other}", {"user": other, "password": password}
        for name in ("role", "session_authorization"):
            yield f"{name} {other} at the start", {"server_settings": {name: other}}
        yield f"-c role={other}", {"server_settings": {"options": f"-c role={other}"}}
    for name, value in (("replication", "database"), ("row_security", "off"),
                        ("session_replication_role", "replica"), ("is_superuser", "on"),
                        ("options", "-c session_replication_role=replica"),
                        ("dims.bot_id", VICTIM)):  # fmt: skip
        yield f"{name}={value} at the start", {"server_settings": {name: value}}
    for database in ("template0", "template1", "postgres"):
        yield f"database {database}", {"user": me, "database": database}


async def assault_doors(site: Site, **options: Any) -> tuple[int, list[str]]:
    """Comes in every way there is; how many were tried, and where another's rows were seen."""
    tried, leaks = 0, []
    for what, told in strangers(site):
        tried += 1
        try:
            connection = await site.bot(THIEF, **{**options, **told})
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            continue
        for table in ("messages", "sessions", "bots"):
            with contextlib.suppress(asyncpg.PostgresError):
                rows = await connection.fetch(f"SELECT * FROM {SCHEMA}.{table}")
                leaks += [what for row in rows if row["bot_id"] != THIEF]
        await connection.close()
        if told.get("user", SHAPE.bot_role(THIEF)) != SHAPE.bot_role(THIEF):
            leaks.append(f"{what}: came in")
    return tried, leaks


async def assault(site: Site, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> Attempt:
    """All attacks; the victim works at the same time."""
    admin = await site.admin()
    tables = await relations(admin)
    before = await state(admin, tables)
    assert all(str(NUMBER) in before[t.name] or MARK in before[t.name]
               for t in tables if t.name in before), "the victim has rows"  # fmt: skip
    victim = await site.bot(VICTIM)
    await victim.fetch(f"SELECT '{MARK}' FROM dims.messages WHERE chat_id = {NUMBER}")
    attempt = Attempt(connect)
    for table in tables:
        await attempt.all(map(statement, on_table(table)))
        await attempt.all(copies(table))
        now = await state(admin, tables)
        changed = [name for name, was in before.items() if was != now[name]]
        assert not changed, (table.name, changed)
    await attempt.all(map(statement, becoming(tables)))
    await attempt.all(map(statement, snooping(victim.get_server_pid())))
    assert not victim.is_closed()
    await victim.close()
    assert await state(admin, tables) == before
    await seed_again(site, admin, tables)
    await admin.close()
    return attempt


async def seed_again(site: Site, admin: asyncpg.Connection, tables: list[Table]) -> None:
    """Puts back what the thief destroyed of its own."""
    await tenancy.erase_bot(admin, SHAPE, THIEF)
    for table in tables:
        if not table.is_view and not table.is_partition:
            row = table.row(THIEF, "mine", 1_111_111)
            await admin.execute(
                f"INSERT INTO {SCHEMA}.{table.name} ({', '.join(row)}) "
                f"VALUES ({', '.join(row.values())}) ON CONFLICT DO NOTHING"
            )


@pytest.mark.timeout(400)
async def test_a_bot_reaches_no_row_of_another(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt = await assault(site, partial(site.bot, THIEF))
    with capsys.disabled():
        sys.stdout.write(
            f"\n{attempt.tried} attacks, {attempt.refused} refused, {len(attempt.leaks)} leaks"
        )
    assert attempt.leaks == []
    assert attempt.odd == []
    assert attempt.tried > 1000


async def test_nobody_comes_in_as_somebody_else(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    tried, leaks = await assault_doors(site)
    with capsys.disabled():
        sys.stdout.write(f"\n{tried} ways in, {len(leaks)} leaks\n")
    assert leaks == []


async def test_every_relation_with_a_bot_id_is_guarded(admin: asyncpg.Connection) -> None:
    """Not a list of tables but rules, for tables that come later."""
    tables = await relations(admin)
    assert {"messages", "sessions", "entities", "audit_log"} <= {table.name for table in tables}
    unguarded = await admin.fetch(
        "SELECT c.oid::regclass FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
        "WHERE a.attname = 'bot_id' AND c.relkind IN ('r', 'p', 'f', 'm') "
        "AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
    )
    assert unguarded == []
    open_views = await admin.fetch(
        "SELECT oid::regclass FROM pg_class WHERE relkind = 'v' "
        "AND relnamespace = 'dims'::regnamespace "
        "AND NOT coalesce('security_invoker=true' = ANY (reloptions), false)"
    )
    assert open_views == []
    open_partitions = await admin.fetch(
        "SELECT oid::regclass FROM pg_class c WHERE relispartition AND relkind IN ('r', 'p') "
        "AND EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner)"
    )
    assert open_partitions == []
    keys = await admin.fetch(
        "SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
        "WHERE i.indisunique AND a.attname <> 'bot_id' AND EXISTS (SELECT FROM pg_attribute b "
        "WHERE b.attrelid = c.oid AND b.attname = 'bot_id')"
    )
    assert keys == []
    for table in tables:
        if table.is_view or table.is_partition:
            continue
        policies = await admin.fetch(
            "SELECT roles::text[], qual, with_check FROM pg_policies WHERE tablename = $1",
            table.name,
        )
        assert any(policy["roles"] == ["public"] for policy in policies), table.name
        for policy in policies:
            for condition in (policy["qual"], policy["with_check"]):
                assert "current_bot()" in condition, (table.name, condition)
                assert "current_setting" not in condition
    mighty = await admin.fetch(
        "SELECT proname FROM pg_proc WHERE prosecdef AND pronamespace = 'dims'::regnamespace"
    )
    assert [row["proname"] for row in mighty] == ["audit_row"]
    public = await admin.fetch(
        "SELECT oid::regprocedure FROM pg_proc p, "
        "aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a "
        "WHERE pronamespace = 'dims'::regnamespace AND a.grantee = 0"
    )
    assert public == []


async def test_a_database_with_bots_shows_no_drift(site: Site) -> None:
    assert [str(one) for one in await Migrations(site.address(), shape=SHAPE).check()] == []


async def test_a_bot_reaches_its_own_rows(site: Site) -> None:
    """Otherwise the attacks above would prove nothing."""
    bot = await site.bot(VICTIM)
    assert await bot.fetchval("SELECT dims.current_bot()") == VICTIM
    for table in ("bots", "messages", "sessions", "entities", "inbox", "outbox", "personas"):
        assert [row["bot_id"] for row in await bot.fetch(f"SELECT bot_id FROM {table}")] == [VICTIM]
    put = "INSERT INTO chats (bot_id, chat_id, kind) VALUES ($1, 5, 'private')"
    await bot.execute(put, VICTIM)
    assert await bot.execute("UPDATE chats SET title = 'x' WHERE chat_id = 5") == "UPDATE 1"
    assert await bot.execute("DELETE FROM chats WHERE chat_id = 5") == "DELETE 1"
    plan = "\n".join(
        row[0]
        for row in await bot.fetch(
            "EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM messages WHERE chat_id = 1 AND message_id = 2"
        )
    )
    # The policy is a condition of the key, and three of four partitions are not looked at.
    assert f"Subplans Removed: {SHAPE.partitions - 1}" in plan or plan.count("never executed") >= 3
    await bot.close()


async def test_roles_come_and_go_with_bots(site: Site, admin: asyncpg.Connection) -> None:
    site.passwords["gone"] = former = await put_bot(admin, SHAPE, "gone")
    kept = await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname LIKE '%gone'")
    assert kept.startswith("SCRAM-SHA-256$4096:")
    bot = await site.bot("gone")
    site.passwords["gone"] = await put_bot(admin, SHAPE, "gone")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await site.bot("gone", password=former)
    assert await bot.fetchval("SELECT dims.current_bot()") == "gone"
    assert await tenancy.drop_bot_role(admin, SHAPE, "gone")
    # Whichever way asyncpg says that the connection was cut off.
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError,
                        asyncpg.InternalClientError, OSError)):  # fmt: skip
        await bot.fetch("SELECT 1")
    bot.terminate()
    with pytest.raises(asyncpg.PostgresError):
        await site.bot("gone")
    assert not await tenancy.drop_bot_role(admin, SHAPE, "gone")
    for name in ("", "A", 'x" SUPERUSER', "a" * 33, "ä"):
        with pytest.raises(UsageError):
            await tenancy.drop_bot_role(admin, SHAPE, name)


async def test_no_password_reaches_the_log_of_the_server(
    site: Site, admin: asyncpg.Connection
) -> None:
    """Not even of a server that logs every statement: it is never told."""
    said: list[str] = []
    admin.add_log_listener(lambda _, message: said.append(str(message)))
    await admin.execute("SET log_statement = 'all'; SET client_min_messages = 'log'")
    password = await put_bot(admin, SHAPE, "quiet")
    again = await put_bot(admin, SHAPE, "quiet")
    await tenancy.drop_bot_role(admin, SHAPE, "quiet")
    await admin.execute("RESET ALL")
    text = " ".join(said)
    assert "CREATE ROLE" in text
    assert password not in text
    assert again not in text


async def test_an_erased_bot_leaves_nothing_but_who_erased_it(
    admin: asyncpg.Connection, site: Site
) -> None:
    await admin.execute("INSERT INTO dims.bots (bot_id) VALUES ('leaver')")
    await admin.execute(
        "INSERT INTO dims.messages (bot_id, chat_id, message_id) VALUES ('leaver', 1, 1)"
    )
    assert await tenancy.erase_bot(admin, SHAPE, "leaver") == 2
    left = "SELECT actor, action, table_name, before, after FROM dims.audit_log WHERE bot_id = $1"
    owner = await admin.fetchval("SELECT session_user::text")
    assert [tuple(row) for row in await admin.fetch(left, "leaver")] == [
        (owner, "delete", "bots", None, None)
    ]


async def audited(admin: asyncpg.Connection, correlation: str) -> list[dict[str, Any]]:
    rows = await admin.fetch(
        "SELECT * FROM dims.audit_log WHERE correlation_id = $1 ORDER BY occurred_at, action",
        correlation,
    )
    return [
        {**row, **{n: row[n] and json.loads(row[n]) for n in ("row_key", "before", "after")}}
        for row in rows
    ]


async def test_the_audit_log_says_who_did_what_to_which_row(
    site: Site, admin: asyncpg.Connection
) -> None:
    bot = await site.bot(VICTIM)
    for statement_ in (
        "INSERT INTO bot_settings (bot_id, key, value) VALUES ('alpha', 'audit', '1')",
        "UPDATE bot_settings SET value = '2' WHERE key = 'audit'",
        "DELETE FROM bot_settings WHERE key = 'audit'",
    ):
        async with bot.transaction():
            await bot.execute(f"SET LOCAL {CORRELATION} = 'c1'")
            await bot.execute(statement_)
    await bot.close()
    done = await audited(admin, "c1")
    assert [row["action"] for row in done] == ["insert", "update", "delete"]
    assert {row["actor"] for row in done} == {SHAPE.bot_role(VICTIM)}
    assert {row["table_name"] for row in done} == {"bot_settings"}
    assert {row["bot_id"] for row in done} == {VICTIM}
    assert done[1]["row_key"] == {"bot_id": VICTIM, "key": "audit"}
    assert (done[1]["before"], done[1]["after"]) == ({"value": 1}, {"value": 2})
    assert done[0]["before"] is None
    assert done[2]["after"] is None


async def test_no_secret_is_in_the_audit_log(site: Site, admin: asyncpg.Connection) -> None:
    secret = "k3y" * 100
    async with admin.transaction():
        await admin.execute(f"SET LOCAL {CORRELATION} = 'c2'")
        await admin.execute(
            "INSERT INTO dims.sessions (bot_id, dc_id, server_address, port, auth_key) "
            "VALUES ('keys', 1, 'x', 1, $1)", secret.encode(),
        )  # fmt: skip
        await admin.execute("UPDATE dims.sessions SET auth_key = auth_key || 'x' WHERE dc_id = 1")
        await admin.execute(
            "INSERT INTO dims.entities (bot_id, entity_id, access_hash) VALUES ('keys', 1, 987654321)"
        )
        await admin.execute(
            "INSERT INTO dims.bot_settings (bot_id, key, value, is_secret) "
            "VALUES ('keys', 'token', '\"k3yk3y\"', true)"
        )
        await admin.execute("UPDATE dims.bot_settings SET is_secret = false WHERE key = 'token'")
    rows = await audited(admin, "c2")
    assert len(rows) == 5
    text = json.dumps(rows, default=str)
    assert "k3y" not in text
    assert secret.encode().hex()[:20] not in text
    assert "987654321" not in text
    assert [
        r["after"] for r in rows if r["table_name"] == "sessions" and r["action"] == "update"
    ] == [{"auth_key": "***"}]
    await tenancy.erase_bot(admin, SHAPE, "keys")


async def test_when_somebody_was_last_seen_is_no_change_worth_a_row(
    site: Site, admin: asyncpg.Connection
) -> None:
    await admin.execute("INSERT INTO dims.users (bot_id, user_id) VALUES ('alpha', 4711)")
    count = "SELECT count(*) FROM dims.audit_log WHERE row_key ->> 'user_id' = '4711'"
    before = await admin.fetchval(count)
    await admin.execute("UPDATE dims.users SET last_seen_at = now() WHERE user_id = 4711")
    assert await admin.fetchval(count) == before
    await admin.execute(
        "UPDATE dims.users SET last_seen_at = now(), username = 'x' WHERE user_id = 4711"
    )
    assert await admin.fetchval(count) == before + 1
    await admin.execute("DELETE FROM dims.users WHERE user_id = 4711")


async def test_traffic_of_the_bot_itself_is_not_audited_but_that_of_others_is(
    site: Site, admin: asyncpg.Connection
) -> None:
    put = "INSERT INTO dims.update_state (bot_id, entity_id, pts) VALUES ('alpha', 77, 1)"
    take = "DELETE FROM dims.update_state WHERE entity_id = 77"
    count = "SELECT count(*) FROM dims.audit_log WHERE table_name = 'update_state' AND action = $1"
    before = await admin.fetchval(count, "insert")
    bot = await site.bot(VICTIM)
    await bot.execute(put)
    await bot.execute(take)
    await bot.close()
    assert await admin.fetchval(count, "insert") == before
    await admin.execute(put)
    await admin.execute(take)
    assert await admin.fetchval(count, "insert") == before + 1


async def test_operators_and_auditors_have_what_they_need_and_no_more(
    site: Site, admin: asyncpg.Connection
) -> None:
    roles = {}
    for role in (SHAPE.operator, SHAPE.auditor):
        password = await give_password(admin, SHAPE, role)
        roles[role] = await site.bot(THIEF, user=role, password=password)
    operator, auditor = roles.values()
    tables = [t for t in await relations(admin) if not t.is_partition]
    for table in (t.name for t in tables):
        if table not in ("sessions", "entities", "inbox", "outbox"):
            await operator.fetch(f"SELECT * FROM dims.{table}")
    await operator.fetch("SELECT * FROM dims.partition_sizes")
    assert {r[0] for r in await operator.fetch("SELECT bot_id FROM dims.sessions")} >= {VICTIM}
    await operator.execute("UPDATE dims.outbox SET status = 'pending' WHERE false")
    refused = (
        "SELECT auth_key FROM dims.sessions",
        "SELECT access_hash FROM dims.entities",
        "SELECT payload FROM dims.inbox",
        "UPDATE dims.sessions SET port = 1",
        "DELETE FROM dims.messages",
        "INSERT INTO dims.audit_log (bot_id) VALUES ('x')",
        "UPDATE dims.audit_log SET actor = 'x'",
        "DELETE FROM dims.audit_log",
        "TRUNCATE dims.audit_log",
        "SELECT * FROM dims.messages_p0",
        "SELECT dims.drop_audit_months(now())",
        f"SET ROLE {SHAPE.owner}",
        "CREATE TABLE dims.x (y int)",
        "CREATE TEMP TABLE x (y int)",
    )
    for connection in (operator, auditor):
        for sql in refused:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    assert {r[0] for r in await auditor.fetch("SELECT bot_id FROM dims.audit_log")} >= {VICTIM}
    for table in (t.name for t in tables):
        if table not in ("audit_log", "bots"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await auditor.fetch(f"SELECT * FROM dims.{table}")
    for connection in roles.values():
        await connection.close()


async def test_months_of_the_audit_log_come_and_go(admin: asyncpg.Connection) -> None:
    trial = admin.transaction()
    await trial.start()
    await admin.execute(f"SET LOCAL ROLE {SHAPE.owner}")
    assert await auditing.make_months(admin) == 0
    assert await auditing.make_months(admin, auditing.MONTHS_AHEAD + 2) == 2
    kept = await admin.fetchval("SELECT count(*) FROM dims.audit_log")
    end = await admin.fetchval("SELECT now() - interval '1 month'")
    assert await auditing.drop_months(admin, end) == 0
    assert await admin.fetchval("SELECT count(*) FROM dims.audit_log") == kept
    end = await admin.fetchval("SELECT date_trunc('month', now()) + interval '32 days'")
    assert await auditing.drop_months(admin, end) == 1
    assert await admin.fetchval("SELECT count(*) FROM dims.audit_log") == 0
    await trial.rollback()


# Through a pooler


@pytest.fixture
def bouncer(site: Site, admin_roles: dict[str, str]) -> Iterator[str]:
    """The socket directory of a PgBouncer in transaction mode, which knows verifiers only."""
    with pgbouncer(site.host, site.uid, admin_roles) as directory:
        yield directory


@pytest.fixture
async def admin_roles(admin: asyncpg.Connection) -> dict[str, str]:
    return await verifiers(admin)


@pytest.mark.timeout(400)
async def test_a_bot_reaches_no_row_of_another_through_a_pooler(
    site: Site, bouncer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"host": bouncer, "statement_cache_size": 0}
    attempt = await assault(site, partial(site.bot, THIEF, **told))
    tried, leaks = await assault_doors(site, **told)
    with capsys.disabled():
        sys.stdout.write(
            f"\nPgBouncer: {attempt.tried + tried} attacks, {len(attempt.leaks + leaks)} leaks"
        )
    assert attempt.leaks + leaks == []
    assert attempt.odd == []


async def test_connections_that_are_used_again_serve_their_own_bot_only(site: Site) -> None:
    await alternate(site)


async def test_connections_of_a_pooler_serve_their_own_bot_only(site: Site, bouncer: str) -> None:
    await alternate(site, host=bouncer, statement_cache_size=0)


async def alternate(site: Site, **told: Any) -> None:
    """Both bots ask in turn, over and over, each on several connections."""
    pools = {
        bot_id: [await site.bot(bot_id, **told) for _ in range(3)] for bot_id in (VICTIM, THIEF)
    }
    query = "SELECT bot_id, session_user::text AS who FROM dims.messages WHERE chat_id > $1"

    async def use(bot_id: str, connection: asyncpg.Connection) -> None:
        for _ in range(30):
            async with connection.transaction():
                await connection.execute(f"SET LOCAL dims.correlation_id = '{bot_id}'")
                rows = await connection.fetch(query, 0)
                assert {row["bot_id"] for row in rows} == {bot_id}
                assert {row["who"] for row in rows} == {SHAPE.bot_role(bot_id)}

    prepared = (
        {bot_id: await pools[bot_id][0].prepare(query) for bot_id in pools} if not told else {}
    )
    await asyncio.gather(*(use(bot_id, one) for bot_id, pool in pools.items() for one in pool))
    for bot_id, plan in prepared.items():
        for _ in range(10):
            # From the sixth time on it is a generic plan, which must still ask who is there.
            assert {row["bot_id"] for row in await plan.fetch(0)} == {bot_id}
    for pool in pools.values():
        for connection in pool:
            await connection.close()
