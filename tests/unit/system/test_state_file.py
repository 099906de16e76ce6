"""One way to open a file of state, and one way to say why it cannot be used."""

from __future__ import annotations

import gc
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from dims.errors import AlreadyRunningError, StateError
from dims.ipc.mailbox.files.ledger import Ledger
from dims.sandbox.telegram.world_store import WorldStore
from dims.supervisor.brain.store import Store
from dims.system.state_file import Form, open_state_file, refusal

FORM = Form(
    "CREATE TABLE IF NOT EXISTS notes (text TEXT NOT NULL) STRICT;",
    2,
    ("synchronous = NORMAL",),
    "notes start anew",
    patience_s=0.0,
)
PAGE_BYTES = 4096
Opener = Callable[[Path], Store | WorldStore | Ledger]
OPENERS: list[Opener] = [Store, WorldStore, lambda path: Ledger(path, waits_for_disk=True)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    """From 3.13 on, a connection that nobody closed is a warning when it is collected."""
    yield
    gc.collect()


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def refused(path: Path, form: Form = FORM) -> StateError:
    with pytest.raises(StateError) as caught, closing(open_state_file(path, form)):
        pass
    return caught.value


def test_a_new_file_is_private_and_has_the_schema(path: Path) -> None:
    with closing(open_state_file(path, FORM)) as db:
        db.execute("INSERT INTO notes VALUES ('a')")
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert not db.in_transaction
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert version(path) == 2
    with closing(open_state_file(path, FORM)) as db:
        assert db.execute("SELECT * FROM notes").fetchall() == [("a",)]


def test_a_file_of_an_elder_version_is_brought_to_this_one(path: Path) -> None:
    with closing(open_state_file(path, replace(FORM, version=1))):
        pass
    more = replace(FORM, schema=f"{FORM.schema} CREATE TABLE IF NOT EXISTS more (n) ;")
    with closing(open_state_file(path, more)) as db:
        assert db.execute("SELECT * FROM more").fetchall() == []
    assert version(path) == 2


def test_a_schema_that_fails_halfway_leaves_the_file_as_it_was(path: Path) -> None:
    error = refused(path, replace(FORM, schema=f"{FORM.schema} CREATE INDEX i ON nowhere (n);"))
    assert "no such table: main.nowhere" in str(error)
    assert version(path) == 0
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT * FROM sqlite_schema").fetchall() == []


@pytest.mark.parametrize("opener", OPENERS, ids=["state", "sandbox", "ledger"])
def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path, opener: Opener) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StateError, match="written by a newer DIMS"):
        opener(path)
    assert version(path) == 99


@pytest.mark.parametrize("opener", OPENERS, ids=["state", "sandbox", "ledger"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, opener: Opener) -> None:
    path.write_bytes(b"garbage " * 1_000)
    with pytest.raises(StateError, match="is no database") as caught:
        opener(path)
    assert caught.value.hint.startswith("move it away: ")
    assert path.read_bytes() == b"garbage " * 1_000


@pytest.mark.parametrize("opener", OPENERS, ids=["state", "sandbox", "ledger"])
def test_a_file_that_is_damaged_is_refused(path: Path, opener: Opener) -> None:
    with closing(opener(path)):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (PAGE_BYTES - 100) + whole[PAGE_BYTES:])
    with pytest.raises(StateError, match="is damaged") as caught:
        opener(path)
    assert caught.value.hint.startswith("move it away: ")


def test_a_full_disk_asks_for_room(path: Path) -> None:
    error = refused(path, replace(FORM, pragmas=("max_page_count = 1",)))
    assert str(error) == f"{path} cannot be written: database or disk is full"
    assert error.hint == "make room on its disk"


def test_a_file_that_may_not_be_written_asks_for_the_right(path: Path) -> None:
    error = refused(path, replace(FORM, pragmas=("query_only = ON",)))
    assert str(error) == f"{path} cannot be written: attempt to write a readonly database"
    assert "let this user write" in error.hint


def test_a_directory_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = refused(tmp_path / "file" / "notes.db")
    assert str(error) == f"{tmp_path}/file/notes.db cannot be opened: Not a directory"


def test_a_file_that_another_holds_is_refused_until_that_one_ends(path: Path) -> None:
    alone = replace(FORM, pragmas=("locking_mode = EXCLUSIVE",))
    with closing(open_state_file(path, alone)):
        error = refused(path, alone)
    assert isinstance(error, AlreadyRunningError)
    assert str(error) == f"another process uses {path}"
    open_state_file(path, alone).close()


def test_a_file_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE events (length)")
    with pytest.raises(StateError, match="is of another program: no such column"):
        Store(path)
    assert version(path) == 0


def test_a_statement_that_is_wrong_is_not_held_against_the_file(path: Path) -> None:
    with closing(open_state_file(path, FORM)) as db, pytest.raises(sqlite3.Error) as caught:
        db.execute("SELECT * FROM nowhere")
    error = refusal(path, FORM, caught.value)
    assert (str(error), error.hint) == (f"{path} cannot do that: no such table: nowhere", "")
