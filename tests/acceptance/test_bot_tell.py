"""`dims bot tell`: what an operator tells a running worker, by the command, on the sandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import Fleet, running, until

from dims.errors import RefusedError

HANDLERS = """
import asyncio
from pathlib import Path

from telethon import events

bot = None


async def setup(context):
    global bot
    bot = context
    while "wait_for" in bot.settings and not Path(bot.settings["wait_for"]).exists():
        await asyncio.sleep(0.01)


async def reload(context):
    if "explode" in context.settings:
        raise ValueError(f"cannot use {context.settings['explode']}")
    context.log.info("reloaded with %s", context.settings)


@events.register(events.NewMessage(incoming=True))
async def on_message(event):
    bot.log.debug("heard %s", event.raw_text)
    if event.raw_text.startswith("hold"):
        while not Path(event.raw_text).exists():
            await asyncio.sleep(0.01)
        await event.respond("held")
    else:
        await event.respond(bot.settings.get("greeting", "-"))
"""
FLEET = """
telegram: {server: sandbox}
bots:
  - {id: greeter, handlers: bot.py, settings: {greeting: "Hello"}}
  - {id: idle, handlers: bot.py}
  - {id: stubborn, handlers: bot.py, limits: {drain_timeout_s: 0.2}}
  - {id: late, handlers: bot.py, settings: {wait_for: go-late}}
"""
GREETER = FLEET.splitlines()[3]
SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("tell")
    with running(directory, FLEET, {"bot.py": HANDLERS}, start=("greeter", "stubborn")) as fleet:
        yield fleet


@pytest.fixture
def _as_at_first(fleet: Fleet) -> Iterator[None]:
    """bots.yaml and the greeter's settings are put back after a test that changes them."""
    yield
    fleet.write("bots.yaml", FLEET)
    fleet.dims("bot", "tell", "greeter", "reload")


