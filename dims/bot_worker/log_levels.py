"""From which level on loggers write, changed while the bot runs, for good or for a time.

Knows loggers by name; a level that was lent goes back to what it was before the first loan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from dims.errors import UsageError

LEVELS = ("debug", "info", "warning", "error")


class Handle(Protocol):
    """What `asyncio.AbstractEventLoop.call_later` returns."""

    def cancel(self) -> None:
        """It shall not ring any more."""


class LogLevels:
    """`call_later(delay_s, callback)` is the loop's, or a test's."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], Handle]) -> None:
        self._call_later = call_later
        self._lent: dict[str, tuple[Handle, int]] = {}
        """By logger: what ends the loan, and the level it goes back to."""

    def set(self, logger: str, level: str, for_s: float | None) -> str:
        """The level in force before; `logger` "" is the root, whose level all loggers follow
        that have none of their own.

        Raises UsageError for a level or a logger that is not there.
        """
        if level not in LEVELS:
            raise UsageError(f"no level {level!r}", hint=f"levels: {', '.join(LEVELS)}")
        if logger and logger not in logging.root.manager.loggerDict:
            raise UsageError(f"no logger {logger!r} in this bot", hint=f"there are {_there()}")
        target = logging.getLogger(logger)
        was = logging.getLevelName(target.getEffectiveLevel()).lower()
        handle, own = self._lent.pop(logger, (None, target.level))
        if handle is not None:
            handle.cancel()
        target.setLevel(level.upper())
        if for_s is not None:
            self._lent[logger] = (self._call_later(for_s, lambda: self._give_back(logger)), own)
        return str(was)

    def _give_back(self, logger: str) -> None:
        _, own = self._lent.pop(logger)
        logging.getLogger(logger).setLevel(own)


def _there() -> str:
    """The loggers by their first names, and the bot's own."""
    names = logging.root.manager.loggerDict
    return ", ".join(sorted(n for n in names if "." not in n or n.startswith("bot.")))
