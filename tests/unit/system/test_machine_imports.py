"""Who loads psutil: nobody who is forked or must stay small, and the brain not before it looks."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*sys.modules)
"""


@pytest.mark.parametrize(
    ("module", "has_adapter"),
    [
        ("dims.supervisor.keeper.__main__", False),
        ("dims.supervisor.zygote.__main__", False),
        ("dims.warmup", False),
        ("dims.bot_worker.worker", False),
        ("dims.supervisor.brain.__main__", True),
    ],
)
def test_psutil_is_not_loaded_at_the_start(module: str, has_adapter: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, module], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert ("dims.system.machine" in loaded) is has_adapter
    assert "psutil" not in loaded
