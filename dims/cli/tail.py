"""The end of a log file, for a hint. Knows files, no commands."""

from __future__ import annotations

from pathlib import Path


def last_line(log: Path) -> str:
    """Quotes what a process said last, for a hint; empty where there is nothing."""
    try:
        lines = log.read_bytes()[-4_096:].decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((f"its log ends with: {line}" for line in reversed(lines) if line.strip()), "")
