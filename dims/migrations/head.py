"""The newest revision by the names of files alone: imports nothing that takes a second."""

from __future__ import annotations

import re
from pathlib import Path

_FILE = re.compile(r"r(\d{4})_\w+\.py")


def head() -> str:
    """The id of the newest revision, such as `0001`; its file is named `r0001_first.py`."""
    names = (path.name for path in (Path(__file__).parent / "revisions").iterdir())
    return max(found[1] for name in names if (found := _FILE.fullmatch(name)))
