"""Every error DIMS raises on purpose, in one tree, with one exit code per family.

    DimsError                     1   anything below
    ├── UsageError                2   the command line asks for something that cannot be
    ├── ConfigError               3   bots.yaml, .env or a file it names is wrong
    ├── StateError                4   the state or runtime directory cannot be used
    │   └── AlreadyRunningError   5   somebody else holds the lock
    ├── NotRunningError           6   no supervisor answers
    ├── TimedOutError             7   the work goes on, but did not end within the limit
    ├── BotError                  8   a bot cannot run or did not come up
    │   └── RemoteError           8   the handler of another bot failed on our request
    ├── ServiceError              9   a service (the sandbox, the database) cannot do its work
    │   └── StorageError          9   the database said no (storage/connections/storage_errors)
    └── ProtocolError            10   the other end of a socket broke the protocol
        └── RefusedError         11   the other end understood and said no
            └── FullError        11   too much waits there already; says when to try again

`dims health` uses 0 (well), 1 (degraded) and 2 (down) instead, as monitoring plugins do.
A message says what is wrong and where; `hint` says what to do next, in one line.
"""

from __future__ import annotations

from typing import ClassVar


class DimsError(Exception):
    """The root: `str(error)` is one line for the operator, `hint` is the next step or empty."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            # For tracebacks in logs, which show the message alone.
            self.add_note(f"hint: {hint}")


def with_hint(error: DimsError) -> str:
    """The message, and in brackets what to do next where that is known: for a log or a reason."""
    return f"{error} ({error.hint})" if error.hint else str(error)


class UsageError(DimsError):
    """The command line asks for something that cannot be, such as an unknown bot."""

    exit_code = 2


class ConfigError(DimsError):
    """The configuration is wrong; `faults` holds one line per fault, each with its place."""

    exit_code = 3

    def __init__(self, faults: list[str], *, hint: str = "") -> None:
        super().__init__("\n".join(faults), hint=hint)
        self.faults = faults


class StateError(DimsError):
    """The state or runtime directory cannot be used."""

    exit_code = 4


class AlreadyRunningError(StateError):
    """Another supervisor or worker holds what this one needs."""

    exit_code = 5


class NotRunningError(DimsError):
    """No supervisor answers on this state directory."""

    exit_code = 6


class TimedOutError(DimsError):
    """What was asked did not end within the limit."""

    exit_code = 7


class BotError(DimsError):
    """A bot cannot run, or did not come up."""

    exit_code = 8


class RemoteError(BotError):
    """The bot that was asked has no answer: its handler raised, or it knows no such request."""


class ServiceError(DimsError):
    """A service cannot run."""

    exit_code = 9


class ProtocolError(DimsError):
    """The other end of a socket sent something that is not our protocol."""

    exit_code = 10


class RefusedError(ProtocolError):
    """The other end understood the request and refused it."""

    exit_code = 11


class FullError(RefusedError):
    """Too much waits there already; trying again makes sense after `retry_after_s` seconds."""

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint or f"try again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s
