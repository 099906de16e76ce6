"""A heap that was settled, in a process of its own: it goes on, forks, and ends like any other.

The time limit is part of each test: what can go wrong is a collection that never ends.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dims.ipc.words.states import Manner
from dims.supervisor.zygote.interpreters import VERSIONS

WITHIN_S = 280.0
"""Ten times what a thousand children take on two cores, which others may be using."""
MANNER = Manner.IMMORTAL if sys.version_info[:2] in VERSIONS else Manner.COPY
SETTLED = """
import asyncio, csv, ctypes, dataclasses, decimal, gc, json, logging, os, re, sqlite3, sys, weakref
from dims.supervisor.zygote import __main__ as zygote, holes, immortal

async def gathered():
    return await asyncio.gather(*(asyncio.sleep(0, number) for number in range(50)))

def works():
    assert asyncio.run(gathered()) == list(range(50))
    assert json.loads(json.dumps({"a": [decimal.Decimal(1) > 0, re.escape("a+")]}))["a"][0]
    class Once(dict):
        pass
    once = Once()
    seen = weakref.ref(once)
    del once
    assert seen() is None

works()
"""
"""What the C extensions leave in their free lists is there before the heap is settled."""


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SETTLED + script],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )


def test_a_settled_heap_is_collected_walked_again_and_ended() -> None:
    done = run("""
print(zygote.settle_heap("").sharing.value)
works(); gc.collect(); gc.collect(); works()
gc.unfreeze(); gc.collect()
print(zygote.settle_heap("").sharing.value)
works(); gc.unfreeze(); gc.collect(); gc.collect()
""")
    assert (done.returncode, done.stdout.split()) == (0, [MANNER, MANNER]), done.stderr


def test_a_heap_that_must_not_be_shared_says_why() -> None:
    done = run("""
settled = zygote.settle_heap("somebody says so")
print(settled.sharing.value, settled.sharing_reason)
""")
    assert done.stdout == "copy somebody says so\n", done.stderr


@pytest.mark.timeout(300)
def test_a_thousand_children_end_through_the_interpreter() -> None:
    done = run("""
def child(number):
    if number % 5 == 0:
        gc.unfreeze(); gc.collect(); works()
    if number % 2:
        sys.exit(number % 100)
    ctypes.pythonapi.Py_Exit(number % 100)

zygote.settle_heap("")
ends = []
for first in range(0, 1000, 4):
    pids = {}
    for number in range(first, first + 4):
        pid = os.fork()
        if pid == 0:
            child(number)
        pids[pid] = number
    for pid, number in pids.items():
        ends.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == number % 100)
works()
print(len(ends), all(ends))
""")
    assert (done.returncode, done.stdout) == (0, "1000 True\n"), done.stderr


@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_FSIZE"])
def test_a_heap_that_stays_half_immortal_ends_the_process_with_a_line(limit: str) -> None:
    done = run(f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.{limit}, (1, 1))
zygote._make_immortal_or_end()
print("goes on")
""")
    assert (done.returncode, done.stdout) == (os.EX_SOFTWARE, "")
    assert "the heap could not be made immortal: OSError" in done.stderr


def test_after_the_holes_are_filled_nobody_writes_between_what_was_there() -> None:
    done = run("""
sizes = (16, 48, 240, 500, 600, 2000)
many = [[bytes(size) for _ in range(1000)] for size in sizes]
pages = {(id(one) + at) // 4096 for some in many for one in some for at in (0, len(one))}
for some in many:
    del some[::2]
gc.collect()
assert holes.fill_holes() > 0
fresh = [bytes(size) for size in sizes for _ in range(500)]
among = sum(id(one) // 4096 in pages for one in fresh)
print(among)
""")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120, "of 3,000; some lie where the last pool was being filled"
