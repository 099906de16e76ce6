"""The database dies under the hands of bots that use it: they stay up, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from fleet import Fleet, Result, is_running, until
from stored import backends, forgotten, postmaster, rows

BOTS = ("ada", "bob", "cyd")
FLEET = """
telegram: {server: sandbox}
storage: {redis: off, pool: {acquire_s: 1.5}}
bots:
  - {id: ada, handlers: keep.py}
  - {id: bob, handlers: keep.py}
  - {id: cyd, handlers: keep.py}
"""
KEEP = """\
from telethon import events

from dims.errors import DimsError

bot = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(incoming=True))
async def keep(event):
    try:
        async with bot.tx() as tx:
            await tx.messages.record(event)
    except DimsError as error:
        await event.respond(f"failed: {error}", parse_mode=None)
    else:
        await event.respond(f"kept: {event.raw_text}")
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("kills") / "fleet", FLEET, {"keep.py": KEEP})
    with forgotten(fleet):
        fleet.start()
        fleet.until_ready()
        yield fleet


def processes(fleet: Fleet) -> set[tuple[str, int, int]]:
    return {(bot["id"], bot["pid"], bot["incarnation"]) for bot in fleet.status()["bots"]}


def kept(fleet: Fleet, text: str) -> bool:
    """Whether each bot acknowledged it."""
    return all(fleet.say(bot, text) == [f"kept: {text}"] for bot in BOTS)


def until_kept(fleet: Fleet, text: str) -> None:
    numbers = iter(range(1000))
    until(lambda: kept(fleet, f"{text} {next(numbers)}"), f"{text}: all is kept")


def assert_nothing_is_missing(fleet: Fleet) -> None:
    """What was acknowledged is stored, once."""
    found = rows(fleet.layout, "SELECT bot_id, text FROM dims.messages")
    stored = [(row["bot_id"], row["text"]) for row in found]
    assert len(stored) == len(set(stored))
    for bot in BOTS:
        said = {text.removeprefix("kept: ") for text in fleet.replies(bot) if "kept: " in text}
        assert said
        assert said <= {text for name, text in stored if name == bot}


def health(fleet: Fleet) -> Result:
    return fleet.dims("health", code=None)


def test_while_the_database_is_away_bots_say_so_and_go_on_afterwards(fleet: Fleet) -> None:
    assert kept(fleet, "before")
    before = processes(fleet)
    service = fleet.unit("postgres")["pid"]
    # Who watches over the server sleeps, so that nobody starts it again.
    os.kill(service, signal.SIGSTOP)
    try:
        left = backends(fleet.layout)
        os.kill(postmaster(fleet.layout), signal.SIGKILL)
        # A process that serves a bot may go on for a moment without its server.
        until(lambda: not any(map(is_running, left)), "nobody of the server is left")
        (said,) = fleet.say("ada", "while it is away")
        assert said.startswith("failed: ada: no database connection within 1.5 s")
        assert "the last attempt: cannot connect to" in said
        until(lambda: health(fleet).code == 1, "health says so")
        assert "degraded" in health(fleet).out
        assert "cannot connect to" in health(fleet).out
    finally:
        os.kill(service, signal.SIGCONT)
    until_kept(fleet, "after")
    until(lambda: health(fleet).code == 0, "all is well again")
    assert processes(fleet) == before
    assert_nothing_is_missing(fleet)


@pytest.mark.parametrize("victim", ["server", "backend", "service"])
def test_no_kill_takes_a_bot_or_an_acknowledged_message_with_it(fleet: Fleet, victim: str) -> None:
    until_kept(fleet, f"before the {victim}")
    before, serving = processes(fleet), backends(fleet.layout)
    match victim:
        case "server":
            pid = postmaster(fleet.layout)
        case "backend":
            pid = min(serving)
        case _:
            pid = fleet.unit("postgres")["pid"]
    for bot in BOTS:
        fleet.tell(bot, f"meanwhile {victim}")
    os.kill(pid, signal.SIGKILL)
    until(lambda: _others(fleet, serving), "other processes serve")
    until_kept(fleet, f"after the {victim}")
    assert processes(fleet) == before
    assert_nothing_is_missing(fleet)


def _others(fleet: Fleet, than: set[int]) -> bool:
    fleet.say("ada", f"{time.monotonic()}", wait_s=1.0)
    try:
        return bool(backends(fleet.layout) - than)
    except (OSError, ValueError):
        return False
