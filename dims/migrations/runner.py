"""Migrations: forward, back, what would happen, where we are, whether all is as we left it.

Each call connects, works and leaves.

Each revision is one transaction together with its number, so one that fails half way leaves
nothing. A dry run is the same transaction, taken back: it holds the locks it shows while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from dims.addresses import PostgresAddress
from dims.errors import StateError, TimedOutError, UsageError
from dims.migrations import advisory_lock as locks
from dims.migrations.advisory_lock import Lock
from dims.migrations.catalogue import SchemaDifference, catalogue, differences, faults
from dims.migrations.history import BASE, HEAD, History, Revision
from dims.migrations.link import (
    DEADLOCK,
    LOCK_NOT_AVAILABLE,
    connected,
    explained,
    server_of,
    sqlstate,
)
from dims.migrations.risks import risks
from dims.migrations.steps import SHAPE
from dims.storage.admin import foundations as ground
from dims.storage.names import SCHEMA, Shape, literal, quoted

BIG_BYTES = 8 << 20
"""A table above that is big: to read it takes longer than bots should wait."""


@dataclass(frozen=True, slots=True)
class MigrationLimits:
    """How long to wait for others."""

    migration_lock_s: float = 30.0
    """For another migration to end."""
    table_lock_s: float = 2.0
    """For a table: everybody who comes later waits behind us for as long."""
    tries: int = 5
    """How often a revision is tried that did not get its tables."""
    pause_s: float = 1.0
    """Between the first two tries; it doubles."""


@dataclass(frozen=True, slots=True)
class RevisionStep:
    """One revision, forward or back."""

    revision: Revision
    forward: bool
    leads_to: str | None

    def __str__(self) -> str:
        way = "revision" if self.forward else "taking back revision"
        return f"{way} {self.revision.id} ({self.revision.title})"


@dataclass(frozen=True, slots=True)
class MigrationProgress:
    """What is being done."""

    text: str
    number: int
    """Of the step, from 1; 0 before the first."""
    steps: int
    statements: int = 0
    """Of this step, executed so far."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What was done, or in a dry run would be."""

    before: str | None
    after: str | None
    steps: tuple[str, ...]
    statements: tuple[str, ...]
    locks: tuple[Lock, ...]
    """On tables that were there before; of dry runs only."""
    is_dry: bool


@dataclass(frozen=True, slots=True)
class Status:
    """Where a database is."""

    revision: str | None
    head: str
    pending: tuple[str, ...]
    is_made: bool
    """Whether any migration ever ran."""
    is_ahead: bool
    shape: Shape
    server_version: int
    migrating: str
    """Who migrates just now; empty when nobody does."""


Tell = Callable[[MigrationProgress], None]


def _ignore(_: MigrationProgress) -> None:
    return


