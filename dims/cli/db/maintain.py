"""`dims db maintain`: what a database needs from time to time, and the end of all rows of a bot."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from dims.cli.db.place import confirmed, with_database
from dims.cli.render import size
from dims.cli.where import Where, as_json, located
from dims.errors import NotRunningError, StateError, UsageError
from dims.ipc.words.states import State
from dims.system.clock import SYSTEM

if TYPE_CHECKING:
    from dims.config import Config
    from dims.storage.admin.administration import Reached
    from dims.storage.names import Shape

LONGEST_DAYS = 36_500


@click.command()
@located
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option(
    "--keep-audit-days",
    type=click.IntRange(31, LONGEST_DAYS),
    metavar="N",
    help="Drop months of the audit log that are older. [default: 365]",
)
@click.option(
    "--keep-done-days",
    type=click.IntRange(0, LONGEST_DAYS),
    metavar="N",
    help="Delete done rows of inbox and outbox that are older. [default: 7]",
)
@click.option("--erase", metavar="BOT", help="Instead: delete all rows of a bot, for good.")
@click.option("--yes", is_flag=True, help="Do not ask before a bot is erased.")
@as_json
def maintain(  # noqa: PLR0917 (click passes by name)
    place: Where,
    dry_run: bool,
    keep_audit_days: int | None,
    keep_done_days: int | None,
    erase: str | None,
    yes: bool,
    json_: bool,
) -> None:
    """Make months of the audit log, delete what is old, VACUUM what needs it."""
    if erase is not None:
        erased = _erase(place, erase, yes=yes, dry_run=dry_run)
        click.echo(json.dumps(erased) if json_ else _erased_text(erased))
        return

    async def work(config: Config, reached: Reached) -> dict[str, Any]:
        from dims.storage.admin import upkeep  # noqa: PLC0415
        from dims.storage.admin.administration import connected  # noqa: PLC0415

        shape = await _migrated(config, reached)
        async with connected(reached.address) as connection:
            done = await upkeep.maintain(
                connection,
                shape,
                now=datetime.fromtimestamp(SYSTEM.utc(), UTC),
                keep_audit_days=_or(keep_audit_days, upkeep.KEEP_AUDIT_DAYS),
                keep_done_days=_or(keep_done_days, upkeep.KEEP_DONE_DAYS),
                dry_run=dry_run,
                say=_progress,
            )
        told = dataclasses.asdict(done)
        return {"dry_run": told.pop("is_dry"), **told}

    answer = with_database(place, work)
    click.echo(json.dumps(answer) if json_ else "\n".join(_text(answer)))


def _erase(place: Where, bot: str, *, yes: bool, dry_run: bool) -> dict[str, Any]:
    _refuse_running(place, bot)

    async def work(config: Config, reached: Reached) -> dict[str, Any]:
        from dims.storage.admin import inspection, tenancy, upkeep  # noqa: PLC0415
        from dims.storage.admin.administration import connected  # noqa: PLC0415

        shape = await _migrated(config, reached)
        shape.bot_role(bot)
        async with connected(reached.address) as connection:
            counted = await upkeep.count_rows(connection, shape, bot)
            if dry_run or not counted:
                return {"bot": bot, "rows": counted, "erased": False}
            confirmed(
                f"All {counted} rows of {bot} will be deleted for good. Go on?",
                yes=yes,
                mend="`--yes` if that is what you want",
            )
            async with inspection.as_owner(connection, shape):
                erased = await tenancy.erase_bot(connection, shape, bot)
            return {"bot": bot, "rows": erased, "erased": True}

    return with_database(place, work)


def _refuse_running(place: Where, bot: str) -> None:
    """A bot at work would write new rows at once."""
    try:
        with place.brain() as brain:
            units = brain.request("status")["bots"]
    except NotRunningError:
        return
    if any(unit["id"] == bot and unit["state"] != State.STOPPED for unit in units):
        raise UsageError(f"{bot} is at work", hint=f"`dims bot stop {bot}` first")


async def _migrated(config: Config, reached: Reached) -> Shape:
    """The shape of the database. Raises StateError when there is nothing in it, or what we do not
    know."""
    from dims.migrations.runner import Migrations  # noqa: PLC0415 (Alembic and SQLAlchemy)
    from dims.storage.admin.administration import shape_of  # noqa: PLC0415

    migrations = Migrations(reached.address, shape=shape_of(config))
    found = await migrations.status()
    if found.is_ahead:
        migrations.history.place(found.revision)
    if found.pending:
        raise StateError(
            f"the database is at {found.revision or 'base'}, not at {found.head}",
            hint="`dims db migrate` first",
        )
    return found.shape


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{text} ...", err=True)


def _text(answer: Mapping[str, Any]) -> list[str]:
    would = "would be " if answer["dry_run"] else ""
    rows = ", ".join(f"{count} of {table}" for table, count in answer["rows_deleted"].items())
    freed = answer["bytes_before"] - answer["bytes_after"]
    change = f"{size(abs(freed))} {'freed' if freed >= 0 else 'more'}"
    made, dropped = answer["months_made"], answer["months_dropped"]
    return [
        f"audit log: {made} months {would}made, {dropped} {would}dropped",
        f"done rows {would}deleted: {rows}",
        f"tables {would}vacuumed: {', '.join(answer['vacuumed']) or 'none needs it'}",
        "a dry run: nothing was changed"
        if answer["dry_run"]
        else f"the database has {size(answer['bytes_after'])}, {change}",
    ]


def _erased_text(answer: Mapping[str, Any]) -> str:
    rows, bot = answer["rows"], answer["bot"]
    if not rows:
        return f"there are no rows of {bot}"
    if not answer["erased"]:
        return f"{rows} rows of {bot} would be deleted; a dry run: nothing was changed"
    return (
        f"{rows} rows of {bot} deleted; the audit log keeps who did it, and nothing else of {bot}"
    )