def tell(fleet: Fleet, *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = fleet.dims("bot", "tell", *words, "--json").json
    return answer


def change_greeter(fleet: Fleet, line: str) -> None:
    fleet.write("bots.yaml", FLEET.replace(GREETER, f"  - {line}"))


def requests(fleet: Fleet, name: str) -> int:
    return int(fleet.sandbox("status")["requests"].get(name, 0))


@pytest.mark.usefixtures("_as_at_first")
def test_a_reloaded_setting_is_used_by_the_same_process_and_by_the_next(fleet: Fleet) -> None:
    def greeting() -> str:
        return fleet.dims("sandbox", "send", "greeter", "hi", "--wait").out

    assert greeting() == "Hello\n"
    before = fleet.unit("greeter")
    line = f"{{id: greeter, handlers: bot.py, settings: {{greeting: Ahoy, password: {SECRET}}}}}"
    change_greeter(fleet, line)
    assert fleet.dims("bot", "tell", "greeter", "reload").out == "changed: greeting, password\n"
    assert greeting() == "Ahoy\n"
    after = fleet.unit("greeter")
    assert (after["pid"], after["restarts"]) == (before["pid"], before["restarts"])
    until(lambda: "reloaded with" in fleet.log("greeter"), "the hook ran")
    assert SECRET not in fleet.log("greeter")
    assert fleet.dims("bot", "tell", "greeter", "reload").out == "nothing changed\n"

    fleet.kill(before["pid"])
    fleet.until_ready("greeter", after=before["incarnation"])
    assert greeting() == "Ahoy\n"
    assert tell(fleet, "greeter", "reload") == {"changed": [], "needs_restart": []}


@pytest.mark.usefixtures("_as_at_first")
def test_what_a_reload_cannot_change_is_named(fleet: Fleet) -> None:
    line = "{id: greeter, handlers: other.py, admins: [1], limits: {log_bytes: 9999}}"
    change_greeter(fleet, line)
    answer = tell(fleet, "greeter", "reload")
    assert answer["changed"] == ["greeting"]
    assert answer["needs_restart"] == ["admins", "handlers", "limits.log_bytes"]


@pytest.mark.usefixtures("_as_at_first")
def test_a_hook_that_fails_leaves_the_old_settings_in_force(fleet: Fleet) -> None:
    line = f"{{id: greeter, handlers: bot.py, settings: {{greeting: X, explode: {SECRET}}}}}"
    change_greeter(fleet, line.replace("explode", "explode: 1, password"))
    refused = fleet.dims("bot", "tell", "greeter", "reload", code=8)
    assert "reload() raised ValueError: cannot use 1" in refused.err
    assert fleet.say("greeter", "hi") == ["Hello"]
    before = fleet.unit("greeter")
    fleet.dims("bot", "restart", "greeter")
    fleet.until_ready("greeter", after=before["incarnation"])
    assert fleet.say("greeter", "hi") == ["Hello"]


BROKEN = {
    "no YAML": (FLEET + "  - {", 3),
    "a fault of another bot": (FLEET.replace("id: idle", "id: idle, nonsense: 1"), 3),
    "a variable that is not set": (FLEET.replace('"Hello"', "${NOT_SET_ANYWHERE}"), 3),
    "a bot that is gone": (FLEET.replace(GREETER, ""), 2),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.usefixtures("_as_at_first")
def test_a_broken_configuration_changes_nothing(fleet: Fleet, what: str) -> None:
    text, code = BROKEN[what]
    fleet.write("bots.yaml", text)
    refused = fleet.dims("bot", "tell", "greeter", "reload", code=code)
    assert refused.out == ""
    assert refused.err.startswith("dims: ")
    assert fleet.say("greeter", "hi") == ["Hello"]
    assert fleet.dims("health", code=0).out.startswith("well: ")


def test_warmed_entities_are_known_without_asking_again(fleet: Fleet) -> None:
    fleet.say("stubborn", "hi", user="wanda")
    answer = tell(fleet, "greeter", "warm", "entities=@wanda,@nobody_here,@wanda")
    assert answer["warmed"] == 1
    assert list(answer["failed"]) == ["@nobody_here"]
    asked = requests(fleet, "contacts.resolveUsername")
    assert asked > 0
    assert fleet.dims("bot", "tell", "greeter", "warm", "entities=@wanda").out == "1 known\n"
    assert requests(fleet, "contacts.resolveUsername") == asked


def test_dropped_caches_lose_nobody(fleet: Fleet) -> None:
    people = ["anna", "bert", "cleo"]
    for person in people:
        assert fleet.say("greeter", "hi", user=person) == ["Hello"]
    answer = tell(fleet, "greeter", "drop-caches")
    assert answer["dropped"] >= len(people)
    assert answer["kept"] >= 1
    for when in ("before", "after"):
        assert answer[f"unshared_bytes_{when}"] > 100_000
    asked = fleet.sandbox("status")["requests"]
    names = ",".join(f"@{person}" for person in people)
    assert tell(fleet, "greeter", "warm", f"entities={names}")["failed"] == {}
    assert fleet.sandbox("status")["requests"] == asked
    for person in people:
        assert fleet.say("greeter", "hi", user=person) == ["Hello"]
    assert " entities dropped, " in fleet.dims("bot", "tell", "greeter", "drop-caches").out


def test_a_log_level_is_changed_while_the_bot_runs(fleet: Fleet) -> None:
    fleet.say("greeter", "first")
    assert "heard first" not in fleet.log("greeter")
    answer = tell(fleet, "greeter", "log-level", "level=debug", "for_s=600")
    assert answer == {"logger": "", "level": "debug", "was": "info", "for_s": 600}
    fleet.say("greeter", "second")
    assert "heard second" in fleet.log("greeter")
    records = [json.loads(line) for line in fleet.log("greeter").splitlines()]
    low = [r["logger"] for r in records if r["level"] in ("DEBUG", "INFO")]
    assert not [name for name in low if name.startswith("telethon")], "it keeps its own level"
    back = fleet.dims("bot", "tell", "greeter", "log-level", "level=info").out
    assert back == "the root logger is at info; it was at debug\n"
    fleet.say("greeter", "third")
    assert "heard third" not in fleet.log("greeter")
    one = tell(fleet, "greeter", "log-level", "level=error", "logger=bot.greeter")
    assert (one["level"], one["was"]) == ("error", "info")
    tell(fleet, "greeter", "log-level", "level=info", "logger=bot.greeter")


def test_readings_and_stacks_show_what_a_bot_is_at(fleet: Fleet) -> None:
    fleet.tell("greeter", "hold-stacks")
    until(lambda: tell(fleet, "greeter", "readings")["in_hand"] == 1, "one update is in hand")
    readings = tell(fleet, "greeter", "readings")
    unit = fleet.unit("greeter")
    assert (readings["incarnation"], readings["ready"]) == (unit["incarnation"], True)
    assert 0 <= readings["loop_lag_s"] < 5
    assert readings["unshared_bytes"] > 100_000
    for name in ("uptime_s", "updates", "open_files", "threads", "tasks"):
        assert readings[name] > 0, name
    assert readings["trouble"] == ""
    assert len(readings["gc_counts"]) == 3
    assert "in_hand         1\n" in fleet.dims("bot", "tell", "greeter", "readings").out

    level = tell(fleet, "greeter", "log-level", "level=error")["was"]
    shown = fleet.dims("bot", "tell", "greeter", "dump").out
    tell(fleet, "greeter", "log-level", f"level={level}")
    assert "thread MainThread\n" in shown
    assert "in on_message\n    await asyncio.sleep(0.01)\n" in shown
    records = [json.loads(line) for line in fleet.log("greeter").splitlines()]
    assert any("in on_message" in record.get("stacks", "") for record in records)
    assert len(tell(fleet, "greeter", "dump")["stacks"].encode()) <= 256 * 1024
    fleet.write("hold-stacks", "")
    until(lambda: "held" in fleet.replies("greeter"), "the handler ended")


def test_a_drained_bot_finishes_what_is_in_hand_and_comes_back(fleet: Fleet) -> None:
    [before] = fleet.until_ready("greeter")
    fleet.tell("greeter", "hold-drain", user="dora")
    until(lambda: tell(fleet, "greeter", "readings")["in_hand"] == 1, "one update is in hand")
    drain = fleet.front("bot", "tell", "greeter", "drain", "--json")
    fleet.write("hold-drain", "")
    out, err = drain.communicate(timeout=30)
    assert (drain.returncode, json.loads(out)) == (0, {"drained": True, "in_hand": 0}), err
    [after] = fleet.until_ready("greeter", after=before["incarnation"])
    assert after["incarnation"] == before["incarnation"] + 1
    assert fleet.replies("greeter", user="dora") == ["held"]
    told = fleet.dims("bot", "explain", "greeter").out
    assert "drained by the operator" in told


def test_a_bot_that_cannot_be_drained_in_time_says_so_and_leaves_all_the_same(
    fleet: Fleet,
) -> None:
    [before] = fleet.until_ready("stubborn")
    fleet.tell("stubborn", "hold-on")
    until(lambda: tell(fleet, "stubborn", "readings")["in_hand"] == 1, "one update is in hand")
    told = fleet.dims("bot", "tell", "stubborn", "drain").out
    assert told == ("not drained in time: 1 updates are still in hand; a new process follows\n")
    fleet.until_ready("stubborn", after=before["incarnation"])
    fleet.write("hold-on", "")
    until(lambda: fleet.replies("stubborn") == ["held"], "the update came again")


def test_a_bot_that_starts_tells_how_it_is_and_refuses_what_needs_telegram(fleet: Fleet) -> None:
    fleet.ask("start", bots=["late"])
    until(lambda: fleet.unit("late")["pid"], "it has a process")

    def readings() -> dict[str, Any] | None:
        told = fleet.dims("bot", "tell", "late", "readings", "--json", code=None)
        return told.json if told.code == 0 else None

    assert until(readings, "it answers")["ready"] is False
    for words in (("warm", "entities=1"), ("drain",), ("drop-caches",), ("reload",)):
        refused = fleet.dims("bot", "tell", "late", *words, code=11)
        assert "not ready yet" in refused.err
    fleet.write("go-late", "")
    fleet.until_ready("late")
    assert tell(fleet, "late", "readings")["ready"] is True


BAD = {
    "a mistyped command": (("greeter", "log-levle"), "did you mean 'log-level'"),
    "no command of ours": (("greeter", "shutdown"), "reload, warm"),
    "an unknown bot": (("greter", "readings"), "did you mean 'greeter'"),
    "a glob": (("*", "readings"), "no bot '*'"),
    "a value without a name": (("greeter", "log-level", "debug"), "NAME=VALUE"),
    "a name given twice": (("greeter", "log-level", "level=info", "level=info"), "twice"),
    "a name nobody knows": (("greeter", "log-level", "level=info", "fors=1"), "'fors'"),
    "no level": (("greeter", "log-level", "level=loud"), "'loud'"),
    "a level that is no text": (("greeter", "log-level", "level=3"), "must be a text"),
    "no logger": (("greeter", "log-level", "level=info", "logger=no.such"), "'no.such'"),
    "no time": (("greeter", "log-level", "level=info", "for_s=-1"), "for_s"),
    "no end of time": (("greeter", "log-level", "level=info", "for_s=NaN"), "for_s"),
    "nobody to warm": (("greeter", "warm"), "entities"),
    "an entity that is none": (("greeter", "warm", "entities=1,+4917"), "'+4917'"),
    "a flag for an entity": (("greeter", "warm", "entities=true"), "True"),
    "a body for reload": (("greeter", "reload", "settings={}"), "takes nothing"),
    "a body for drain": (("greeter", "drain", "now=1"), "takes nothing"),
    "no time to answer": (("greeter", "readings", "--timeout", "0"), "--timeout"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_error_and_changes_nothing(fleet: Fleet, what: str) -> None:
    words, named = BAD[what]
    before = fleet.unit("greeter")
    refused = fleet.dims("bot", "tell", *words, code=2)
    assert refused.out == ""
    assert refused.err.startswith("dims: ")
    assert named in refused.err
    assert fleet.unit("greeter")["incarnation"] == before["incarnation"]


def test_a_bot_that_is_down_cannot_be_told_anything(fleet: Fleet) -> None:
    assert fleet.unit("idle")["state"] == "stopped"
    refused = fleet.dims("bot", "tell", "idle", "readings", code=6)
    assert "idle is stopped" in refused.err
    assert fleet.dims("bot", "tell", "idle", "reload", code=6).out == ""


def test_a_worker_refuses_a_command_that_it_does_not_know(fleet: Fleet) -> None:
    with pytest.raises(RefusedError, match="this worker does not know 'dance'") as refused:
        fleet.ask("tell", bot="greeter", command="dance", body={}, timeout_s=5)
    assert "restart the bot" in refused.value.hint


def test_a_fleet_that_does_not_run_is_said_so(fleet: Fleet) -> None:
    refused = fleet.dims("bot", "tell", "greeter", "dump", "--state-dir", "elsewhere", code=6)
    assert "no supervisor runs" in refused.err
