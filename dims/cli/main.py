"""The `dims` command: its groups, and how errors reach the operator.

Nothing heavy is imported here: `dims status` has to start about as fast as click alone, so each
group of commands is imported when it is used.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from dims.errors import DimsError

_FLEET = "dims.cli.fleet_commands"
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "start": (_FLEET, "start", "Start bots, and the supervisor if it does not run."),
    "stop": (_FLEET, "stop", "Stop everything; nothing stays behind."),
    "status": ("dims.cli.reading_commands", "status", "Show every bot."),
    "health": ("dims.cli.reading_commands", "health", "Exit 0 well, 1 degraded, 2 down."),
    "logs": ("dims.cli.log_command", "logs", "Show a bot's log."),
    "bot": ("dims.cli.bot_commands", "bot", "List, start, stop, restart, explain, tell bots."),
    "run": ("dims.cli.run_command", "run", "Run one bot right here, without a supervisor."),
    "ipc": ("dims.cli.ipc_commands", "ipc", "See and send messages between bots."),
    "db": ("dims.cli.db_commands", "db", "Look after the database."),
    "config": ("dims.cli.config_commands", "config", "Check or show the configuration."),
    "sandbox": ("dims.cli.sandbox_commands", "sandbox", "Talk to bots on the local Telegram."),
}
"""Command name to (module, attribute, one-line help); the help is here so that `dims --help`
needs no module."""


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used."""

    # click names the first argument of each of these `ctx`; not all of them need it.
    # ruff: noqa: ARG002

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415 (only for a mistyped command)

            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            meant = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{args[0]}'.{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dims", prog_name="dims")
def cli() -> None:
    """Run a fleet of Telegram bots, one supervised process each."""


def main(argv: list[str] | None = None) -> None:
    """Entry of the `dims` command; always ends with sys.exit.

    A DimsError becomes one line per fault, a hint, and its family's exit code, never a traceback.
    """
    try:
        code: Any = cli.main(argv, prog_name="dims", standalone_mode=False)
    except DimsError as error:
        _complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        _complain("interrupted", "")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (`dims logs | head`): that is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, hint: str) -> None:
    for line in message.splitlines():
        click.echo(f"dims: {line}", err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)
