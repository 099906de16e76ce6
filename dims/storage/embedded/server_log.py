"""What a server prints, as records of our log. Knows the two formats, no processes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_LINE_BYTES = 10_000
_POSTGRES = re.compile(
    r"\d+ (?:(?P<who>\S.*)@\S* )?(?P<level>DEBUG|LOG|INFO|NOTICE|WARNING|ERROR|FATAL|PANIC):  "
)
"""After log_line_prefix `%p %q%u@%d `."""
_POSTGRES_LEVELS = {
    "WARNING": logging.WARNING,
    "ERROR": logging.WARNING,
    "FATAL": logging.ERROR,
    "PANIC": logging.CRITICAL,
}
_VALKEY = re.compile(r"\d+:[A-Z] \d+ \w+ \d{4} [\d:.]+ (?P<level>[.*#-]) ")
_VALKEY_LEVELS = {"#": logging.WARNING}


@dataclass(frozen=True, slots=True)
class Line:
    """One line, read."""

    level: int
    text: str
    who: str = ""
    """The role that was connected, for PostgreSQL."""


ReadLine = Callable[[str], Line]


def read_postgres(line: str) -> Line:
    """A line of PostgreSQL; what continues a message, or is none of its own, is of level INFO."""
    found = _POSTGRES.match(line)
    if found is None:
        return Line(logging.INFO, line.strip())
    level = _POSTGRES_LEVELS.get(found["level"], logging.INFO)
    if found["who"]:
        # FATAL ends a session, and a session is a client's own affair.
        level = min(level, logging.WARNING)
    return Line(level, line[found.end() :], found["who"] or "")


def read_valkey(line: str) -> Line:
    """A line of Valkey or Redis."""
    found = _VALKEY.match(line)
    if found is None:
        return Line(logging.INFO, line.strip())
    return Line(_VALKEY_LEVELS.get(found["level"], logging.INFO), line[found.end() :])


class ServerLog(asyncio.Protocol):
    """Reads a pipe to its end; `last` is the last complaint, for whoever must say why it ended."""

    def __init__(self, logger: logging.Logger, read: ReadLine) -> None:
        self._logger = logger
        self._read = read
        self._rest = b""
        self.last = ""
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Logs the lines that are whole, and what is too long to wait for its end."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._log(line[:LONGEST_LINE_BYTES].decode("utf-8", "replace"))

    def connection_lost(self, _exc: Exception | None) -> None:
        """No process of the server is left."""
        self.data_received(b"\n" if self._rest else b"")
        self.closed.set()

    def _log(self, text: str) -> None:
        line = self._read(text)
        if not line.text:
            return
        if line.level > logging.INFO and not line.who:
            self.last = line.text
        extra = {"role": line.who} if line.who else {}
        self._logger.log(line.level, "%s", line.text, extra=extra)
