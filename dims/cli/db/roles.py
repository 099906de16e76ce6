"""`dims db rotate | roles`: passwords that are replaced, and what each role may do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dims.cli.db.place import with_database
from dims.cli.render import duration, table
from dims.cli.where import Where, as_json, located
from dims.errors import NotRunningError, StateError, UsageError
from dims.system.clock import SYSTEM

if TYPE_CHECKING:
    from dims.config import Config
    from dims.storage.admin.administration import Reached

ROTATES_WITHIN_S = 150.0
"""More than the brain gives itself."""


@click.command()
@located
@as_json
@click.option("--all", "all_", is_flag=True, help="All bots.")
@click.option(
    "--end-sessions", is_flag=True, help="Also end open connections: the former one has leaked."
)
@click.argument("bots", nargs=-1, metavar="[BOT...]")
def rotate(
    place: Where, json_: bool, all_: bool, end_sessions: bool, bots: tuple[str, ...]
) -> None:
    """Give bots new database passwords; they go on with their connections. Needs the fleet."""
    if all_ == bool(bots):
        raise UsageError("name bots, or say --all")
    body = {"bots": ["*"] if all_ else list(bots), "end_sessions": end_sessions}
    try:
        with place.brain(timeout_s=ROTATES_WITHIN_S) as brain:
            answer = brain.request("rotate", body)
    except NotRunningError as error:
        raise NotRunningError(
            f"passwords are given by the running fleet, and {error}",
            hint="`dims start`, then again; a start itself replaces those that are too old",
        ) from error
    if json_:
        click.echo(json.dumps(answer))
        return
    click.echo(f"new passwords: {', '.join(answer.get('rotated', [])) or 'none'}")
    if end_sessions:
        click.echo(f"connections ended: {answer.get('ended_sessions', 0)}")


@click.command()
@located
@as_json
def roles(place: Where, json_: bool) -> None:
    """List roles, whether they may log in, and what each may do to which tables."""

    async def work(config: Config, reached: Reached) -> dict[str, Any]:
        from dims.migrations.runner import Migrations  # noqa: PLC0415 (Alembic and SQLAlchemy)
        from dims.storage.admin import inspection, sealed_roles  # noqa: PLC0415
        from dims.storage.admin.administration import connected, shape_of  # noqa: PLC0415

        found = await Migrations(reached.address, shape=shape_of(config)).status()
        if not found.is_made:
            raise StateError("no migration ever ran here", hint="`dims db migrate`")
        sealed = sealed_roles.SealedRoles.load(sealed_roles.roles_file(place.layout.state))
        since = {role.role: role.since for id_ in sealed.ids() if (role := sealed.get(id_))}
        async with connected(reached.address) as connection:
            rights = await inspection.rights(connection, found.shape)
        now = SYSTEM.utc()
        return {
            "roles": [
                {
                    "role": one.role,
                    "login": one.may_login,
                    "member_of": list(one.member_of),
                    "connections": one.connections,
                    "password_age_s": max(0.0, now - since[one.role])
                    if one.role in since
                    else None,
                    "rights": {right: list(tables) for right, tables in one.rights.items()},
                }
                for one in rights
            ]
        }

    answer = with_database(place, work)
    if json_:
        click.echo(json.dumps(answer))
        return
    rows = [
        (
            one["role"],
            "yes" if one["login"] else "no",
            ", ".join(one["member_of"]) or "-",
            str(one["connections"]),
            duration(one["password_age_s"]),
            _rights(one),
        )
        for one in answer["roles"]
    ]
    head = ("ROLE", "LOGIN", "MEMBER OF", "OPEN", "PASSWORD", "MAY, TABLES")
    click.echo("\n".join(table(head, rows)))


def _rights(one: dict[str, Any]) -> str:
    counts = [f"{right.lower()} {len(tables)}" for right, tables in one["rights"].items()]
    # The owner was given nothing, for all of it is its own; the others have what their group has.
    return ", ".join(counts) or ("as its group" if one["member_of"] else "everything")
