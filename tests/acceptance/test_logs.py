"""Logs: rotated by size, followed over a rotation, one JSON object a line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import IO

import pytest
from fleet import Fleet, running, until

LIMIT_BYTES = 4_096
LINES = 200
BOT = """
from telethon import events

bot = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(incoming=True))
async def on_message(event):
    for number in range(int(event.raw_text)):
        bot.log.info("line %05d", number)
    await event.respond("written")
"""
FLEET = f"""
telegram: {{server: sandbox}}
bots:
  - {{id: chatty, handlers: bot.py, limits: {{log_bytes: {LIMIT_BYTES}, log_files: 2}}}}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("logs"), FLEET, {"bot.py": BOT}) as fleet:
        yield fleet


def next_line(log: IO[str]) -> str:
    """The next line, but for Telethon's: a login that it tries again says so."""
    return next(line for line in iter(log.readline, "") if '"logger": "telethon' not in line)


def test_a_follower_misses_no_line_over_many_rotations(fleet: Fleet) -> None:
    follower = fleet.front("logs", "chatty", "-f", "-n", "1000")
    assert follower.stdout is not None
    assert '"starts"' in next_line(follower.stdout)
    for burst in range(6):
        assert fleet.say("chatty", "20") == ["written"], burst
        for number in range(20):
            assert f"line {number:05}" in next_line(follower.stdout)
    assert fleet.layout.log("chatty").with_suffix(".log.1").exists(), "nothing was rotated"
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=20)
    assert "Traceback" not in err


def test_a_log_takes_no_more_than_its_share_of_the_disk(fleet: Fleet) -> None:
    assert fleet.say("chatty", str(LINES)) == ["written"]
    logs = sorted(fleet.layout.logs.glob("chatty.log*"))
    assert [log.name for log in logs] == ["chatty.log", "chatty.log.1", "chatty.log.2"]
    for log in logs:
        assert log.stat().st_size <= LIMIT_BYTES + 200, "the limit and the line that passed it"
        for line in log.read_text("utf-8").splitlines():
            fields = json.loads(line)
            assert fields["bot"] == "chatty"
            assert {"at", "level", "logger", "message"} <= fields.keys()
    assert f"line {LINES - 1:05}" in fleet.log("chatty")


def test_old_lines_are_shown_as_many_as_asked_for(fleet: Fleet) -> None:
    assert len(fleet.dims("logs", "chatty", "-n", "3").out.splitlines()) == 3
    assert fleet.dims("logs", "chatty", "-n", "0").out == ""
    assert "is starting" in fleet.dims("logs", "brain").out


def test_a_log_that_does_not_exist_is_answered_with_those_that_do(fleet: Fleet) -> None:
    refused = fleet.dims("logs", "chaty", code=2)
    assert "there is no log of 'chaty'" in refused.err
    assert "chatty" in refused.err
    for name in ("../state", "/etc/passwd", ""):
        assert fleet.dims("logs", name, code=2).out == ""


def test_a_worker_writes_on_while_its_log_is_deleted(fleet: Fleet) -> None:
    fleet.layout.log("chatty").unlink()
    assert fleet.say("chatty", str(LINES)) == ["written"]
    until(lambda: f"line {LINES - 1:05}" in fleet.log("chatty"), "the log is there again")
