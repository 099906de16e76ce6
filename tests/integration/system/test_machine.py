"""What the adapter reads of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fleet import until

from dims.system.cpu_times import family_times
from dims.system.machine import MachineReadings, read_machine, read_processes

PARENT = """
import os, subprocess, sys
from dims.system.prctl import forbid_dumps
forbid_dumps()
busy = "import os, sys\\nwhile os.getppid() == int(sys.argv[1]): pass"
child = subprocess.Popen([sys.executable, "-c", busy, str(os.getpid())])
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
print("waited", flush=True)
sys.stdin.readline()
"""
BUSY_S = 0.3


@contextmanager
def secretive() -> Iterator[subprocess.Popen[str]]:
    """A process that forbids dumps and has a busy child."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.communicate("\n\n")


def of(pid: int) -> float:
    return family_times(read_processes(), {pid}).get(pid, 0.0)


def test_a_process_that_forbids_dumps_shows_its_child_s_time_before_and_after_its_end() -> None:
    with secretive() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = int(process.stdout.readline())
        until(lambda: of(process.pid) > BUSY_S, "the child's time counts for its parent")
        lived = of(child)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "waited\n"
        assert of(child) == 0.0
        assert of(process.pid) >= lived


def test_every_process_of_ours_is_read_once() -> None:
    pids = [process.pid for process in read_processes()]
    assert len(pids) == len(set(pids))
    assert {os.getpid(), os.getppid()} <= set(pids)


def test_the_machine_counts_up_and_has_memory() -> None:
    before = read_machine()

    def used() -> MachineReadings | None:
        now = read_machine()
        return now if now.busy_s > before.busy_s else None

    later = until(used, "it is used")
    assert later.cores >= 1
    assert 0 < later.memory_available_bytes <= later.memory_bytes
