"""`dims db migrate | rollback | check | history`: the revisions of the database."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from dims.cli.db.place import confirmed, with_database
from dims.cli.render import table
from dims.cli.where import Where, as_json, located
from dims.errors import StateError

if TYPE_CHECKING:
    from dims.config import Config
    from dims.migrations.runner import MigrationProgress, MigrationReport, Migrations
    from dims.storage.admin.administration import Reached

dry = click.option("--dry-run", is_flag=True, help="Show statements and locks; change nothing.")
unsafe = click.option(
    "--allow-unsafe", is_flag=True, help="Also steps that lose data or keep bots waiting."
)
_CLEAR_LINE = "\r\x1b[K"


@click.command()
@located
@click.option("--to", "target", default="head", metavar="REV", help="Up to this revision.")
@dry
@unsafe
@as_json
def migrate(place: Where, target: str, dry_run: bool, allow_unsafe: bool, json_: bool) -> None:
    """Bring the database to the newest revision, or to one; makes it where there is none."""

    async def work(config: Config, reached: Reached) -> MigrationReport:
        with _Progress() as progress:
            migrations = _migrations(config, reached, progress)
            return await migrations.migrate(target, dry_run=dry_run, allow_unsafe=allow_unsafe)

    _tell(with_database(place, work, may_make=True), json_)


@click.command()
@located
@click.option(
    "--steps", type=click.IntRange(1), metavar="N", help="So many revisions. [default: 1]"
)
@click.option("--to", "target", metavar="REV", help="Back to this revision, or to 'base'.")
@dry
@unsafe
@click.option("--yes", is_flag=True, help="Do not ask before data are lost.")
@as_json
def rollback(  # noqa: PLR0917 (click passes by name)
    place: Where,
    steps: int | None,
    target: str | None,
    dry_run: bool,
    allow_unsafe: bool,
    yes: bool,
    json_: bool,
) -> None:
    """Take revisions back, by default the last one. Asks before data are lost."""

    async def work(config: Config, reached: Reached) -> MigrationReport:
        with _Progress() as progress:
            migrations = _migrations(config, reached, progress)
            rehearsed = None
            if dry_run or not yes:
                rehearsed = await migrations.rollback(
                    steps=steps, to=target, dry_run=True, allow_unsafe=True
                )
                progress.end()
            if dry_run:
                assert rehearsed is not None  # noqa: S101 (just made)
                return rehearsed
            loses = _losses(rehearsed) if rehearsed is not None else set()
            if rehearsed is not None and loses:
                confirmed(
                    f"{_listed(rehearsed.steps)} {_listed(sorted(loses))}. Go on?",
                    yes=yes,
                    mend="`--yes` if that is what you want, `--dry-run` shows all of it",
                )
            return await migrations.rollback(
                steps=steps, to=target, allow_unsafe=allow_unsafe or yes or bool(loses)
            )

    _tell(with_database(place, work), json_)


@click.command()
@located
@as_json
def check(place: Where, json_: bool) -> None:
    """Find what is not as the revisions make it: tables, policies, rights, roles."""

    async def work(config: Config, reached: Reached) -> dict[str, Any]:
        migrations = _migrations(config, reached)
        found = await migrations.check()
        status = await migrations.status()
        return {
            "revision": status.revision,
            "differences": [
                {**dataclasses.asdict(one), "text": str(one)}  # the sentence for people
                for one in found
            ],
        }

    answer = with_database(place, work)
    found = answer["differences"]
    if json_:
        click.echo(json.dumps(answer))
    elif found:
        click.echo("\n".join(one["text"] for one in found))
    else:
        click.echo(f"all is as revision {answer['revision'] or 'base'} makes it")
    if found:
        many = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
        raise StateError(
            f"{many} not as the revisions make it",
            hint="somebody changed the database by hand: change it back, or write a revision",
        )


@click.command()
@located
@as_json
def history(place: Where, json_: bool) -> None:
    """List revisions, oldest first, and which of them are applied."""

    async def work(config: Config, reached: Reached) -> dict[str, Any]:
        migrations = _migrations(config, reached)
        status = await migrations.status()
        return {
            "current": status.revision,
            "head": status.head,
            "ahead": status.is_ahead,
            "revisions": [
                {
                    "id": one.id,
                    "title": one.title,
                    "applied": not status.is_ahead and one.id not in status.pending,
                }
                for one in migrations.history.revisions
            ],
        }

    answer = with_database(place, work)
    if json_:
        click.echo(json.dumps(answer))
        return
    rows = [
        (
            one["id"],
            "applied" if one["applied"] else "unknown" if answer["ahead"] else "pending",
            one["title"] + (" (here)" if one["id"] == answer["current"] else ""),
        )
        for one in answer["revisions"]
    ]
    click.echo("\n".join(table(("REVISION", "STATE", "WHAT"), rows)))
    if answer["ahead"]:
        click.echo(f"the database is at {answer['current']}, which a newer DIMS has made")


class _Progress:
    """One line on a terminal that says what is being done, gone at the end."""

    def __init__(self) -> None:
        self._shown = False
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def __call__(self, progress: MigrationProgress) -> None:
        """Shows it."""
        if not self._is_terminal:
            return
        done = f", {progress.statements} statements" if progress.statements else ""
        of = f"[{progress.number}/{progress.steps}] " if progress.number else ""
        click.echo(f"{_CLEAR_LINE}{of}{progress.text}{done}", nl=False, err=True)
        self._shown = True

    def end(self) -> None:
        """Leaves the line to others."""
        if self._shown:
            click.echo(_CLEAR_LINE, nl=False, err=True)
            self._shown = False


def _migrations(config: Config, reached: Reached, progress: _Progress | None = None) -> Migrations:
    from dims.migrations.runner import Migrations  # noqa: PLC0415 (Alembic and SQLAlchemy)
    from dims.storage.admin.administration import shape_of  # noqa: PLC0415

    return Migrations(reached.address, shape=shape_of(config), progress=progress or _Progress())


def _losses(report: MigrationReport) -> set[str]:
    """What statements do that cannot be undone."""
    from dims.migrations.risks import risks  # noqa: PLC0415

    # A risk of one table is that bots wait for it.
    found = (risk for statement in report.statements for risk in risks(statement))
    return {risk.why for risk in found if not risk.table}


def _tell(report: MigrationReport, json_: bool) -> None:
    if json_:
        locks = [{**dataclasses.asdict(one), "effect": one.effect} for one in report.locks]
        answer = {
            "before": report.before,
            "after": report.after,
            "dry_run": report.is_dry,
            "steps": list(report.steps),
            "statements": list(report.statements),
            "locks": locks,
        }
        click.echo(json.dumps(answer))
        return
    if report.is_dry:
        _tell_rehearsal(report)
        return
    for step in report.steps:
        click.echo(f"done: {step}")
    moved = f"{report.before or 'base'} -> {report.after or 'base'}"
    click.echo(f"the database is at {report.after or 'base'}, as it was" if not report.steps
               else f"{moved}, {len(report.statements)} statements")  # fmt: skip


def _tell_rehearsal(report: MigrationReport) -> None:
    """As a file of SQL, in case somebody wants to keep it."""
    for step in report.steps:
        click.echo(f"-- {step}")
    for statement in report.statements:
        click.echo(f"{statement.rstrip().rstrip(';')};")
    if report.locks:
        click.echo("--\n-- Locks on what is there already, strongest first:")
        rows = [(lock.table, lock.mode, lock.effect) for lock in report.locks]
        click.echo("\n".join(f"--   {line}" for line in table(("TABLE", "LOCK", "EFFECT"), rows)))
    elif report.steps:
        click.echo("--\n-- No locks on anything that is there already.")
    else:
        click.echo(f"-- The database is at {report.before or 'base'}: there is nothing to do.")
    click.echo("-- A dry run: nothing was changed.")


def _listed(texts: tuple[str, ...] | list[str]) -> str:
    return " and ".join(texts)
