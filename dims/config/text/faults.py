"""One fault of a configuration: where it is, what is wrong, and how it is worded.

Knows no YAML and no models. Every text passes through `scrub`, so a bot token that stands
where none belongs (an id, a key) is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_TOKEN_LIKE = re.compile(r"\d{3,}:[A-Za-z0-9_-]{16,}")


class Mark(NamedTuple):
    """A place in a text file; both numbers count from 1, as editors do."""

    line: int
    column: int


@dataclass(frozen=True, order=True, slots=True)
class Fault:
    """One thing that is wrong in one file; `str()` is the line for the operator."""

    file: str
    mark: Mark
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.mark.line}:{self.mark.column}: {scrub(self.text)}"


def scrub(text: str) -> str:
    """The text with everything that has the shape of a bot token blacked out."""
    return _TOKEN_LIKE.sub("***", text)


def lines(faults: Iterable[Fault]) -> list[str]:
    """The faults as lines, each once, in the order of their places."""
    return [str(fault) for fault in sorted(set(faults))]
