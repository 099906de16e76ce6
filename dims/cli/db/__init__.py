"""`dims db …`: the database of a fleet. Imports each command when it is used.

No module of these commands imports a driver at its top: `dims db --help` needs none.
"""

from __future__ import annotations

from collections.abc import Mapping

import click

from dims.cli.lazy import LazyCommand, LazyGroup

_COMMANDS: Mapping[str, LazyCommand] = {
    "status": LazyCommand(
        "dims.cli.db.status", "status", "Show server, revision, roles, pools, sizes, slow queries."
    ),
    "migrate": LazyCommand(
        "dims.cli.db.migrations", "migrate", "Bring the database to the newest revision, or to one."
    ),
    "rollback": LazyCommand("dims.cli.db.migrations", "rollback", "Take revisions back."),
    "check": LazyCommand(
        "dims.cli.db.migrations", "check", "Find what is not as the revisions make it."
    ),
    "history": LazyCommand(
        "dims.cli.db.migrations", "history", "List revisions and which of them are applied."
    ),
    "psql": LazyCommand("dims.cli.db.psql", "psql", "Open psql, as an operator or as a bot."),
    "maintain": LazyCommand(
        "dims.cli.db.maintain",
        "maintain",
        "Vacuum, drop what is old, make months of the audit log.",
    ),
    "rotate": LazyCommand("dims.cli.db.roles", "rotate", "Give bots new database passwords."),
    "roles": LazyCommand("dims.cli.db.roles", "roles", "List roles and what each may do."),
}


@click.group(cls=LazyGroup, commands_there=_COMMANDS)
def db() -> None:
    """Look after the database. Works while the fleet is stopped, too."""
