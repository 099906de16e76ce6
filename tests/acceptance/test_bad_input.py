"""Bad input of any kind: one clear error, the documented exit code, and nothing is changed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fleet import ECHO, NOBODY, Fleet, MakeFleet, Result, as_nobody, running, until

from dims.cli import launch  # noqa: F401 (see as_nobody)
from dims.cli.commands import fleet as fleet_commands  # noqa: F401 (see as_nobody)
from dims.cli.commands import run as run_command  # noqa: F401 (see as_nobody)
from dims.cli.main import main
from dims.config import load_config

ECHO_FILE = {"echo.py": ECHO}
GOOD = """
telegram: {server: sandbox}
bots:
  - {id: echo, handlers: echo.py}
"""


def complaints(result: Result) -> list[str]:
    """The lines of complaint; there is no traceback, and each line is ours."""
    assert "Traceback" not in result.err
    return [line.removeprefix("dims: ") for line in result.err.splitlines() if "hint:" not in line]


BAD_FILES = {
    "malformed YAML": ("telegram: {server: sandbox\nbots: [\n", "bots.yaml:"),
    "no YAML at all": ("\x00\x01", "bots.yaml"),
    "an unknown key": (GOOD.replace("id: echo,", "id: echo, handlerz: x,"), "handlerz"),
    "an unknown section": (GOOD + "extra: 1\n", "extra"),
    "a duplicate id": (GOOD + "  - {id: echo, handlers: echo.py}\n", "echo"),
    "an empty token": (GOOD.replace("id: echo,", 'id: echo, token: "",'), "token"),
    "a variable that is not set": (GOOD.replace("id: echo,", "id: echo, token: '${T}',"), "T"),
    "a bad id": (GOOD.replace("id: echo", "id: ../echo"), "id"),
    "no bots": ("telegram: {server: sandbox}\n", "bots"),
    "no server": ("bots:\n  - {id: echo, handlers: echo.py}\n", "telegram"),
    "an empty file": ("", "bots.yaml"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_wrong_configuration_starts_nothing_and_makes_nothing(
    make_fleet: MakeFleet, what: str
) -> None:
    text, named = BAD_FILES[what]
    fleet = make_fleet(text, files=ECHO_FILE)
    for words in (("start", "--all"), ("run", "echo")):
        refused = fleet.dims(*words, code=3)
        assert refused.out == ""
        lines = complaints(refused)
        assert len(lines) == 1, lines
        assert lines[0].startswith("bots.yaml") or str(fleet.config) in lines[0]
        assert named in lines[0]
    assert sorted(path.name for path in fleet.directory.iterdir()) == ["bots.yaml", "echo.py"]


def test_a_missing_configuration_is_named(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    for words in (("start",), ("run", "echo"), ("config", "check")):
        assert "bots.yaml" in complaints(fleet.dims(*words, code=3))[0]
    assert list(fleet.directory.iterdir()) == []


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("bad"), GOOD, ECHO_FILE) as fleet:
        yield fleet


def test_a_configuration_that_broke_after_the_start_changes_nothing(started: Fleet) -> None:
    before = started.unit("echo")
    started.write("bots.yaml", "bots: [")
    try:
        assert started.say("echo", "still here") == ["still here"]
        assert "already running" in started.dims("start", code=None).out
        started.dims("bot", "restart", "echo")
        assert started.unit("echo")["incarnation"] == before["incarnation"] + 1
    finally:
        started.write("bots.yaml", GOOD)


BAD_CODE = {
    "missing": (None, "missing.py"),
    "unparsable": ("def setup(:\n", "unparsable.py:1"),
    "raising": ("\nimport no_such_module\n", "raising.py:2"),
    "dividing": ("\n\n1 / 0\n", "dividing.py:3"),
    "synchronous": ("def setup(bot): pass\n", "async def setup(bot)"),
}


def test_code_that_cannot_be_loaded_is_told_with_its_place_and_stops_no_other_bot(
    make_fleet: MakeFleet,
) -> None:
    bots = "".join(f"  - {{id: {name}, handlers: {name}.py}}\n" for name in BAD_CODE)
    files = {f"{name}.py": text for name, (text, _) in BAD_CODE.items() if text is not None}
    fleet = make_fleet(GOOD + bots, files={"echo.py": ECHO, **files})
    refused = fleet.dims("start", "--all", code=8)
    [line] = complaints(refused)[-1:]
    for name, (_, named) in BAD_CODE.items():
        bot = fleet.unit(name)
        assert (bot["state"], bot["failure"]) == ("failed", "needs operator")
        assert named in bot["reason"]
        assert f"{name} is failed: " in line
        alone = fleet.dims("run", name, code=8)
        assert named in complaints(alone)[-1]
    assert fleet.say("echo", "unharmed") == ["unharmed"]
    checked = fleet.dims("config", "check", code=3)
    assert "missing.py" in checked.err
    assert "unparsable.py:1" in checked.err


def test_a_port_in_use_is_one_clear_error(make_fleet: MakeFleet) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        text = GOOD.replace("server: sandbox", f"server: sandbox, sandbox_port: {port}")
        fleet = make_fleet(text, files=ECHO_FILE)
        for words in (("run", "echo"), ("start", "--all")):
            refused = fleet.dims(*words, code=9)
            assert len(complaints(refused)) == 1
            assert str(port) in complaints(refused)[0]
            assert fleet.leftovers() == []


def test_a_token_that_is_none_fails_its_own_bot_only(make_fleet: MakeFleet) -> None:
    two = GOOD.replace("id: echo,", "id: echo, token: nonsense,")
    fleet = make_fleet(two + "  - {id: other, handlers: echo.py}\n", files=ECHO_FILE)
    refused = fleet.dims("start", "--all", code=8)
    [line] = [line for line in complaints(refused) if "echo is failed" in line]
    assert "not a bot token" in line
    assert "nonsense" not in refused.err + refused.out
    assert fleet.unit("other")["state"] == "ready"


def test_a_service_that_does_not_come_up_is_told_and_not_waited_for_for_ever(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(GOOD, files={**ECHO_FILE, ".dims/sandbox": "in the way"})
    refused = fleet.dims("start", "--all", code=9)
    [line] = complaints(refused)[1:]
    assert line.startswith("sandbox does not come up, and bots wait for it: ")
    assert "in the way" not in line


@pytest.mark.parametrize("place", ["file", "below a file", "/proc/dims"])
def test_a_state_directory_that_cannot_be_is_refused_with_a_way_out(
    make_fleet: MakeFleet, place: str
) -> None:
    fleet = make_fleet(GOOD, files={"echo.py": ECHO, "file": "in the way"})
    state = {"below a file": "file/state"}.get(place, place)
    for words in (("start", "--all"), ("run", "echo")):
        refused = fleet.dims(*words, "--state-dir", state, code=4)
        [line] = complaints(refused)
        assert state.split("/")[-1] in line or "file" in line
        assert "dims run BOT --state-dir" in refused.err
    assert not (fleet.directory / ".dims").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_state_directory_of_somebody_else_is_refused_with_a_way_out(tmp_path: Path) -> None:
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0 and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    fleet = Fleet(tmp_path / "fleet", GOOD, {"echo.py": ECHO})
    fleet.directory.chmod(0o755)
    fleet.config.chmod(0o644)
    load_config(fleet.config, {})  # what it imports on its way, another user may not read
    for words in (["start", "--all"], ["run", "echo"]):
        refused = as_nobody(partial(main, [*words, "--config", str(fleet.config)]))
        assert refused.code == 4, refused
        assert str(fleet.layout.state) in complaints(refused)[0]
        assert "dims run BOT --state-dir" in refused.err
    assert not fleet.layout.state.exists()
    fleet.layout.state.mkdir()
    os.chown(fleet.layout.state, NOBODY + 1, -1)
    refused = as_nobody(lambda: main(["start", "--config", str(fleet.config)]))
    assert refused.code == 4, refused
    assert "belongs to user" in complaints(refused)[0]


def start_keeper(fleet: Fleet) -> subprocess.CompletedProcess[str]:
    """A keeper on the fleet's state directory, past all the checks of `dims start`."""
    reading, writing = os.pipe()
    os.close(writing)
    words = ["--state-dir", str(fleet.layout.state), "--config", str(fleet.config)]
    try:
        return subprocess.run(
            [sys.executable, "-m", "dims.supervisor.keeper", *words, "--handed-fd", str(reading)],
            pass_fds=(reading,),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    finally:
        os.close(reading)


def test_a_second_supervisor_on_the_same_state_is_refused(started: Fleet) -> None:
    before = started.status()
    refused = start_keeper(started)
    assert refused.returncode == 5, refused
    assert f"pid {before['supervisor']['keeper_pid']}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    after = started.status()
    assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
    assert after["bots"][0]["pid"] == before["bots"][0]["pid"]
    assert started.say("echo", "one of me") == ["one of me"]


def test_without_its_keeper_a_running_brain_still_keeps_a_second_supervisor_out(
    started: Fleet,
) -> None:
    before = started.supervisor()
    started.kill(before["keeper_pid"])
    told: set[int | None] = set()

    def asked() -> bool:
        told.add(started.supervisor()["keeper_pid"])
        return None in told

    until(asked, "the brain knows")
    assert told <= {before["keeper_pid"], None}, "it took its new parent for the keeper"
    assert "already" in started.dims("start", "--foreground", code=2).err
    refused = start_keeper(started)
    assert refused.returncode == 5, refused
    assert f"pid {before['pid']}" in refused.stderr
    assert started.supervisor()["pid"] == before["pid"]
    assert started.say("echo", "still me") == ["still me"]


@pytest.mark.parametrize(
    "words",
    [
        ("strat",),
        ("start", "--al"),
        ("bot", "explode", "echo"),
        ("sandbox", "fault", "set", "earthquake"),
        ("start", "--all", "echo"),
        ("logs",),
    ],
)
def test_a_mistyped_command_is_a_usage_error(make_fleet: MakeFleet, words: tuple[str]) -> None:
    refused = make_fleet(GOOD).dims(*words, code=2)
    assert refused.out == ""
    assert refused.err
