"""`dims run BOT`: one bot right here, for writing and debugging its code."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import click

from dims.bot_worker.foreground import run_in_foreground
from dims.cli.launch import refuse_taken_port, scrubbed
from dims.cli.where import Where, located
from dims.config import Config, DatabaseKind, PostgresAddress, ServerKind, load_config
from dims.errors import NotRunningError, ServiceError
from dims.ipc.wire.sentences import read
from dims.ipc.words.services import SandboxReady
from dims.ipc.words.terms import StorageTerms, TelegramAddress
from dims.supervisor.units.worker_terms import (
    configured_address,
    sandbox_address,
    storage_terms,
    worker_terms,
)
from dims.system.clock import SYSTEM
from dims.system.locks import holder
from dims.system.prctl import end_with_parent

if TYPE_CHECKING:
    from dims.services.steward.roles import Roles

SANDBOX_WITHIN_S = 20.0


@click.command()
@located
@click.argument("bot")
def run(place: Where, bot: str) -> None:
    """Run BOT in this process until Ctrl-C: no supervisor, no restarts, log on the terminal."""
    config = load_config(place.config, os.environ)
    settings = config.bot(bot)
    place.layout.make()
    token = settings.token.get_secret_value() if settings.token else None
    with contextlib.ExitStack() as stack:
        address = configured_address(config)
        if address is None:
            address, token = stack.enter_context(_in_sandbox(place, config, bot, token))
        mark = "SANDBOX  " if config.telegram.server.kind is ServerKind.SANDBOX else ""
        click.echo(f"{mark}runs {bot} here; Ctrl-C ends", err=True)
        terms = worker_terms(config, place.layout, settings, address, token or "", storage=None)
        run_in_foreground(terms, _storage(place, config, bot))


@contextlib.asynccontextmanager
async def _storage(place: Where, config: Config, bot: str) -> AsyncIterator[StorageTerms | None]:
    """The storage terms of the bot, its database ready for it; None without a database.

    The steward of a running fleet has seen to that; otherwise it is done here. Raises ServiceError.
    """
    if config.storage.database_kind is DatabaseKind.OFF:
        yield None
        return
    from dims.services.steward.roles import Roles  # noqa: PLC0415 (other commands need none of these)
    from dims.storage.admin.administration import reachable, shape_of  # noqa: PLC0415
    from dims.storage.admin.sealed_roles import SealedRoles, roles_file  # noqa: PLC0415

    bots = [one.id for one in config.bots]
    async with reachable(config, place.layout, say=_say, may_make=True) as reached:
        sealed = SealedRoles.load(roles_file(place.layout.state))
        roles = Roles(sealed, shape_of(config), bots, SYSTEM.utc)
        if holder(place.layout.lock) is None:
            await _prepare(config, reached.address, roles)
        handed = roles.handed()
        if bot not in handed.roles:
            reason = handed.refused.get(bot, "the running fleet has made no role for it")
            raise ServiceError(f"{bot} has no role in the database: {reason}")
        address = config.storage.pooler_address or reached.address
        yield storage_terms(config, address, *handed.roles[bot])


async def _prepare(config: Config, address: PostgresAddress, roles: Roles) -> None:
    from dims.services.steward.preparation import prepare  # noqa: PLC0415
    from dims.storage.admin.administration import connected, shape_of  # noqa: PLC0415

    async with connected(address) as connection:
        migrates = config.storage.migrate
        await prepare(connection, address, shape_of(config), roles, migrates=migrates)


def _say(text: str) -> None:
    click.echo(f"dims: {text}", err=True)


@contextlib.contextmanager
def _in_sandbox(
    place: Where, config: Config, bot: str, token: str | None
) -> Iterator[tuple[TelegramAddress, str]]:
    """The address and the bot's token in the running sandbox, or in one of our own."""
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(place.sandbox())
        except NotRunningError:
            stack.enter_context(_own_sandbox(place, config))
            client = stack.enter_context(place.sandbox())
        body = {"name": bot} if token is None else {"name": bot, "token": token}
        made = client.request("bot.create", body)
        yield (
            sandbox_address(read(SandboxReady, client.request("status")["address"])),
            made["token"],
        )


@contextlib.contextmanager
def _own_sandbox(place: Where, config: Config) -> Iterator[None]:
    """A sandbox that lives as long as this command."""
    refuse_taken_port(config)
    place.layout.make_runtime()
    reading, writing = os.pipe()
    argv = [
        *(sys.executable, "-m", "dims.sandbox"),
        *("--dir", str(place.layout.sandbox), "--control", str(place.layout.sandbox_socket)),
        *("--port", str(config.telegram.sandbox_port), "--ready-fd", str(writing)),
        *("--log-level", "WARNING"),
    ]
    process = subprocess.Popen(
        argv,
        env=scrubbed(os.environ),
        pass_fds=(writing,),
        start_new_session=True,
        # A kill -9 of this command would leave a sandbox that keeps every later one out.
        preexec_fn=end_with_parent,  # noqa: PLW1509 (no other thread runs here yet)
    )
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as ready:
            if not ready.read():
                code = process.wait(SANDBOX_WITHIN_S)
                raise ServiceError(f"the sandbox left at once, exit code {code}")
        yield
    finally:
        process.terminate()
        process.wait(SANDBOX_WITHIN_S)
        with contextlib.suppress(OSError):
            place.layout.runtime.rmdir()
