"""What a mailbox's reader must not forget: one SQLite file that nobody else opens.

Knows how far each segment is settled, which messages were seen, what failed, what is dead, and the
values that handlers keep in the same commit. Times are UTC seconds since 1970. Reading forward is
cheap and may lag (`flush`); a handler's transaction is kept before it is answered (`commit`).
"""

from __future__ import annotations

import ctypes
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dims.errors import StateError
from dims.system.state_file import Form, open_state_file, refusal

SEEN_LIMIT = 200_000
"""Ids kept to recognise a message that comes twice. A sender writes one twice only when it was
killed between writing and noting that, and then does so at its next start: the window is wide."""
DEAD_LIMIT = 10_000
"""Dead letters kept; the oldest go."""
_TRIM_EVERY = 10_000
WAL_TIDY_BYTES = 256 * 1024
WAL_MOST_BYTES = 32 * 1024 * 1024
"""The write-ahead log is taken over into the file when it is longer than the first and nobody
waits, or longer than the second."""
_LOOK_EVERY = 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    name TEXT PRIMARY KEY,
    settled INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS tries (
    id TEXT PRIMARY KEY, attempts INTEGER NOT NULL, due REAL NOT NULL, reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dead (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    sender TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    reason TEXT NOT NULL,
    payload BLOB NOT NULL,
    readable INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS dead_ids ON dead (id);
CREATE TABLE IF NOT EXISTS "values" (key TEXT PRIMARY KEY, value TEXT NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outgoing (
    n INTEGER PRIMARY KEY AUTOINCREMENT, recipient TEXT NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, n INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
"""
_FORM = Form(
    _SCHEMA,
    1,
    (
        # Exclusive before the first access: then WAL needs no shared memory file.
        "locking_mode = EXCLUSIVE",
        # A commit changes a few rows in a handful of pages: small ones are a quarter to write.
        "page_size = 1024",
        "cache_size = -512",
        # A checkpoint waits for the disk, for milliseconds: `tidy` does it when nobody waits.
        "wal_autocheckpoint = 0",
        "synchronous = NORMAL",
    ),
    "unread mail is then delivered once more",
)
_DURABLE_FORM = replace(_FORM, pragmas=(*_FORM.pragmas, "synchronous = FULL"))
_KEEP_SEGMENT = (
    "INSERT INTO segments (name, settled, taken, done) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
    " DO UPDATE SET settled = excluded.settled, taken = excluded.taken, done = excluded.done"
)
_KEEP_SEEN = "INSERT OR IGNORE INTO seen (id) VALUES (?)"
_COUNT = (
    "INSERT INTO counters (name, n) VALUES (?, ?) ON CONFLICT (name)"
    " DO UPDATE SET n = n + excluded.n"
)
_BURY = (
    "INSERT INTO dead (at, id, kind, sender, attempts, reason, payload, readable)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_TRIM_DEAD = "DELETE FROM dead WHERE n <= (SELECT n FROM dead ORDER BY n DESC LIMIT 1 OFFSET ?)"
_DEAD = "SELECT n, at, id, kind, sender, attempts, reason, payload, readable FROM dead"

Statement = tuple[str, tuple[Any, ...]]


@dataclass(slots=True)
class LaneProgress:
    """How far a segment is settled and given out, in bytes, and whether it is consumed."""

    settled: int
    taken: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that nobody could handle, or bytes that are none (`readable` is False)."""

    n: int
    at: float
    id: str
    kind: str
    sender: str
    attempts: int
    reason: str
    payload: bytes
    readable: bool


class Ledger:
    """The open file. `trouble` says why the last write failed, or is empty.

    Raises StateError when the file cannot be opened or read.
    """

    def __init__(self, path: Path, *, waits_for_disk: bool) -> None:
        self._path = path
        self._db = open_state_file(path, _DURABLE_FORM if waits_for_disk else _FORM)
        self._progress: dict[str, LaneProgress] = {}
        self._changed: set[str] = set()
        self._seen: dict[str, None] = {}
        self._statements: list[Statement] = []
        self._counts: dict[str, int] = {}
        self._since_trim = _TRIM_EVERY
        self._wal = path.with_name(f"{path.name}-wal")
        self._writes = 0
        self.trouble = ""
        try:
            rows = self._read("SELECT name, settled, taken, done FROM segments")
        except StateError:
            self._db.close()
            raise
        for name, settled, taken, done in rows:
            self._progress[name] = LaneProgress(settled, taken, bool(done))

    # Segments

    def segments(self) -> Mapping[str, LaneProgress]:
        """What is known of each segment, by file name; read only."""
        return self._progress

    def take(self, name: str, position: int) -> None:
        """What stands before `position` may be in a handler's hands from the next commit on."""
        self._at(name).taken = position

    def settle(self, name: str, position: int, message_id: str | None) -> None:
        """What stands before `position` is settled; a message of that id will not be wanted
        again."""
        self._at(name).settled = position
        if message_id is not None:
            self._seen[message_id] = None
            self._since_trim += 1

    def done(self, name: str) -> None:
        """The segment is consumed; its file may go once this is kept."""
        self._at(name).done = True

    def forget(self, name: str) -> None:
        """The segment's file is gone."""
        self._progress.pop(name, None)
        self._changed.discard(name)
        self._statements.append(("DELETE FROM segments WHERE name = ?", (name,)))

    def _at(self, name: str) -> LaneProgress:
        self._changed.add(name)
        return self._progress.setdefault(name, LaneProgress(0, 0))

    # Messages

    def is_known(self, message_id: str) -> bool:
        """Whether a message of that id was settled or is among the dead."""
        if message_id in self._seen:
            return True
        found = self._read(
            "SELECT 1 FROM seen WHERE id = ? UNION ALL SELECT 1 FROM dead WHERE id = ? LIMIT 1",
            (message_id, message_id),
        )
        return bool(found)

    def tries(self, message_id: str) -> tuple[int, float, str]:
        """How often a message was tried in vain, when the next try is due, and why the last one
        failed; (0, 0.0, "") if never."""
        rows = self._read("SELECT attempts, due, reason FROM tries WHERE id = ?", (message_id,))
        return rows[0] if rows else (0, 0.0, "")

    def failed(self, message_id: str, attempts: int, due: float, reason: str) -> None:
        """Notes a try in vain."""
        self._statements.append(
            (
                "INSERT OR REPLACE INTO tries VALUES (?, ?, ?, ?)",
                (message_id, attempts, due, reason),
            )
        )

    def succeeded(self, message_id: str) -> None:
        """Forgets the tries of a message."""
        self._statements.append(("DELETE FROM tries WHERE id = ?", (message_id,)))

    def count(self, name: str, by: int = 1) -> None:
        """Counts something for ever."""
        self._counts[name] = self._counts.get(name, 0) + by

    def counters(self) -> dict[str, int]:
        """All that was counted, over all incarnations."""
        kept = dict(self._read("SELECT name, n FROM counters"))
        return {name: kept.get(name, 0) + self._counts.get(name, 0) for name in kept | self._counts}

    # Dead letters

    def bury(self, letter: DeadLetter) -> None:
        """Keeps a dead letter; its `n` is given by the box."""
        values = (
            *(letter.at, letter.id, letter.kind, letter.sender),
            *(letter.attempts, letter.reason, letter.payload, int(letter.readable)),
        )
        self._statements += [
            (_BURY, values),
            (_TRIM_DEAD, (DEAD_LIMIT,)),
            ("DELETE FROM tries WHERE id = ?", (letter.id,)),
        ]
        self.count("dead")

    def dead(self, limit: int = DEAD_LIMIT) -> list[DeadLetter]:
        """The newest dead letters, oldest first."""
        self.flush()
        rows = self._read(f"{_DEAD} ORDER BY n DESC LIMIT ?", (limit,))
        return [_letter(row) for row in reversed(rows)]

    def dead_numbers(self) -> list[int]:
        """The numbers of all dead letters, oldest first."""
        self.flush()
        return [n for (n,) in self._read("SELECT n FROM dead ORDER BY n")]

    def dead_letter(self, n: int) -> DeadLetter | None:
        """The dead letter of that number, if there is one."""
        rows = self._read(f"{_DEAD} WHERE n = ?", (n,))
        return _letter(rows[0]) if rows else None

    def dead_count(self) -> int:
        """How many dead letters there are."""
        self.flush()
        return int(self._read("SELECT count(*) FROM dead")[0][0])

    def exhume(self, numbers: Iterable[int]) -> None:
        """Takes dead letters out of the box. Raises StateError when that cannot be kept."""
        self.commit([("DELETE FROM dead WHERE n = ?", (n,)) for n in numbers])

    # Values of handlers

    def value(self, key: str) -> str | None:
        """What a handler kept under that key, as JSON text."""
        rows = self._read('SELECT value FROM "values" WHERE key = ?', (key,))
        return rows[0][0] if rows else None

    def values(self) -> dict[str, str]:
        """All that handlers keep."""
        return dict(self._read('SELECT key, value FROM "values" ORDER BY key'))

    @staticmethod
    def keep_value(key: str, value: str | None) -> Statement:
        """The statement that keeps a value, or forgets it."""
        if value is None:
            return 'DELETE FROM "values" WHERE key = ?', (key,)
        return 'INSERT OR REPLACE INTO "values" VALUES (?, ?)', (key, value)

    # Messages that go out with a transaction

    @staticmethod
    def send_out(recipient: str, payload: bytes) -> Statement:
        """The statement that makes a message go out."""
        return "INSERT INTO outgoing (recipient, payload) VALUES (?, ?)", (recipient, payload)

    def outgoing(self, after: int, limit: int) -> list[tuple[int, str, bytes]]:
        """What has to go out still: number, recipient, payload."""
        return self._read(
            "SELECT n, recipient, payload FROM outgoing WHERE n > ? ORDER BY n LIMIT ?",
            (after, limit),
        )

    def note(self, statement: Statement) -> None:
        """Keeps a statement with the next commit, whatever that is for."""
        self._statements.append(statement)

    def outgoing_span(self) -> int:
        """About how many messages have to go out still, and never fewer."""
        return self._read("SELECT max(n) - min(n) + 1 FROM outgoing")[0][0] or 0

    def outgoing_count(self, most: int) -> int:
        """How many messages have to go out still, counted up to `most`."""
        limited = "SELECT count(*) FROM (SELECT 1 FROM outgoing LIMIT ?)"
        return int(self._read(limited, (most,))[0][0])

    def went_out(self, numbers: Iterable[int]) -> None:
        """These are in their recipients' mailboxes."""
        self._statements += [("DELETE FROM outgoing WHERE n = ?", (n,)) for n in numbers]

    # Keeping

    @property
    def unkept(self) -> int:
        """Messages settled since the last commit."""
        return len(self._seen)

    def flush(self) -> bool:
        """Keeps all that was noted; False when that fails, and then it is kept later."""
        try:
            self._write(())
        except sqlite3.Error as error:
            self.trouble = str(error)
            return False
        return True

    def commit(self, statements: Iterable[Statement]) -> None:
        """Keeps all that was noted together with `statements`, or raises StateError; then
        nothing of `statements` is kept."""
        try:
            self._write(statements)
        except (sqlite3.Error, UnicodeEncodeError) as error:
            # The latter for half of a surrogate pair, which Python has in texts and SQLite has not:
            # that is the statement's own fault, and would be the next time.
            if isinstance(error, sqlite3.OperationalError):
                self.trouble = str(error)
            raise refusal(self._path, _FORM, error) from error

    def commit_settled(
        self, name: str, position: int, message_id: str, statements: Iterable[Statement]
    ) -> None:
        """Settles a message and keeps `statements`, both or neither.

        Raises StateError when it is neither.
        """
        before = self._at(name).settled
        self.settle(name, position, message_id)
        try:
            self.commit(statements)
        except StateError:
            self._at(name).settled = before
            self._seen.pop(message_id, None)
            raise

    def tidy(self) -> None:
        """Takes the write-ahead log over; some milliseconds, for a moment when nobody waits."""
        self._take_over(WAL_TIDY_BYTES)

    def _take_over(self, longer_than_bytes: int) -> None:
        try:
            if self._wal.stat().st_size > longer_than_bytes:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except FileNotFoundError:
            return
        except sqlite3.Error as error:
            self.trouble = str(error)

    def close(self) -> None:
        """Keeps everything that can be kept, and closes the file."""
        self.flush()
        self._db.close()

    def leave_to_parent(self) -> None:
        """For a forked child: the file is never closed there, not even at its end. SQLite would
        remove the log that the parent goes on writing, and what it commits from then on."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._db))

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._path, _FORM, error) from error

    def _write(self, statements: Iterable[Statement]) -> None:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            for name in self._changed:
                at = self._progress[name]
                db.execute(_KEEP_SEGMENT, (name, at.settled, at.taken, int(at.done)))
            if self._seen:
                db.executemany(_KEEP_SEEN, [(one,) for one in self._seen])
            for name, by in self._counts.items():
                db.execute(_COUNT, (name, by))
            for sql, values in (*self._statements, *statements):
                db.execute(sql, values)
            if self._since_trim >= _TRIM_EVERY:
                db.execute(
                    "DELETE FROM seen WHERE n <= (SELECT max(n) FROM seen) - ?", (SEEN_LIMIT,)
                )
            db.execute("COMMIT")
        except (sqlite3.Error, UnicodeEncodeError):
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if self._since_trim >= _TRIM_EVERY:
            self._since_trim = 0
        self._changed.clear()
        self._seen.clear()
        self._counts.clear()
        self._statements.clear()
        self.trouble = ""
        self._writes += 1
        if self._writes % _LOOK_EVERY == 0:
            self._take_over(WAL_MOST_BYTES)


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    return DeadLetter(*row[:-1], readable=bool(row[-1]))  # type: ignore[misc]  # all columns
