"""What PostgreSQL's refusals mean to us. Knows asyncpg's errors and SQLSTATEs, connects to nothing.

    ServiceError
    └── StorageError              the database said no, or could not be asked
        ├── UnavailableError      it may pass by itself: try again after `retry_after_s`
        │   ├── LostError         the connection broke in use: nobody knows whether it was done
        │   └── ContendedError    another transaction was in the way: do the whole of it again
        ├── ForbiddenError        the role may not do this, or the row is another bot's
        ├── ConflictError         there is such a row already
        └── InvalidError          a value breaks a rule of the schema

SQLSTATEs are those of the PostgreSQL manual, appendix A. A server's DETAIL is never repeated: it
holds values of rows.
"""

from __future__ import annotations

import asyncpg

from dims.errors import DimsError, ServiceError, TimedOutError


class StorageError(ServiceError):
    """The database said no, or could not be asked."""

    def __init__(self, message: str, *, hint: str = "", sqlstate: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate
        """PostgreSQL's code of the error; empty when the server said nothing."""


class UnavailableError(StorageError):
    """It may pass by itself; trying again makes sense after `retry_after_s` seconds."""

    retry_after_s = 1.0


class LostError(UnavailableError):
    """The connection broke in use: whether the statement took effect is unknown."""


class ContendedError(UnavailableError):
    """Another transaction was in the way; nothing was done, and the whole may be tried again."""

    retry_after_s = 0.05


class ForbiddenError(StorageError):
    """The role may not do this, or the row belongs to another bot."""


class ConflictError(StorageError):
    """There is such a row already."""


class InvalidError(StorageError):
    """A value breaks a rule of the schema."""


_CONTENDED = frozenset({"40001", "40P01", "55P03"})
_INVALID = ("22", "23")
_PASSING = frozenset({"53000", "53200", "53300", "57P03", "57P05"})
_LOST = frozenset({"57P01", "57P02", "08000", "08003", "08006", "08007", "25P03"})
_SAID_GOODBYE = "another operation (2) is in progress"
"""asyncpg's state after an error that no statement of ours asked for (PROTOCOL_ERROR_CONSUME in its
coreproto.pxd): the server has ended an idle connection, and its end is still on the way."""
_GONE = "the connection to the database broke; whether the statement took effect is unknown"


def is_passing(error: BaseException) -> bool:
    """Whether what failed may succeed later without anybody's work."""
    return isinstance(error, (UnavailableError, TimedOutError, TimeoutError, ConnectionError))


def translate(error: BaseException) -> DimsError | None:
    """What to raise for an error of the driver while a connection was used; None when it is none
    of the driver's. Values of rows are never repeated."""
    match error:
        case DimsError():
            return error
        case TimeoutError():
            return _too_slow()
        case asyncpg.ConnectionDoesNotExistError() | OSError():
            return LostError(_GONE, hint="look before doing it again")
        case asyncpg.InternalClientError() if _SAID_GOODBYE in str(error):
            return LostError(_GONE, hint="look before doing it again")
        case asyncpg.PostgresError():
            return _by_sqlstate(error)
        case asyncpg.DataError():
            return InvalidError(f"a parameter does not fit: {_line(error)}")
        case asyncpg.InterfaceError() if "connection is closed" in str(error):
            return UnavailableError("the connection to the database is closed")
        case asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return StorageError(_line(error))
    return None


def _by_sqlstate(error: asyncpg.PostgresError) -> DimsError:
    code = error.sqlstate or ""
    said = _line(error)
    where = _place(error)
    match code:
        case "57014":
            return _too_slow()
        case "42501":
            if "row-level security" in said:
                return ForbiddenError(
                    f"the row{where} belongs to another bot", sqlstate=code,
                    hint="a bot writes rows of its own only",
                )  # fmt: skip
            return ForbiddenError(f"the database forbids it: {said}", sqlstate=code)
        case "23505":
            return ConflictError(f"there is such a row already{where}", sqlstate=code)
        case "23514":
            return InvalidError(f"a value breaks a rule{where}", sqlstate=code)
        case "53100":
            return StorageError(
                "the database's disk is full", sqlstate=code, hint="free space at the server"
            )
        case "25006":
            return StorageError(
                "the database is read-only",
                sqlstate=code,
                hint="is storage.database a replica? it must be the primary server",
            )
    if code in _CONTENDED:
        return ContendedError(f"another transaction was in the way: {said}", sqlstate=code)
    if code in _LOST:
        return LostError(_GONE, sqlstate=code, hint="look before doing it again")
    if code in _PASSING:
        return UnavailableError(f"the database cannot do it now: {said}", sqlstate=code)
    if code.startswith(_INVALID):
        return InvalidError(f"a value does not fit{where} ({type(error).__name__})", sqlstate=code)
    return StorageError(f"the database refused: {said}", sqlstate=code)


def _too_slow() -> TimedOutError:
    return TimedOutError(
        "a statement took longer than allowed", hint="make it faster, or raise pool.statement_s"
    )


def _place(error: asyncpg.PostgresError) -> str:
    """The table and the rule as far as the server names them; names of ours, not values."""
    table, rule = error.table_name, error.constraint_name
    return (f" in {table}" if table else "") + (f" ({rule})" if rule else "")


def _line(error: BaseException) -> str:
    """On one line, and of a server's error only the message."""
    text = getattr(error, "message", None) or str(error)
    return " ".join(str(text).split())
