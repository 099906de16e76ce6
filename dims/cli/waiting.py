"""Waits until bots have settled, showing progress. Asks the brain; knows no processes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import click

from dims.cli.tail import last_line
from dims.cli.where import Where
from dims.errors import BotError, NotRunningError, ServiceError, TimedOutError
from dims.ipc.words.states import Desired, State
from dims.system.clock import SYSTEM

LOOK_S = 0.1
LOOKS_SHARE = 0.1
"""Of the time is spent on looking, at most: an answer about a thousand bots takes the brain a while
that it needs to start them."""
SETTLED = frozenset({State.READY, State.DEGRADED, State.FAILED, State.WAITING, State.STOPPED})
"""States that waiting longer does not change soon; the others are on their way."""
NOT_WAITED_FOR = frozenset({"valkey"})
"""Services that bots start without; `dims health` says what is wrong with them."""


def until_settled(
    place: Where, wanted: Collection[str], timeout_s: float, *, quiet: bool
) -> list[dict[str, Any]]:
    """The status of each wanted bot once all have settled.

    Raises TimedOutError, and ServiceError when a service that bots need does not come up.
    """
    until_s = SYSTEM.monotonic() + timeout_s
    shown = ""
    while True:
        asked_s = SYSTEM.monotonic()
        with place.brain() as brain:
            answer = brain.request("status")
        found = [bot for bot in answer["bots"] if bot["id"] in wanted]
        ready = sum(bot["state"] == State.READY for bot in found)
        line = f"{ready} of {len(found)} bots ready"
        if line != shown and not quiet:
            click.echo(line, err=True)
            shown = line
        if all(_is_settled(bot) for bot in found):
            return found
        _complain_about_services(place, answer["services"])
        if SYSTEM.monotonic() >= until_s:
            late = ", ".join(bot["id"] for bot in found if not _is_settled(bot))
            raise TimedOutError(
                f"not ready within {timeout_s:g} s: {late}",
                hint="they go on starting; see `dims status` and `dims bot explain ID`",
            )
        time.sleep(max(LOOK_S, (SYSTEM.monotonic() - asked_s) / LOOKS_SHARE))


def complain_about(bots: list[dict[str, Any]]) -> None:
    """Raises BotError when a bot that should serve does not."""
    bad = [bot for bot in bots if bot["state"] != State.READY and bot["desired"] == Desired.RUNNING]
    if bad:
        names = "; ".join(f"{bot['id']} is {bot['state']}: {bot['reason']}" for bot in bad)
        raise BotError(names, hint=f"see `dims bot explain {bad[0]['id']}`")


def _complain_about_services(place: Where, services: list[dict[str, Any]]) -> None:
    for service in services:
        if service["id"] in NOT_WAITED_FOR:
            continue
        if service["state"] == State.FAILED or _backs_off_for_long(service):
            name, reason = service["id"], service["reason"]
            # What died without a word may have left one in its log.
            last = last_line(place.layout.log(name)) if reason.startswith("exit") else ""
            raise ServiceError(
                f"{name} does not come up, and bots wait for it: {reason}",
                hint=last or f"see `dims logs {name}`",
            )


def until_gone(place: Where, pids: Collection[int], timeout_s: float) -> None:
    """Returns when no brain answers and the processes are gone. Raises TimedOutError."""
    until_s = SYSTEM.monotonic() + timeout_s
    while SYSTEM.monotonic() < until_s:
        if not _answers(place) and not any(_exists(pid) for pid in pids):
            return
        time.sleep(LOOK_S / 2)
    raise TimedOutError(f"not stopped within {timeout_s:g} s", hint="see `dims status`")


def _is_settled(bot: Mapping[str, Any]) -> bool:
    return bot["state"] in SETTLED or _backs_off_for_long(bot)


def _backs_off_for_long(unit: Mapping[str, Any]) -> bool:
    """What failed some times in a row has said all it will say for now."""
    return bool(unit["state"] == State.BACKING_OFF and unit["failures"] > 2)


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
