"""The repository's own bots.yaml, as a newcomer tries it: three bots on the sandbox."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import DIMS, REPOSITORY, Fleet, Result, running, until
from stored import forget

from dims.layout import Layout

BOTS = ["echo", "admin", "buttons"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("three") / "fleet"
    shutil.copytree(REPOSITORY / "examples", directory / "examples")
    # With all that is there by default: the database as well.
    text = (REPOSITORY / "bots.yaml").read_text("utf-8") + "\nstorage: {}\n"
    try:
        with running(directory, text, start=("--all",)) as fleet:
            yield fleet
    finally:
        forget(Layout(directory / ".dims"))


def press(fleet: Fleet, label: str, message_id: int) -> dict[str, Any]:
    return fleet.sandbox("press", bot="buttons", user="you", message_id=message_id, button=label)


def test_a_first_start_shows_every_bot_ready_and_what_to_do_next(fleet: Fleet) -> None:
    first = fleet.started
    assert first is not None
    lines = first.out.splitlines()
    assert lines[0].startswith("SANDBOX  supervisor pid ")
    assert lines[2].split()[:4] == ["BOT", "STATE", "PID", "UP"]
    assert [line.split()[:2] for line in lines[3:6]] == [[bot, "ready"] for bot in BOTS]
    assert re.search(r"^started in \d+\.\d s$", first.out, re.MULTILINE)
    assert lines[-1] == "Next: dims sandbox chat echo"
    assert "3 of 3 bots ready" in first.err


def test_a_second_start_says_that_it_runs_already_and_changes_nothing(fleet: Fleet) -> None:
    before = fleet.status()
    second = fleet.dims("start", "--all")
    after = fleet.status()
    assert "already running" in second.out
    assert [bot["pid"] for bot in after["bots"]] == [bot["pid"] for bot in before["bots"]]
    assert after["supervisor"]["pid"] == before["supervisor"]["pid"]


def test_every_status_says_that_this_is_the_sandbox(fleet: Fleet) -> None:
    for words in (("status",), ("sandbox", "status"), ("start",)):
        assert fleet.dims(*words).out.startswith("SANDBOX  "), words


def test_the_echo_bot_repeats_what_it_is_told(fleet: Fleet) -> None:
    assert fleet.dims("sandbox", "send", "echo", "hello", "--wait").out == "hello\n"
    assert fleet.dims("sandbox", "send", "echo", "1 < 2 **&** [x]", "--wait").out == (
        "1 < 2 **&** [x]\n"
    )
    assert fleet.say("echo", "/start")[0].startswith("Hello! Send me a text, and I send it back")


def test_a_configured_admin_is_told_the_status_and_others_are_refused(fleet: Fleet) -> None:
    [told] = fleet.say("admin", "/status", user="alice")
    assert re.fullmatch(r"admin: up \d+ s, incarnation \d+, \d+\.\d MB of its own", told)
    refused = fleet.say("admin", "/status", user="mallory")
    assert refused == ["Sorry, only this bot's admins can do that."]


def test_an_admins_restart_gives_a_new_incarnation_and_others_cannot_have_it(fleet: Fleet) -> None:
    before = fleet.unit("admin")
    fleet.say("admin", "/restart", user="mallory")
    assert fleet.unit("admin")["pid"] == before["pid"]
    assert fleet.say("admin", "/restart", user="alice") == ["Restarting. Back in a moment."]
    [after] = fleet.until_ready("admin", after=before["incarnation"])
    assert after["incarnation"] == before["incarnation"] + 1
    assert after["pid"] != before["pid"]
    [told] = fleet.say("admin", "/status", user="alice")
    assert f"incarnation {after['incarnation']}" in told
    assert len(fleet.replies("admin", user="alice")) == 3, "the old update was handled twice"


def test_pressing_a_button_edits_its_message(fleet: Fleet) -> None:
    menu = fleet.sandbox("send", bot="buttons", user="you", text="/start", wait_s=10)["replies"][0]
    assert menu["text"] == "Count: 0"
    pressed = press(fleet, "+1", menu["id"])
    assert pressed["answer"]["text"] == "Now 1"
    [edited] = [event["message"] for event in pressed["events"] if event["event"] == "edit"]
    assert (edited["id"], edited["text"]) == (menu["id"], "Count: 1")
    assert fleet.dims("sandbox", "press", "buttons", "+1").out.splitlines()[:2] == [
        "[Now 2]",
        "buttons (edited)> Count: 2",
    ]
    press(fleet, "Delete", menu["id"])
    history = fleet.sandbox("history", bot="buttons", user="you")["messages"]
    assert menu["id"] not in [message["id"] for message in history]


def test_the_status_as_json_has_the_documented_shape(fleet: Fleet) -> None:
    status = fleet.dims("status", "--json").json
    supervisor = status["supervisor"]
    assert {"pid", "keeper_pid", "uptime_s"} <= supervisor.keys()
    assert isinstance(supervisor["pid"], int)
    assert isinstance(supervisor["keeper_pid"], int)
    assert supervisor["uptime_s"] > 0
    assert [bot["id"] for bot in status["bots"]] == BOTS
    for bot in status["bots"]:
        assert bot["state"] == "ready"
        assert bot["incarnation"] >= 1
        assert bot["restarts"] == bot["incarnation"] - 1
        assert isinstance(bot["pid"], int)
        assert 0 < bot["ready_s"] < 10
        assert bot["uptime_s"] > 0
        assert bot["unshared_bytes"] > 100_000
        assert isinstance(bot["reason"], str)
    assert fleet.dims("bot", "list", "--json").json["bots"][0].keys() == status["bots"][0].keys()


def test_health_is_well_while_all_wanted_bots_serve(fleet: Fleet) -> None:
    assert fleet.dims("health", code=0).out == "well: 3 of 3 wanted bots serve\n"
    assert fleet.dims("health", "--json", code=0).json["level"] == "well"


def test_explain_tells_why_and_what_comes_next(fleet: Fleet) -> None:
    told = fleet.dims("bot", "explain", "echo").out
    assert told.startswith("echo is ready (wanted: running)\n")
    assert "next   serves" in told
    events = fleet.dims("bot", "explain", "echo", "--json").json["events"]
    assert [event["state"] for event in events][-1] == "ready"


def test_an_unknown_bot_is_answered_with_the_nearest_one(fleet: Fleet) -> None:
    complaints: list[Result] = [
        fleet.dims("bot", "explain", "ecko", code=2),
        fleet.dims("bot", "restart", "ecko", code=2),
        fleet.dims("start", "ecko", code=2),
        fleet.dims("run", "ecko", code=2),
    ]
    for complaint in complaints:
        assert complaint.out == ""
        assert "ecko" in complaint.err
        assert "echo" in complaint.err


def test_a_bot_that_is_told_to_restart_keeps_its_session(fleet: Fleet) -> None:
    before, cold = fleet.unit("echo"), fleet.account("echo")["cold_logins"]
    fleet.dims("bot", "restart", "echo")
    after = fleet.unit("echo")
    assert (after["state"], after["incarnation"]) == ("ready", before["incarnation"] + 1)
    assert fleet.account("echo")["cold_logins"] == cold
    assert fleet.account("echo")["duplicated"] == 0
    assert fleet.say("echo", "still there?") == ["still there?"]


def test_globs_name_many_bots_at_once(fleet: Fleet) -> None:
    stopped = fleet.dims("bot", "stop", "*o", "b*")
    assert [line.split()[:2] for line in stopped.out.splitlines()[1:]] == [
        ["echo", "stopped"],
        ["buttons", "stopped"],
    ]
    assert fleet.unit("admin")["state"] == "ready"
    started = fleet.dims("bot", "start", "*")
    assert [line.split()[1] for line in started.out.splitlines()[1:]] == ["ready"] * 3


def test_a_chat_in_the_terminal_shows_what_the_bot_says(fleet: Fleet) -> None:
    chat = subprocess.Popen(
        [DIMS, "sandbox", "chat", "buttons", "--as", "carol"],
        cwd=fleet.directory,
        env=fleet.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert chat.stdin is not None
    assert chat.stdout is not None
    assert "you are carol" in chat.stdout.readline()
    for line, answer in (("/start", "buttons> Count: 0"), ("/press +1", "edited)> Count: 1")):
        chat.stdin.write(line + "\n")
        chat.stdin.flush()
        while answer not in chat.stdout.readline():
            assert chat.poll() is None
    out, err = chat.communicate(timeout=20)
    assert chat.returncode == 0, (out, err)
    assert "Traceback" not in err


def test_the_echo_bot_counts_in_the_database_what_each_person_has_said(fleet: Fleet) -> None:
    for number in (1, 2, 3):
        assert fleet.say("echo", f"number {number}", user="ann") == [f"number {number}"]
    assert fleet.say("echo", "/count", user="ann") == ["I have heard 3 of your messages."]
    before = fleet.unit("echo")["pid"]
    fleet.dims("bot", "restart", "echo")
    until(lambda: fleet.unit("echo")["pid"] not in (before, None), "another worker runs")
    fleet.until_ready()
    assert fleet.say("echo", "/count", user="ann") == ["I have heard 3 of your messages."]
    asked = "SELECT count(*) FROM dims.messages WHERE text LIKE 'number _'"
    shown = fleet.dims("db", "psql", "--as", "echo", "--", "-Atc", asked)
    assert shown.out == "3\n"
    assert fleet.dims("db", "psql", "--as", "admin", "--", "-Atc", asked).out == "0\n"
