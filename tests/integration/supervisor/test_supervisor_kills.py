"""kill -9 of any one process: nothing is lost, nothing runs twice, all is whole again by itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fleet import ECHO, Fleet, MakeFleet, is_running, running, until

from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.framing import encode
from dims.ipc.wire.ids import new_id

BOTS = ("ada", "bob")
FLEET = """
telegram: {server: sandbox}
defaults:
  restart: {first_delay_s: 0.1, max_delay_s: 0.5, max_restarts: 100}
  limits: {heartbeat_s: 0.5, stuck_after_s: 10, drain_timeout_s: 5}
bots:
  - {id: ada, handlers: echo.py}
  - {id: bob, handlers: echo.py}
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("kills"), FLEET, {"echo.py": ECHO}) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared: Fleet) -> Fleet:
    """The shared fleet, whole again after the test before."""
    shared.until_ready()
    return shared


def pids(fleet: Fleet) -> dict[str, int]:
    return {bot["id"]: bot["pid"] for bot in fleet.status()["bots"]}


def kill_supervisor(fleet: Fleet) -> None:
    """Keeper and brain at once: nobody is left above the bots."""
    supervisor = fleet.supervisor()
    fleet.kill(supervisor["keeper_pid"])
    fleet.kill(supervisor["pid"])


def is_connected(fleet: Fleet, bot: str) -> bool:
    """Whether the bot has one connection to Telegram."""
    return bool(fleet.account(bot)["connections"] == 1)


def assert_serves(fleet: Fleet) -> None:
    """Every bot answers, and no session was ever used twice or made anew."""
    for bot in BOTS:
        text = f"to {bot} #{len(fleet.replies(bot))}"
        assert fleet.say(bot, text) == [text]
        account = fleet.account(bot)
        assert account["duplicated"] == 0
        assert account["cold_logins"] <= 1
        assert account["connections"] == 1
    assert "two places" not in fleet.log("brain")


@contextmanager
def never_two_workers(fleet: Fleet) -> Iterator[None]:
    """Looks all the time at how many processes there are of each bot."""
    ended = threading.Event()
    doubles: list[set[int]] = []

    def look() -> None:
        while not ended.wait(0.005):
            for bot in BOTS:
                found = fleet.titled(f"dims: worker {bot}")
                if len(found) > 1:
                    doubles.append(found)

    witness = threading.Thread(target=look)
    witness.start()
    try:
        yield
    finally:
        ended.set()
        witness.join()
    assert doubles == []


def test_a_killed_worker_comes_back_and_answers_what_was_said_meanwhile(fleet: Fleet) -> None:
    before = fleet.unit("ada")
    fleet.kill(before["pid"])
    told = [f"said while down {number}" for number in range(5)]
    for text in told:
        fleet.tell("ada", text)
    [after] = fleet.until_ready("ada", after=before["incarnation"])
    assert after["incarnation"] == before["incarnation"] + 1
    assert after["restarts"] == before["restarts"] + 1
    until(lambda: set(told) <= set(fleet.replies("ada")), "every message is answered")
    events = fleet.ask("explain", bot="ada")["events"]
    assert "killed by signal 9" in next(e for e in events if e["state"] == "backing_off")["reason"]
    assert fleet.unit("bob")["restarts"] == 0
    assert_serves(fleet)


def test_messages_in_hand_at_the_kill_are_answered_by_the_next_incarnation(fleet: Fleet) -> None:
    before = fleet.unit("ada")
    told = [f"in hand {number}" for number in range(40)]
    for text in told[:20]:
        fleet.tell("ada", text)
    fleet.kill(before["pid"])
    for text in told[20:]:
        fleet.tell("ada", text)
    fleet.until_ready("ada", after=before["incarnation"])
    until(lambda: set(told) <= set(fleet.replies("ada")), "every message is answered")
    assert_serves(fleet)


def test_a_killed_brain_comes_back_and_no_bot_runs_twice_meanwhile(fleet: Fleet) -> None:
    before, workers = fleet.supervisor(), pids(fleet)
    with never_two_workers(fleet):
        fleet.kill(before["pid"])
        fleet.tell("ada", "said without a brain")
        until(lambda: fleet.supervisor()["pid"] != before["pid"], "a new brain answers")
        fleet.until_ready()
        until(lambda: not any(is_running(pid) for pid in workers.values()), "the old are gone")
        fleet.until_ready()
    assert fleet.supervisor()["keeper_pid"] == before["keeper_pid"]
    until(lambda: "said without a brain" in fleet.replies("ada"), "it is answered")
    assert fleet.dims("health", code=0)
    assert_serves(fleet)


def test_while_no_brain_is_there_the_bots_serve(fleet: Fleet) -> None:
    """The brain is stopped, not killed: a kill is mended faster than one can ask anything."""
    brain = fleet.supervisor()["pid"]
    fleet.kill(brain, 19)
    try:
        assert fleet.say("ada", "nobody watches") == ["nobody watches"]
    finally:
        fleet.kill(brain, 18)
    fleet.until_ready()
    assert_serves(fleet)


def test_a_killed_zygote_takes_no_bot_with_it_and_the_next_one_forks_again(fleet: Fleet) -> None:
    before, workers = fleet.unit("zygote"), pids(fleet)
    fleet.kill(before["pid"])
    assert fleet.say("ada", "who forks now?") == ["who forks now?"]
    fleet.until_state("zygote", "ready", after=before["incarnation"])
    assert fleet.unit("zygote")["incarnation"] == before["incarnation"] + 1
    assert pids(fleet) == workers
    killed = fleet.unit("bob")
    fleet.kill(killed["pid"])
    fleet.until_ready("bob", after=killed["incarnation"])
    assert pids(fleet)["ada"] == workers["ada"]
    assert "killed by signal 9" in str(fleet.ask("explain", bot="bob")["events"][-4:])
    assert_serves(fleet)


