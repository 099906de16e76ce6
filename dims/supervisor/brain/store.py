"""What must outlive the brain: desired states, running processes, events. One SQLite file.

Only the brain opens it. Times in it are UTC seconds since 1970; the rest of the brain is monotonic.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dims.ipc.words.operator import UnitEvent
from dims.ipc.words.states import Desired
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.orders import Tell
from dims.system.state_file import Form, open_state_file, refusal

_log = logging.getLogger(__name__)

EVENTS_PER_UNIT = 200
WAITING_CHANGES = 100_000
"""What a disk that stays full may cost in memory; the oldest changes go first."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS units (
    unit TEXT PRIMARY KEY,
    desired TEXT NOT NULL DEFAULT 'stopped' CHECK (desired IN ('running', 'stopped')),
    retry_at REAL,
    incarnation INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,
    started INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    unit TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    failure TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS events_of_unit ON events (unit, id);
"""
_FORM = Form(_SCHEMA, 1, ("synchronous = NORMAL",), "desired states start anew")
_TRIM_EVENTS = (
    "DELETE FROM events WHERE unit = :unit AND id <="
    " (SELECT id FROM events WHERE unit = :unit ORDER BY id DESC LIMIT 1 OFFSET :most)"
)


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """What a former brain left about a unit; `pid` and `started` name its last process."""

    unit: UnitId
    desired: Desired
    retry_at: float | None
    incarnation: Incarnation
    pid: int | None
    started: int | None


class Store:
    """The open file. Changes are kept by `commit`, which the engine calls once a turn.

    Raises StateError when the file cannot be opened or read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_state_file(path, _FORM)
        self._durable = False
        self._changes: deque[tuple[str, tuple[Any, ...]]] = deque(maxlen=WAITING_CHANGES)
        self._told: set[UnitId] = set()
        self.trouble = ""
        """Why the last commit failed, or empty."""

    def units(self) -> dict[UnitId, StoredUnit]:
        """All units of former brains, and of this one."""
        self.commit()
        rows = self._read("SELECT unit, desired, retry_at, incarnation, pid, started FROM units")
        return {
            UnitId(row[0]): StoredUnit(
                UnitId(row[0]), Desired(row[1]), row[2], Incarnation(row[3]), row[4], row[5]
            )
            for row in rows
        }

    def keep(self, unit: UnitId, desired: Desired, retry_at: float | None) -> None:
        """Keeps what the operator wants and until when Telegram asked us to wait."""
        self._change(
            "INSERT INTO units (unit, desired, retry_at) VALUES (?, ?, ?) ON CONFLICT (unit)"
            " DO UPDATE SET desired = excluded.desired, retry_at = excluded.retry_at",
            (unit, desired.value, retry_at),
        )
        self._durable = True

    def keep_wait(self, unit: UnitId, retry_at: float | None) -> None:
        """Keeps until when Telegram asked us to wait, and leaves alone what is wanted."""
        self._change("UPDATE units SET retry_at = ? WHERE unit = ?", (retry_at, unit))

    def spawning(self, unit: UnitId, incarnation: Incarnation) -> None:
        """Keeps the number, so that no later brain uses it again."""
        self._change(
            "INSERT INTO units (unit, incarnation) VALUES (?, ?) ON CONFLICT (unit)"
            " DO UPDATE SET incarnation = excluded.incarnation, pid = NULL, started = NULL",
            (unit, incarnation),
        )

    def process(self, unit: UnitId, pid: int | None, started: int | None) -> None:
        """Keeps which process runs the unit, or None when none does."""
        self._change("UPDATE units SET pid = ?, started = ? WHERE unit = ?", (pid, started, unit))

    def tell(self, event: Tell, at: float) -> None:
        """Appends one event; only the newest of a unit, `EVENTS_PER_UNIT`, are kept."""
        self._change(
            "INSERT INTO events (at, unit, incarnation, state, reason, failure)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (at, event.unit, event.incarnation, event.state, event.reason, event.failure),
        )
        self._told.add(event.unit)

    def events(self, unit: UnitId, limit: int) -> list[UnitEvent]:
        """The newest events of a unit, oldest first."""
        self.commit()
        rows = self._read(
            "SELECT at, incarnation, state, reason, failure FROM events WHERE unit = ?"
            " ORDER BY id DESC LIMIT ?",
            (unit, limit),
        )
        return [UnitEvent(*row) for row in reversed(rows)]

    @property
    def has_changes(self) -> bool:
        """Whether anything waits for a commit."""
        return bool(self._changes)

    @property
    def wants_disk(self) -> bool:
        """Whether a change of desired state waits for its commit."""
        return self._durable

    def commit(self) -> None:
        """Keeps all changes since the last commit; a change of desired state on the disk itself.

        Never raises: on a full disk the fleet goes on, `trouble` says why, and the changes wait
        for a later commit.
        """
        try:
            self._apply()
        except sqlite3.Error as error:
            if not self.trouble:
                _log.error("state.db cannot be written: %s", error)
            self.trouble = str(error)
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        else:
            self.trouble = ""
            self._changes.clear()
            self._told.clear()
            self._durable = False

    def close(self) -> None:
        """Keeps everything and closes the file."""
        self.commit()
        self._db.close()

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._path, _FORM, error) from error

    def _apply(self) -> None:
        if self._changes:
            self._db.execute("BEGIN IMMEDIATE")
            for statement, values in self._changes:
                self._db.execute(statement, values)
            for unit in self._told:
                self._db.execute(_TRIM_EVENTS, {"unit": unit, "most": EVENTS_PER_UNIT})
            self._db.execute("COMMIT")
        if self._durable:
            # NORMAL leaves the last commits in the page cache: enough for kill -9 of the brain,
            # not for a power cut. The operator's will has to survive that as well.
            self._db.execute("PRAGMA wal_checkpoint(FULL)")

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        self._changes.append((statement, values))
