"""A file of state: one SQLite database that one process has open.

Knows how such a file is made, opened and refused, and what SQLite's result codes mean to an
operator. Refuses to know what is in it, and what is lost when it lasts less long than the machine.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from dims.errors import AlreadyRunningError, StateError
from dims.layout import PRIVATE_FILE

_MOVE = "move it away"
_ALLOW = "let this user write the file and its directory"
_MEANINGS = {
    sqlite3.SQLITE_CORRUPT: ("is damaged", _MOVE),
    sqlite3.SQLITE_NOTADB: ("is no database", _MOVE),
    sqlite3.SQLITE_FULL: ("cannot be written", "make room on its disk"),
    sqlite3.SQLITE_IOERR: ("cannot be written", "look at its disk"),
    sqlite3.SQLITE_READONLY: ("cannot be written", _ALLOW),
    sqlite3.SQLITE_PERM: ("cannot be opened", _ALLOW),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _ALLOW),
}
"""What is said of a file, and the mend, by primary result code (sqlite.org/rescode.html)."""
_FOREIGN = ("is of another program", _MOVE)
_NOT_ITS_FAULT = ("cannot do that", "")


@dataclass(frozen=True, slots=True)
class Form:
    """What a file of state is to be, and how it is kept."""

    schema: str
    """Statements that make what is not there yet; they end with a semicolon."""
    version: int
    """Of the schema, from 1. A file of a lower one is brought to it, of a higher one refused."""
    pragmas: tuple[str, ...]
    """Set before the file is read, in this order: how long a commit lasts, who may look."""
    loss: str
    """What it means to move the file away: the end of a sentence."""
    patience_s: float = 5.0
    """How long a statement waits for another process that holds the file."""


def open_state_file(path: Path, form: Form) -> sqlite3.Connection:
    """The file, made with mode 0600 if it is not there, without implicit transactions.

    It has a write-ahead log. Raises AlreadyRunningError while another process holds it, and
    StateError when it cannot be used; then nothing stays open.
    """
    try:
        path.touch(mode=PRIVATE_FILE)
        db = sqlite3.connect(path, isolation_level=None, timeout=form.patience_s)
    except (OSError, sqlite3.Error) as error:
        raise refusal(path, form, error) from error
    try:
        _prepare(db, path, form)
    except sqlite3.Error as error:
        db.close()
        raise refusal(path, form, error, _FOREIGN) from error
    except BaseException:
        db.close()
        raise
    return db


def refusal(
    path: Path, form: Form, error: Exception, otherwise: tuple[str, str] = _NOT_ITS_FAULT
) -> StateError:
    """What SQLite or the file system said of the file, as the operator is to read it.

    `otherwise` is said, with its mend, when it was not about the file but about a statement.
    """
    # Errors of Python's own module have no code; the last eight bits are the primary one.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return AlreadyRunningError(f"another process uses {path}", hint="end it")
    said: object = error
    if isinstance(error, OSError):
        code, said = sqlite3.SQLITE_CANTOPEN, error.strerror
    what, mend = _MEANINGS.get(code, otherwise)
    hint = f"{mend}: {form.loss}" if mend == _MOVE else mend
    return StateError(f"{path} {what}: {said}", hint=hint)


def _prepare(db: sqlite3.Connection, path: Path, form: Form) -> None:
    for pragma in (*form.pragmas, "journal_mode = WAL"):
        db.execute(f"PRAGMA {pragma}")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > form.version:
        raise StateError(f"{path} was written by a newer DIMS", hint="upgrade DIMS")
    if version < form.version:
        stamp = f"PRAGMA user_version = {form.version};"
        db.executescript(f"BEGIN IMMEDIATE; {form.schema} {stamp} COMMIT;")