def test_after_a_kill_of_the_local_telegram_the_bots_serve_with_their_old_sessions(
    fleet: Fleet,
) -> None:
    before = fleet.unit("sandbox")
    fleet.kill(before["pid"])
    fleet.until_state("sandbox", "ready", after=before["incarnation"])
    assert fleet.unit("sandbox")["incarnation"] == before["incarnation"] + 1
    for bot in BOTS:
        until(partial(is_connected, fleet, bot), f"{bot} is connected")
    fleet.until_ready()
    assert_serves(fleet)
    assert [fleet.account(bot)["cold_logins"] for bot in BOTS] == [0, 0]


def test_zygote_and_brain_killed_together_are_both_replaced(fleet: Fleet) -> None:
    before = fleet.status()
    zygote = fleet.unit("zygote")
    fleet.kill(before["supervisor"]["pid"])
    fleet.kill(zygote["pid"])
    until(lambda: fleet.supervisor()["pid"] != before["supervisor"]["pid"], "a new brain answers")
    until(lambda: fleet.unit("zygote")["pid"] not in (None, zygote["pid"]), "a new zygote")
    fleet.until_ready()
    assert_serves(fleet)


def test_without_its_keeper_a_fleet_goes_on_and_can_be_stopped_and_started(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(FLEET, files={"echo.py": ECHO})
    fleet.start("--all")
    before = fleet.status()
    fleet.kill(before["supervisor"]["keeper_pid"])
    until(lambda: fleet.supervisor()["keeper_pid"] is None, "the brain knows")
    assert fleet.say("ada", "no keeper") == ["no keeper"]
    health = fleet.dims("health", code=1)
    assert health.out.startswith("degraded: 2 of 2 wanted bots serve")
    assert "the keeper is gone" in health.out
    assert "DEGRADED: the keeper is gone" in fleet.dims("status").out

    killed = fleet.unit("ada")
    fleet.kill(killed["pid"])
    fleet.until_ready("ada", after=killed["incarnation"])

    again = fleet.dims("start", "--all")
    assert "already running" in again.out

    assert fleet.dims("stop").code == 0
    assert fleet.leftovers() == []
    fleet.start()
    assert fleet.dims("health", code=0)
    assert_serves(fleet)


def test_bots_whose_supervisor_is_gone_are_replaced_by_a_start_and_ended_by_a_stop(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(FLEET, files={"echo.py": ECHO})
    fleet.start("--all")
    workers = pids(fleet)
    kill_supervisor(fleet)
    assert fleet.say("ada", "nobody above") == ["nobody above"]
    with never_two_workers(fleet):
        fleet.start()
    assert not any(is_running(pid) for pid in workers.values())
    assert_serves(fleet)
    kill_supervisor(fleet)
    fleet.dims("stop")
    assert fleet.leftovers() == []


def test_a_bot_stopped_by_hand_stays_stopped_over_a_kill_of_the_brain(fleet: Fleet) -> None:
    fleet.dims("bot", "stop", "ada")
    before = fleet.supervisor()["pid"]
    fleet.kill(before)
    until(lambda: fleet.supervisor()["pid"] != before, "a new brain answers")
    fleet.until_ready("bob")
    ada = fleet.unit("ada")
    assert (ada["state"], ada["desired"], ada["pid"]) == ("stopped", "stopped", None)
    fleet.dims("bot", "start", "ada")


def test_a_stop_that_overtakes_the_start_ends_the_process_at_once(fleet: Fleet) -> None:
    """Both are asked before the zygote could answer: the TERM has nobody to go to yet."""
    fleet.dims("bot", "stop", "ada")
    orders = [
        Envelope(new_id(), kind, Address("cli"), Address("brain"), body={"bots": ["ada"]})
        for kind in ("start", "stop")
    ]
    with socket.socket(socket.AF_UNIX) as brain:
        brain.connect(str(fleet.layout.control_socket))
        brain.sendall(b"".join(encode(order) for order in orders))
        assert brain.recv(65_536)
    fleet.until_state("ada", "stopped", within_s=4.0)
    fleet.dims("bot", "start", "ada")
    assert_serves(fleet)


def spare_of(fleet: Fleet) -> int | None:
    """The child of the zygote that no bot uses yet."""
    zygote = fleet.unit("zygote")["pid"]
    children = Path(f"/proc/{zygote}/task/{zygote}/children").read_text("ascii").split()
    spare = {int(pid) for pid in children} - set(pids(fleet).values())
    return next((pid for pid in spare if is_running(pid)), None)


def test_a_start_takes_the_spare_worker_and_another_one_comes(fleet: Fleet) -> None:
    spare = until(lambda: spare_of(fleet), "a spare worker")
    fleet.kill(pids(fleet)["ada"])
    until(lambda: pids(fleet)["ada"] == spare, "the spare to be ada")
    fleet.until_ready()
    until(lambda: spare_of(fleet) not in (None, spare), "another spare")
    assert_serves(fleet)


def test_a_killed_spare_worker_costs_nobody_anything(fleet: Fleet) -> None:
    spare = until(lambda: spare_of(fleet), "a spare worker")
    os.kill(spare, signal.SIGKILL)
    fleet.kill(pids(fleet)["bob"])
    fleet.until_state("bob", "ready")
    fleet.until_ready()
    assert_serves(fleet)
