"""How a fleet says whether its workers share the zygote's memory, and what one does that cannot."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from fleet import ECHO, Fleet, running, until

from dims.supervisor.zygote.interpreters import VERSIONS

SHARES = sys.version_info[:2] in VERSIONS
FLEET = """
telegram: {server: sandbox}
bots: [{id: echo, handlers: echo.py}]
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("sharing"), FLEET, {"echo.py": ECHO}) as fleet:
        yield fleet


def kill_zygote(fleet: Fleet, state: str) -> None:
    """Kills the first zygote that is seen in this state, and waits for the next to be ready."""

    def seen() -> tuple[int, int] | None:
        zygote = fleet.unit("zygote")
        is_there = zygote["state"] == state and zygote["pid"]
        return (zygote["pid"], zygote["incarnation"]) if is_there else None

    pid, incarnation = until(seen, f"a zygote is {state}")
    fleet.kill(pid, signal.SIGKILL)
    until(lambda: fleet.unit("zygote")["incarnation"] > incarnation, "another zygote is ordered")


def shared(fleet: Fleet) -> tuple[str, str]:
    fleet.until_state("zygote", "ready")
    supervisor = fleet.supervisor()
    return supervisor["sharing"], supervisor["sharing_reason"]


def test_status_and_explanation_say_how_memory_is_shared(fleet: Fleet) -> None:
    sharing, reason = shared(fleet)
    assert (sharing, bool(reason)) == (("immortal", False) if SHARES else ("copy", True))
    told = fleet.dims("bot", "explain", "echo", "--json").json
    assert (told["sharing"], told["sharing_reason"]) == (sharing, reason)
    assert "  memory " in fleet.dims("bot", "explain", "echo").out


def test_a_ready_zygote_that_is_killed_is_no_reason_to_copy(fleet: Fleet) -> None:
    before = shared(fleet)
    kill_zygote(fleet, "ready")
    assert shared(fleet) == before


def test_after_a_zygote_that_never_became_ready_workers_copy_and_serve(fleet: Fleet) -> None:
    kill_zygote(fleet, "ready")
    kill_zygote(fleet, "starting")
    sharing, reason = shared(fleet)
    assert sharing == "copy"
    assert "a zygote ended before it was ready (killed by signal 9)" in reason
    fleet.dims("bot", "restart", "echo")
    fleet.until_ready("echo")
    assert fleet.say("echo", "still there?") == ["still there?"]