class Migrations:
    """The schema of one database."""

    def __init__(
        self,
        address: PostgresAddress,
        *,
        shape: Shape | None = None,
        history: History | None = None,
        limits: MigrationLimits | None = None,
        progress: Tell = _ignore,
    ) -> None:
        """`shape` is what a new database gets; one that is there keeps its partitions. Raises
        UsageError."""
        self.history = history or History()
        self._address = address
        self._shape = (shape or Shape()).check()
        self._limits = limits or MigrationLimits()
        self._progress = progress

    async def migrate(
        self, to: str = HEAD, *, dry_run: bool = False, allow_unsafe: bool = False
    ) -> MigrationReport:
        """Goes forward to a revision; makes roles and schema where there are none.

        Raises UsageError, StateError (ahead, unsafe, failed), TimedOutError, ServiceError.
        """
        target = self.history.target(to)

        def plan(at: int) -> list[RevisionStep]:
            if target < at:
                raise UsageError(
                    f"the database is at {self.history.id_at(at)}, which is after '{to}'",
                    hint=f"`dims db rollback --to {to}` goes back",
                )
            return [
                RevisionStep(revision, True, revision.id)
                for revision in self.history.revisions[at:target]
            ]

        return await self._run(plan, dry_run=dry_run, allow_unsafe=allow_unsafe)

    async def rollback(
        self,
        *,
        steps: int | None = None,
        to: str | None = None,
        dry_run: bool = False,
        allow_unsafe: bool = False,
    ) -> MigrationReport:
        """Goes back by `steps` (default 1), or `to` a revision or `base`. Roles and the empty
        schema stay. Raises as `migrate`."""
        if (steps is not None and to is not None) or (steps is not None and steps < 1):
            raise UsageError("roll back either a number of steps, 1 or more, or to a revision")

        def plan(at: int) -> list[RevisionStep]:
            target = at - (steps or 1) if to is None else self.history.target(to)
            if not 0 <= target <= at:
                raise UsageError(
                    f"the database has {at} revisions: it cannot go back to that",
                    hint=f"`--to {BASE}` takes all of them back",
                )
            return [
                RevisionStep(self.history.revisions[n - 1], False, self.history.id_at(n - 1))
                for n in range(at, target, -1)
            ]

        return await self._run(plan, dry_run=dry_run, allow_unsafe=allow_unsafe)

    async def status(self) -> Status:
        """Where the database is. Takes no lock. Raises ServiceError, StateError."""
        async with connected(self._address) as connection:
            return await connection.run_sync(self._status)

    async def check(self) -> list[SchemaDifference]:
        """What is not as the revisions make it: nothing, if all is well.

        Runs them anew beside the live schema, in a transaction that is taken back; needs the
        rights of the migrator. Raises as `migrate`.
        """
        async with self._locked() as connection:
            with explained("the check"):
                return await connection.run_sync(self._check)

    # What all of them do

    async def _run(
        self, plan: Callable[[int], list[RevisionStep]], *, dry_run: bool, allow_unsafe: bool
    ) -> MigrationReport:
        async with self._locked() as connection:
            work = _Work(self._shape, self._limits, self._progress, allow_unsafe=allow_unsafe)
            with explained("reading the state of the database"):
                before, made = await connection.run_sync(work.look)
            await connection.commit()
            steps = plan(self.history.place(before))
            if dry_run:
                with explained("the dry run"):
                    taken = await connection.run_sync(work.rehearse, steps, made=made)
            else:
                taken = []
                await self._perform(connection, work, steps, made=made)
            after = steps[-1].leads_to if steps else before
            names = tuple(str(step) for step in steps)
            return MigrationReport(before, after, names, tuple(work.said), tuple(taken), dry_run)

    async def _perform(
        self, connection: AsyncConnection, work: _Work, steps: list[RevisionStep], *, made: bool
    ) -> None:
        if not made:
            with explained("making roles and schema"):
                async with connection.begin():
                    await connection.run_sync(work.make_ground)
        for number, step in enumerate(steps, start=1):
            self._progress(MigrationProgress(str(step), number, len(steps)))
            work.number, work.steps = number, len(steps)
            await self._try(connection, work, step)

    async def _try(self, connection: AsyncConnection, work: _Work, step: RevisionStep) -> None:
        pause_s = self._limits.pause_s
        for attempt in range(1, self._limits.tries + 1):
            said = len(work.said)
            try:
                async with connection.begin():
                    await connection.run_sync(work.perform, step)
            except DBAPIError as error:
                if sqlstate(error) not in {LOCK_NOT_AVAILABLE, DEADLOCK}:
                    with explained(f"{step}, statement {work.statements},"):
                        raise
                others = await connection.run_sync(locks.in_the_way)
                await connection.rollback()
                if attempt == self._limits.tries:
                    raise TimedOutError(
                        f"{step} did not get its tables in {attempt} tries: "
                        f"{others or 'nobody'} uses them",
                        hint="try again when the fleet is quiet, or end these connections",
                    ) from error
                del work.said[said:]
                self._progress(
                    MigrationProgress(f"{step} waits for {others}", work.number, work.steps)
                )
                await asyncio.sleep(pause_s)
                pause_s *= 2
            else:
                return

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[AsyncConnection]:
        async with connected(self._address) as connection:
            await connection.run_sync(server_of)
            wait_s = self._limits.migration_lock_s
            limit_ms = max(1, int(wait_s * 1000))
            await connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{limit_ms}ms'")
            try:
                await connection.run_sync(locks.try_lock)
            except DBAPIError as error:
                await connection.rollback()
                if sqlstate(error) != LOCK_NOT_AVAILABLE:
                    with explained("taking the migration lock"):
                        raise
                who = await connection.run_sync(locks.holder) or "somebody who has left since"
                raise TimedOutError(
                    f"another migration has run for over {wait_s:g} s: {who}",
                    hint="wait for it, or end it if it is stuck: SELECT pg_terminate_backend(pid)",
                ) from error
            await connection.commit()
            # Closing the connection gives the lock back, whatever became of the transaction.
            yield connection

    def _status(self, connection: Connection) -> Status:
        server = server_of(connection)
        work = _Work(self._shape, self._limits, _ignore)
        with explained("reading the state of the database"):
            revision, made = work.look(connection)
            migrating = locks.holder(connection)
        try:
            pending = self.history.revisions[self.history.place(revision) :]
            is_ahead = False
        except StateError:
            pending, is_ahead = (), True
        return Status(
            revision=revision,
            head=self.history.head.id,
            pending=tuple(one.id for one in pending),
            is_made=made,
            is_ahead=is_ahead,
            shape=work.shape,
            server_version=server.version,
            migrating=migrating,
        )

    def _check(self, connection: Connection) -> list[SchemaDifference]:
        work = _Work(self._shape, self._limits, _ignore, allow_unsafe=True)
        revision, made = work.look(connection)
        if not made:
            raise StateError("no migration ever ran here", hint="`dims db migrate`")
        place = self.history.place(revision)
        found = catalogue(connection)
        wrong = list(faults(connection, work.shape))
        work.become_owner(connection)
        # The live schema steps aside, for us alone: nobody else sees a name before a commit.
        connection.exec_driver_sql(f"ALTER SCHEMA {SCHEMA} RENAME TO {SCHEMA}_live")
        for statement in ground.schema(work.shape):
            connection.exec_driver_sql(statement)
        for one in self.history.revisions[:place]:
            work.apply(connection, RevisionStep(one, True, one.id))
        expected = catalogue(connection)
        connection.rollback()
        return [*wrong, *differences(expected, found)]


