"""Stopping leaves nothing behind, and what was wanted is wanted again at the next start."""

from __future__ import annotations

import os
import signal

from fleet import ECHO, Fleet, MakeFleet, is_running, parent_of, until

from dims.errors import UsageError

TWO_BOTS = """
telegram: {server: sandbox}
bots:
  - {id: echo, handlers: echo.py}
  - {id: other, handlers: echo.py}
"""


def states(fleet: Fleet) -> dict[str, str]:
    return {bot["id"]: bot["state"] for bot in fleet.status()["bots"]}


def test_stopping_leaves_nothing_and_the_wishes_of_the_operator_survive_it(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(TWO_BOTS, files={"echo.py": ECHO})
    assert fleet.dims("stop").out == "not running\n"
    assert fleet.dims("status", code=6).err.startswith("dims: ")
    assert fleet.dims("health", code=2).out.startswith("down: ")

    fleet.start("--all")
    # The spare worker lives where only root may look.
    expected = 7 if os.geteuid() == 0 else 6
    all_of_it = "keeper, brain, zygote, sandbox, two workers and a spare one"
    until(lambda: len(fleet.processes()) == expected, all_of_it)
    fleet.dims("bot", "stop", "echo")
    assert states(fleet) == {"echo": "stopped", "other": "ready"}
    assert fleet.dims("health", code=0).out == "well: 1 of 1 wanted bots serve\n"

    assert fleet.dims("stop").out == "stopped 1 bots\n"
    assert fleet.leftovers() == []
    assert fleet.dims("stop").out == "not running\n"
    assert fleet.dims("health", code=2).out.startswith("down: ")

    fleet.start("--timeout", "30")
    assert states(fleet) == {"echo": "stopped", "other": "ready"}
    fleet.start("--all")
    assert states(fleet) == {"echo": "ready", "other": "ready"}
    assert fleet.say("echo", "back") == ["back"]
    cold = {name: fleet.account(name)["cold_logins"] for name in ("echo", "other")}
    assert cold == {"echo": 0, "other": 0}, "a session was lost over the restart"


def test_a_fleet_in_the_foreground_ends_on_a_signal_with_nothing_left(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(TWO_BOTS, files={"echo.py": ECHO})
    front = fleet.front("start", "--all", "--foreground")
    fleet.until_ready()
    assert fleet.supervisor()["keeper_pid"] == front.pid
    refused = fleet.dims("start", "--all", "--foreground", code=2)
    assert "runs already" in refused.err
    front.send_signal(signal.SIGINT)
    out, err = front.communicate(timeout=30)
    assert front.returncode == 0, (out, err)
    assert "Traceback" not in err
    assert fleet.leftovers() == []


def test_one_bot_runs_in_the_foreground_on_a_sandbox_of_its_own(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(TWO_BOTS, files={"echo.py": ECHO})
    front = fleet.front("run", "echo")
    fleet.processes()
    assert until(lambda: answer(fleet, "alone"), "an answer") == ["alone"]
    children = [pid for pid in fleet.processes() if parent_of(pid) == front.pid]
    assert len(children) == 1, "one sandbox"
    front.send_signal(signal.SIGINT)
    _, err = front.communicate(timeout=30)
    assert front.returncode == 0, err
    assert "SANDBOX" in err
    assert "Traceback" not in err
    assert not is_running(children[0])
    assert fleet.leftovers() == []


def answer(fleet: Fleet, text: str) -> list[str]:
    """What echo answers; nothing while its sandbox does not know the bot yet."""
    try:
        return fleet.say("echo", text, wait_s=1)
    except UsageError:
        return []


def test_a_killed_run_takes_its_sandbox_with_it_and_is_in_nobodys_way(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(TWO_BOTS, files={"echo.py": ECHO})
    for _ in range(2):
        front = fleet.front("run", "echo")
        assert until(lambda: answer(fleet, "alone"), "an answer") == ["alone"]
        fleet.processes()
        front.kill()
        front.communicate(timeout=30)
        until(lambda: not fleet.processes(), "the sandbox has left as well")
    front = fleet.front("run", "echo")
    until(lambda: answer(fleet, "again"), "an answer")


def test_a_bot_that_the_fleet_runs_cannot_be_run_by_hand_and_the_others_can(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(TWO_BOTS, files={"echo.py": ECHO})
    fleet.start("other")
    holder = fleet.unit("other")
    refused = fleet.dims("run", "other", code=5)
    complaints = [line for line in refused.err.splitlines() if line.startswith("dims: ")]
    assert len(complaints) == 1, refused.err
    assert f"pid {holder['pid']}" in complaints[0]
    assert "'other'" in complaints[0]
    assert fleet.unit("other")["pid"] == holder["pid"]
    assert fleet.account("other")["duplicated"] == 0

    front = fleet.front("run", "echo")
    assert until(lambda: answer(fleet, "by hand"), "an answer") == ["by hand"]
    front.send_signal(signal.SIGTERM)
    front.communicate(timeout=30)
    assert front.returncode == 0
    assert states(fleet) == {"echo": "stopped", "other": "ready"}
    assert fleet.say("other", "here") == ["here"], "the fleet's sandbox left with the bot"
