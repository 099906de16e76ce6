"""Groups of commands whose modules are imported when they are used. Knows no command."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class LazyCommand(NamedTuple):
    """Where a command is, and its line in the help, which so needs no import of its module."""

    module: str
    attribute: str
    text: str


class LazyGroup(click.Group):
    """Imports a command's module when the command is used."""

    # click names the first argument of each of these `ctx`; not all of them need it.
    # ruff: noqa: ARG002

    def __init__(
        self, *args: Any, commands_there: Mapping[str, LazyCommand], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._there = commands_there

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self._there)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        there = self._there.get(cmd_name)
        if there is None:
            return None
        command: click.Command = getattr(importlib.import_module(there.module), there.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a mistyped command is told which one may have been meant."""
        if args and args[0] not in self._there and not args[0].startswith("-"):
            from dims.wording import did_you_mean  # noqa: PLC0415 (only for a mistyped command)

            ctx.fail(f"No such command '{args[0]}'.{did_you_mean(args[0], self._there)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, from what is known without an import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, there.text) for name, there in self._there.items()])
