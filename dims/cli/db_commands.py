"""`dims db …`: the database of a fleet. Imports each command when it is used.

No module of these commands imports a driver at its top: `dims db --help` needs none.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "status": ("dims.cli.db_status", "Show server, revision, roles, pools, sizes, slow queries."),
    "migrate": ("dims.cli.db_migrations", "Bring the database to the newest revision, or to one."),
    "rollback": ("dims.cli.db_migrations", "Take revisions back."),
    "check": ("dims.cli.db_migrations", "Find what is not as the revisions make it."),
    "history": ("dims.cli.db_migrations", "List revisions and which of them are applied."),
    "psql": ("dims.cli.db_psql", "Open psql, as an operator or as a bot."),
    "maintain": ("dims.cli.db_maintain", "Vacuum, drop what is old, make months of the audit log."),
    "rotate": ("dims.cli.db_roles", "Give bots new database passwords."),
    "roles": ("dims.cli.db_roles", "List roles and what each may do."),
}
"""Command name, which is its attribute's, to (module, one-line help)."""


class _LazyGroup(click.Group):
    # click names the first argument of each of these `ctx`; not all of them need it.
    # ruff: noqa: ARG002

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup)
def db() -> None:
    """Look after the database. Works while the fleet is stopped, too."""
