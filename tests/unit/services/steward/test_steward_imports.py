"""What the steward's process loads before it has anything to do."""

from __future__ import annotations

import subprocess
import sys


def test_a_steward_loads_neither_sqlalchemy_nor_alembic_before_there_is_something_to_migrate() -> (
    None
):
    code = (
        "import sys, dims.services.steward.__main__; "
        "print([name for name in sys.modules if name in ('sqlalchemy', 'alembic')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
