"""A bot's code may say anything on the bot socket, as its own process: it hurts only itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import ECHO, Fleet, running

LIAR = """
import json
import socket
import struct
from pathlib import Path

from telethon import events

bot = None


async def setup(context):
    global bot
    bot = context


def frame(kind, body):
    wire = {"v": 1, "id": "1", "kind": kind, "from": "a", "to": "b", "body": body}
    payload = json.dumps(wire).encode()
    return struct.pack(">2sI", b"DM", len(payload)) + payload


@events.register(events.NewMessage(incoming=True))
async def on_message(event):
    hello = {"unit": bot.id, "incarnation": bot.status()["incarnation"]}
    with socket.socket(socket.AF_UNIX) as brain:
        brain.connect(bot.settings["socket"])
        brain.sendall(frame("hello", hello))
        brain.recv(65536)
        for kind, body in json.loads(Path("lie.json").read_text()):
            brain.sendall(frame(kind, body))
    await event.respond("said")
"""
FLEET = """
telegram: {server: sandbox}
defaults:
  restart: {first_delay_s: 0.05, max_delay_s: 0.1, max_restarts: 100}
  limits: {heartbeat_s: 0.2}
bots:
  - {id: echo, handlers: echo.py}
  - {id: liar, handlers: liar.py, settings: {socket: "${BOT_SOCKET}"}}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("lies")
    (directory / ".dims").mkdir(mode=0o700)
    variables = {"BOT_SOCKET": str(Fleet(directory).layout.bot_socket)}
    with running(directory, FLEET, {"echo.py": ECHO, "liar.py": LIAR}, variables) as fleet:
        yield fleet


STRANGE: list[Any] = ["x" * 10_000, [1], {"a": 1}, -1, 1e308, True, None, 10**30]
TROUBLES: list[Any] = [1, [], "a\nb\x1b[2J"]
POOLS: list[Any] = ["x", 1, [1], [{}], {"open": "x"}, {"open": 10**30}, {"\x1b[2J": 1}, None]
LIES: dict[str, list[Any]] = {
    "readings of all kinds": [
        ["heartbeat", {"unshared_bytes": value, "loop_lag_s": value, "updates": value}]
        for value in STRANGE
    ],
    "troubles of all kinds": [["heartbeat", {"trouble": value}] for value in TROUBLES],
    "nonsense kinds": [["no such kind", {}], ["forked", {"unit": "echo", "pid": 1}], ["ready", {}]],
    "another's exit": [["exited", {"pid": 1, "started": 0, "code": 0, "signal": None}]],
    "a malformed will": [["last_will", {"failure": "made up"}], ["last_will", {}]],
    "connections of all kinds": [
        ["connections", {"holds": value, "wants": value, "seen": value}]
        for value in ("x" * 10_000, [1], -1, 1.5, True, None, 10**30, 2**53 - 1, 10**9)
    ],
    "connections without numbers": [["connections", {}], ["connections", {"holds": 1}]],
    "pools of all kinds": [["heartbeat", {"pool": value, "slow": value}] for value in POOLS],
    "a pool of a thousand numbers": [
        ["heartbeat", {"pool": {f"n{number}": number for number in range(1_000)}}]
    ],
    "slow queries without end": [
        ["heartbeat", {"slow": [{"at": 1, "took_s": 1, "sql": "\x1b[2J" + "x" * 1_000}] * 500}]
    ],
    "roles": [["roles", {"roles": {}, "refused": {}}], ["rotate", {}]],
    "a will of no class": [
        ["last_will", {"failure": "crash", "reason": [1], "retry_after_s": "x"}]
    ],
}


@pytest.mark.parametrize("what", LIES)
def test_a_lie_is_shown_to_nobody_and_hurts_nobody_else(fleet: Fleet, what: str) -> None:
    fleet.until_ready()
    before = fleet.status()
    fleet.write("lie.json", json.dumps(LIES[what]))
    assert fleet.say("liar", "lie") == ["said"]
    shown = fleet.dims("status", "--json").json
    table = fleet.dims("status").out
    assert "\x1b" not in table
    assert max(map(len, table.splitlines())) < 2_000
    liar = next(bot for bot in shown["bots"] if bot["id"] == "liar")
    for name in ("unshared_bytes", "loop_lag_s", "updates"):
        assert liar[name] is None or 0 <= liar[name] < 2**53
    storage = json.dumps(fleet.ask("storage"), ensure_ascii=False)
    assert "\x1b" not in storage
    assert len(storage) < 50_000
    after = fleet.status()
    assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
    assert after["services"][0]["pid"] == before["services"][0]["pid"]
    echo = fleet.unit("echo")
    assert (echo["state"], echo["restarts"]) == ("ready", 0)
    assert fleet.say("echo", what) == [what]


def test_a_will_that_a_bot_makes_up_ends_only_itself(fleet: Fleet) -> None:
    [before] = fleet.until_ready("liar")
    will = {"failure": "network", "reason": "no more\nof this \x1b[31m" + "x" * 100_000}
    fleet.write("lie.json", json.dumps([["last_will", will]]))
    fleet.say("liar", "lie")
    fleet.kill(before["pid"])
    [after] = fleet.until_ready("liar", after=before["incarnation"])
    told = fleet.dims("bot", "explain", "liar").out
    assert "\x1b" not in told
    assert max(map(len, told.splitlines())) < 2_000
    assert after["restarts"] >= 1
    assert fleet.unit("echo")["restarts"] == 0
