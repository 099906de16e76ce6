"""Statements that took long: said once, the last ones kept, without anything a user typed.

Knows nothing of connections but the record asyncpg makes of a statement. Parameters are never
looked at, and literals are masked, for a log outlives the right to see a row.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from dims.system.clock import SYSTEM

log = logging.getLogger("dims.storage")

KEPT = 20
SHOWN_CHARS = 300
_READ_CHARS = 20_000
"""More is never shown, and a statement may have megabytes."""

_TOKEN = re.compile(
    r"""
      (?P<line> --[^\n]* )
    | (?P<block> /\* )
    | (?P<name> "[^"]*(?:""[^"]*)*(?:"|\Z) | (?:[^\W\d]|\$(?=[\d]))[\w$]* )
    | (?P<dollar> \$(?P<tag>(?:[^\W\d]\w*)?)\$ .*? (?:\$(?P=tag)\$|\Z) )
    | (?P<text> '[^']*(?:''[^']*)*(?:'|\Z) )
    | (?P<number> \d[\w.]* (?:(?<=[eE])[+-]\d+)? | \.\d[\w.]* )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPED = re.compile(r"'(?:[^'\\]|\\.|'')*(?:'|\Z)", re.DOTALL)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True)
class SlowQuery:
    """One statement that took long."""

    at_s: float
    """When it ended, in seconds since 1970 (UTC)."""
    took_s: float
    sql: str
    """On one line, shortened, with `?` for every literal."""


class Record(Protocol):
    """What is read of asyncpg's LoggedQuery."""

    query: str
    elapsed: float


class SlowQueries:
    """The slow statements of one pool."""

    def __init__(self, name: str, slow_s: float) -> None:
        self._name = name
        self._slow_s = slow_s
        self.count = 0
        self.last: deque[SlowQuery] = deque(maxlen=KEPT)

    def heard(self, record: Record) -> None:
        """A statement has ended."""
        if record.elapsed < self._slow_s:
            return
        sql = masked(record.query)
        self.count += 1
        self.last.append(SlowQuery(SYSTEM.utc(), record.elapsed, sql))
        log.warning("%s: a statement took %.3f s: %s", self._name, record.elapsed, sql)


def masked(sql: str) -> str:
    """The statement on one line of at most 300 characters, its literals as `?`, no comments.

    Read as PostgreSQL reads (manual 4.1) with standard_conforming_strings on; what is cut off in
    the middle of a literal counts as literal.
    """
    text = sql[:_READ_CHARS]
    parts: list[str] = []
    at = 0
    while match := _TOKEN.search(text, at):
        parts.append(text[at : match.start()])
        at = match.end()
        match match.lastgroup:
            case "name":
                word = match.group()
                if word in {"E", "e"} and (escaped := _ESCAPED.match(text, at)):
                    word, at = "?", escaped.end()
                parts.append(word)
            case "line":
                parts.append(" ")
            case "block":
                parts.append(" ")
                at = _end_of_comment(text, at)
            case _:
                parts.append("?")
    parts.append(text[at:])
    line = " ".join("".join(parts).split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(text, at)):
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return len(text) if depth else at
