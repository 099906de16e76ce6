"""`dims start` and `dims stop`: the fleet as a whole."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import click

from dims.cli import render
from dims.cli.waiting import complain_about, until_gone, until_settled
from dims.cli.where import Where, located
from dims.errors import NotRunningError, TimedOutError, UsageError
from dims.ipc.words.states import Desired
from dims.system.clock import SYSTEM
from dims.system.locks import holder

DEFAULT_TIMEOUT_S = 120.0


@click.command()
@located
@click.argument("bots", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All bots, also those stopped by hand.")
@click.option("--foreground", is_flag=True, help="Stay in front, as systemd and containers want.")
@click.option("--timeout", "timeout_s", type=float, default=DEFAULT_TIMEOUT_S, show_default=True)
def start(
    place: Where,
    bots: tuple[str, ...],
    all_: bool,
    foreground: bool,
    timeout_s: float,
) -> None:
    """Start BOTS (ids or globs), and the supervisor if it does not run yet.

    Without BOTS and --all: what ran before, and what is new in the file; a bot that was stopped
    stays stopped.
    """
    if all_ and bots:
        raise UsageError("give --all or bots, not both")
    began_s = SYSTEM.monotonic()
    before = _status(place)
    if before is not None and foreground:
        raise UsageError("the supervisor runs already", hint="`dims stop` first")
    wish = {"bots": ["*"]} if all_ else {"bots": list(bots)} if bots else {"new": True}
    if before is None:
        from dims.cli.launch import launch  # noqa: PLC0415 (pydantic: only for a real start)

        launch(place, wish, foreground=foreground)
    with place.brain() as brain:
        if before is not None:
            brain.request("start", wish)
        wanted = {
            b["id"] for b in brain.request("status")["bots"] if b["desired"] == Desired.RUNNING
        }
    settled = until_settled(place, wanted, timeout_s, quiet=before is not None)
    answer = _status(place)
    if answer is None:
        raise NotRunningError("the supervisor left while its bots started")
    _show(answer, already=before is not None, took_s=SYSTEM.monotonic() - began_s)
    complain_about(settled)


def _show(answer: dict[str, Any], *, already: bool, took_s: float) -> None:
    click.echo("\n".join(render.status(answer)))
    click.echo()
    click.echo("already running" if already else f"started in {took_s:.1f} s")
    if answer["supervisor"]["sandbox"]:
        first = answer["bots"][0]["id"]
        click.echo(f"Next: dims sandbox chat {first}")
    else:
        click.echo("Next: dims status, dims logs BOT -f, dims health")


@click.command()
@located
@click.option("--timeout", "timeout_s", type=float, default=DEFAULT_TIMEOUT_S, show_default=True)
def stop(place: Where, timeout_s: float) -> None:
    """Stop all bots and the supervisor. What ran comes back with `dims start`."""
    try:
        answer = _status(place)
    except TimedOutError:
        # The keeper holds the socket, but no brain answers: the keeper itself can end all.
        _stop_keeper(place, timeout_s)
        return
    if answer is None:
        _stop_orphans(place, timeout_s)
        return
    pids = {answer["supervisor"]["pid"], answer["supervisor"]["keeper_pid"]}
    pids |= {unit["pid"] for unit in (*answer["bots"], *answer["services"])}
    with place.brain() as brain:
        brain.request("shutdown")
    until_gone(place, {pid for pid in pids if pid}, timeout_s)
    click.echo(f"stopped {sum(bot['pid'] is not None for bot in answer['bots'])} bots")


def _stop_orphans(place: Where, timeout_s: float) -> None:
    """After a kill of keeper and brain bots go on: a new brain takes them in, only to end them."""
    try:
        orphaned = place.layout.control_socket.exists()
    except NotRunningError:
        orphaned = False
    if not orphaned:
        click.echo("not running")
        return
    from dims.cli.launch import launch  # noqa: PLC0415 (pydantic: only for a real start)

    launch(place, {"stop": True}, foreground=False)
    until_gone(place, (), timeout_s)
    click.echo("stopped what a killed supervisor had left")


def _stop_keeper(place: Where, timeout_s: float) -> None:
    layout = place.layout
    pid = holder(layout.lock) or holder(layout.brain_lock)
    if pid is None:
        raise NotRunningError(f"no supervisor holds {layout.state}", hint="try again")
    click.echo(f"no brain answers (see `dims logs brain`); asking pid {pid} to end all", err=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    until_gone(place, {pid}, timeout_s)
    click.echo("stopped")


def _status(place: Where) -> dict[str, Any] | None:
    try:
        with place.brain() as brain:
            return brain.request("status")
    except NotRunningError:
        return None
