"""The database that a command is about, open for as long as the command's work takes."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from dims.cli.where import Where

if TYPE_CHECKING:
    from dims.config import Config
    from dims.storage.admin.administration import Reached

T = TypeVar("T")
Work = Callable[["Config", "Reached"], Awaitable[T]]


def with_database(place: Where, work: Work[T], *, may_make: bool = False) -> T:
    """What `work` gives, done on a server that answers; `may_make` makes the embedded one.

    Raises ConfigError, UsageError for a fleet without a database, ServiceError, and what `work`
    raises. Ctrl-C cancels the work and stops a server that was started for it.
    """
    from dims.config import load_config  # noqa: PLC0415 (other commands need none of these)
    from dims.storage.admin.administration import reachable  # noqa: PLC0415

    config = load_config(place.config, os.environ)

    async def run() -> T:
        async with reachable(config, place.layout, say=say, may_make=may_make) as reached:
            return await work(config, reached)

    return asyncio.run(run())


def say(text: str) -> None:
    """Tells the person, not the reader of the output."""
    click.echo(f"dims: {text}", err=True)


def confirmed(question: str, *, yes: bool, mend: str) -> None:
    """Returns when the person agrees, or did so with `--yes`.

    Raises UsageError without a terminal to ask on, and click's Abort for a no.
    """
    from dims.errors import UsageError  # noqa: PLC0415

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to ask", hint=mend)
    click.confirm(question, abort=True, err=True)
