"""Waits until bots have settled, showing progress. Asks the brain; knows no processes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import click

from dims.cli.where import Where
from dims.errors import BotError, NotRunningError, TimedOutError

LOOK_S = 0.1
SETTLED = frozenset({"ready", "failed", "waiting", "stopped"})
"""States that waiting longer does not change soon; the others are on their way."""


def until_settled(
    place: Where, wanted: Collection[str], timeout_s: float, *, quiet: bool
) -> list[dict[str, Any]]:
    """The status of each wanted bot once all have settled. Raises TimedOutError."""
    until_s = time.monotonic() + timeout_s
    shown = ""
    while True:
        with place.brain() as brain:
            answer = brain.request("status")
        found = [bot for bot in answer["bots"] if bot["id"] in wanted]
        ready = sum(bot["state"] == "ready" for bot in found)
        line = f"{ready} of {len(found)} bots ready"
        if line != shown and not quiet:
            click.echo(line, err=True)
            shown = line
        if all(_is_settled(bot) for bot in found):
            return found
        if time.monotonic() >= until_s:
            late = ", ".join(bot["id"] for bot in found if not _is_settled(bot))
            raise TimedOutError(
                f"not ready within {timeout_s:g} s: {late}",
                hint="they go on starting; see `dims status` and `dims bot explain ID`",
            )
        time.sleep(LOOK_S)


def complain_about(bots: list[dict[str, Any]]) -> None:
    """Raises BotError when a bot that should serve does not."""
    bad = [bot for bot in bots if bot["state"] != "ready" and bot["desired"] == "running"]
    if bad:
        names = "; ".join(f"{bot['id']} is {bot['state']}: {bot['reason']}" for bot in bad)
        raise BotError(names, hint=f"see `dims bot explain {bad[0]['id']}`")


def until_gone(place: Where, pids: Collection[int], timeout_s: float) -> None:
    """Returns when no brain answers and the processes are gone. Raises TimedOutError."""
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if not _answers(place) and not any(_exists(pid) for pid in pids):
            return
        time.sleep(LOOK_S / 2)
    raise TimedOutError(f"not stopped within {timeout_s:g} s", hint="see `dims status`")


def _is_settled(bot: Mapping[str, Any]) -> bool:
    # A bot that waits out a long backoff has said all it will say for now.
    backing_off = bot["state"] == "backing_off" and (bot["restarts"] or 0) > 2
    return bot["state"] in SETTLED or backing_off


def _answers(place: Where) -> bool:
    try:
        place.brain(timeout_s=2.0).close()
    except (NotRunningError, TimedOutError):
        return False
    return True


def _exists(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (one read)
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False