class _Work:
    """One run: synchronous, inside of the connection; knows what was said to the server."""

    def __init__(
        self, shape: Shape, limits: MigrationLimits, progress: Tell, *, allow_unsafe: bool = False
    ) -> None:
        self.shape = shape
        self.said: list[str] = []
        self.statements = 0
        self.number = 0
        self.steps = 0
        self._limits = limits
        self._progress = progress
        self._allow_unsafe = allow_unsafe

    def look(self, connection: Connection) -> tuple[str | None, bool]:
        """The revision of the database, and whether any migration ever ran. Learns its shape."""
        # Not by to_regclass, which asks for rights that only the owner has.
        owner = connection.exec_driver_sql(
            "SELECT pg_catalog.pg_get_userbyid(n.nspowner) FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = $1 AND c.relname = 'installation'",
            (SCHEMA,),
        ).scalar_one_or_none()
        if owner is None:
            return None, False
        if owner != self.shape.owner:
            raise UsageError(
                f"this database belongs to {owner}, not to {self.shape.owner}",
                hint="set the prefix of its roles, or name another database",
            )
        self.become_owner(connection)
        row = connection.exec_driver_sql(
            f"SELECT partitions FROM {SCHEMA}.installation"  # noqa: S608 (our own name)
        ).one()
        self.shape = replace(self.shape, partitions=row.partitions)
        version = connection.exec_driver_sql(
            f"SELECT version_num FROM {SCHEMA}.alembic_version"  # noqa: S608 (our own name)
        ).scalar_one_or_none()
        connection.exec_driver_sql("RESET ROLE")
        return version, True

    def become_owner(self, connection: Connection) -> None:
        """Acts as the owner up to the end of the transaction."""
        connection.exec_driver_sql(f"SET LOCAL ROLE {quoted(self.shape.owner)}")

    def make_ground(self, connection: Connection) -> None:
        """Makes roles, rights and the empty schema."""
        server = server_of(connection)
        rows = connection.exec_driver_sql("SELECT rolname::text FROM pg_catalog.pg_roles")
        existing = {row.rolname for row in rows}
        self._progress(MigrationProgress("roles and schema", 0, self.steps))
        for statement in (
            *ground.roles(self.shape, server, existing),
            *ground.database(self.shape, server),
        ):
            self._say(connection, statement)
        self.become_owner(connection)
        for statement in ground.schema(self.shape):
            self._say(connection, statement)

    def rehearse(
        self, connection: Connection, steps: list[RevisionStep], *, made: bool
    ) -> list[Lock]:
        """Does all of it and takes it back; what it locked of what was there."""
        there = locks.tables(connection)
        try:
            if not made:
                self.make_ground(connection)
            self.steps = len(steps)
            for self.number, step in enumerate(steps, start=1):
                self._progress(MigrationProgress(str(step), self.number, self.steps))
                self.perform(connection, step)
            connection.exec_driver_sql("RESET ROLE")
            return locks.taken(connection, there)
        finally:
            connection.rollback()

    def perform(self, connection: Connection, step: RevisionStep) -> None:
        """One revision within the transaction that is open, with its number."""
        timeout_ms = max(1, int(self._limits.table_lock_s * 1000))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{timeout_ms}ms'")
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        self.become_owner(connection)
        self.statements = 0

        def listen(conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
            self._listen(conn, step, statement)

        event.listen(connection, "before_cursor_execute", listen)
        try:
            self.apply(connection, step)
        finally:
            event.remove(connection, "before_cursor_execute", listen)

    def apply(self, connection: Connection, step: RevisionStep) -> None:
        """Runs the revision's own code."""
        options = {
            "version_table_schema": SCHEMA,
            "transactional_ddl": True,
            SHAPE: self.shape,
        }
        context = MigrationContext.configure(connection, opts=options)
        module = step.revision.script.module
        with Operations.context(context):
            module.upgrade() if step.forward else module.downgrade()
        connection.exec_driver_sql(f"DELETE FROM {SCHEMA}.alembic_version")  # noqa: S608
        if step.leads_to is not None:
            # Not as a parameter: a dry run shows statements, not what goes with them.
            connection.exec_driver_sql(
                f"INSERT INTO {SCHEMA}.alembic_version (version_num) "  # noqa: S608 (our own)
                f"VALUES ({literal(step.leads_to)})"
            )

    def _say(self, connection: Connection, statement: str) -> None:
        self.said.append(statement)
        connection.exec_driver_sql(statement)

    def _listen(self, connection: Connection, step: RevisionStep, statement: str) -> None:
        if statement.startswith(_QUESTION):
            return
        self.statements += 1
        self.said.append(statement)
        self._progress(MigrationProgress(str(step), self.number, self.steps, self.statements))
        if not self._allow_unsafe:
            self._refuse_unsafe(connection, step, statement)

    def _refuse_unsafe(self, connection: Connection, step: RevisionStep, statement: str) -> None:
        for risk in risks(statement):
            if risk.table and _bytes_of(connection, risk.table) <= BIG_BYTES:
                continue
            first = " ".join(statement.split())[:80]
            raise StateError(
                f"{step} {risk.why}: {first}",
                hint="nothing was changed; `--allow-unsafe` if that is what you want",
            )


_QUESTION = "/* dims: question */"
"""Begins statements of ours, which are no part of a revision."""


def _bytes_of(connection: Connection, table: str) -> int:
    """The size of a table with its partitions; 0 for one that is not there yet."""
    return int(
        connection.exec_driver_sql(
            f"{_QUESTION} SELECT coalesce(sum(pg_table_size(relid)), 0) "  # noqa: S608 (ours)
            "FROM pg_partition_tree(to_regclass($1))",
            (table,),
        ).scalar_one()
    )
