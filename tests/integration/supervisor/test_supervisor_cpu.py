"""The use of CPU as operators see it: of a worker with a busy child, an idle one, the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import ECHO, Fleet, running, until

FLEET = """
telegram: {server: sandbox}
bots:
  - {id: busy, handlers: busy.py}
  - {id: idle, handlers: idle.py}
"""
BUSY = """\
import os
import subprocess
import sys

WHILE_ITS_PARENT_LIVES = "import os, sys\\nwhile os.getppid() == int(sys.argv[1]): pass"
child = None


async def setup(context):
    global child
    command = [sys.executable, "-c", WHILE_ITS_PARENT_LIVES, str(os.getpid())]
    child = subprocess.Popen(command)


async def teardown(context):
    child.kill()
    child.wait()
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    files = {"busy.py": BUSY, "idle.py": ECHO}
    with running(tmp_path_factory.mktemp("cpu"), FLEET, files) as fleet:
        yield fleet


def test_a_worker_is_shown_with_what_its_child_uses_and_the_machine_with_both(
    fleet: Fleet,
) -> None:
    def looked() -> dict[str, float]:
        units = {unit["id"]: unit["cpu_percent"] for unit in fleet.status()["bots"]}
        return units if None not in units.values() else {}

    units = until(looked, "the brain has looked twice", within_s=60.0)
    # Shared cores leave the child a part of one.
    assert units["busy"] > 10 * max(0.5, units["idle"])
    status = fleet.status()
    assert status["supervisor"]["cpu_percent"] is not None
    zygote = status["services"][0]
    assert zygote["cpu_percent"] < units["busy"] / 10
    machine = status["machine"]
    assert machine["cpu_percent"] > units["busy"] / 2
    assert machine["interval_s"] > 0
    assert fleet.dims("bot", "explain", "busy", "--json").json["cpu_percent"] > 5
