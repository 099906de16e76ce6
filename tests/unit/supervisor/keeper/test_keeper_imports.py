"""What the keeper loads: little, for it starts at once, and nothing that would have to be renewed
while it runs."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
before = set(sys.modules)
import dims.supervisor.keeper.__main__
print(*(set(sys.modules) - before))
"""
ITS_OWN = {"dims", "setproctitle"}


def test_a_keeper_loads_the_standard_library_setproctitle_and_dims() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - set(sys.stdlib_module_names) == ITS_OWN
    assert "asyncio" not in loaded
