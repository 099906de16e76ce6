"""The `dims` command: its groups, and how errors reach the operator.

Nothing heavy is imported here: `dims status` has to start about as fast as click alone, so each
group of commands is imported when it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from dims.cli.lazy import LazyCommand, LazyGroup
from dims.errors import DimsError

_FLEET = "dims.cli.commands.fleet"
_COMMANDS: Mapping[str, LazyCommand] = {
    "start": LazyCommand(_FLEET, "start", "Start bots, and the supervisor if it does not run."),
    "stop": LazyCommand(_FLEET, "stop", "Stop everything; nothing stays behind."),
    "status": LazyCommand("dims.cli.commands.status", "status", "Show every bot."),
    "health": LazyCommand("dims.cli.commands.status", "health", "Exit 0 well, 1 degraded, 2 down."),
    "logs": LazyCommand("dims.cli.commands.logs", "logs", "Show a bot's log."),
    "bot": LazyCommand(
        "dims.cli.commands.bot", "bot", "List, start, stop, restart, explain, tell bots."
    ),
    "run": LazyCommand(
        "dims.cli.commands.run", "run", "Run one bot right here, without a supervisor."
    ),
    "ipc": LazyCommand("dims.cli.commands.ipc", "ipc", "See and send messages between bots."),
    "db": LazyCommand("dims.cli.db", "db", "Look after the database."),
    "config": LazyCommand("dims.cli.commands.config", "config", "Check or show the configuration."),
    "sandbox": LazyCommand(
        "dims.cli.commands.sandbox", "sandbox", "Talk to bots on the local Telegram."
    ),
}


@click.group(
    cls=LazyGroup,
    commands_there=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
