"""What is in hand just now, as one id that logs, messages and the audit log of the database carry.

It begins with an update of Telegram or a message of another bot, and is inherited by everything
that is done because of it: asyncio copies it into tasks.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

_current: ContextVar[str | None] = ContextVar("correlation id", default=None)


def current() -> str | None:
    """The id of what is in hand in this task; None outside of any."""
    return _current.get()


def begin(correlation: str) -> Token[str | None]:
    """From now on this task works for `correlation`; `end` takes what is returned."""
    return _current.set(correlation)


def end(token: Token[str | None]) -> None:
    """What was in hand before is so again."""
    _current.reset(token)
