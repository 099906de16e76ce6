"""The keeper: ends the fleet when it is told to, and starts a brain that dies again and again."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from fleet import ECHO, Fleet, is_running, running, until

FLEET = """
telegram: {server: sandbox}
bots:
  - {id: echo, handlers: echo.py}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("keeper"), FLEET, {"echo.py": ECHO}) as fleet:
        yield fleet


def test_a_brain_that_dies_again_and_again_is_started_again_and_the_bots_are_there(
    fleet: Fleet,
) -> None:
    keeper = fleet.supervisor()["keeper_pid"]
    brains: list[int] = []
    for _ in range(3):
        brains.append(
            until(lambda: {fleet.supervisor()["pid"]} - set(brains), "a new brain answers").pop()
        )
        fleet.kill(brains[-1])
    until(lambda: fleet.supervisor()["pid"] not in brains, "a new brain answers")
    fleet.until_ready()
    assert fleet.supervisor()["keeper_pid"] == keeper
    assert fleet.say("echo", "after it all") == ["after it all"]
    assert fleet.account("echo")["duplicated"] == 0


def test_a_signal_to_the_keeper_stops_the_fleet_as_an_init_system_does(fleet: Fleet) -> None:
    keeper = fleet.supervisor()["keeper_pid"]
    fleet.kill(keeper, signal.SIGHUP)
    assert fleet.say("echo", "a terminal that closes is no reason") != []
    fleet.kill(keeper, signal.SIGTERM)
    until(lambda: not is_running(keeper), "the keeper has left")
    assert fleet.leftovers() == []
    # The init system's stop is not the operator's wish: the bot runs again with the next start.
    fleet.dims("start")
    assert fleet.unit("echo")["state"] == "ready"
