"""The ledger: what a reader must not forget, kept wholly or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dims.errors import StateError
from dims.ipc.mailbox.files.ledger import (
    DEAD_LIMIT,
    SEEN_LIMIT,
    WAL_TIDY_BYTES,
    DeadLetter,
    LaneProgress,
    Ledger,
)

FILE = "a~2~0000000000000001-0000.seg"


@contextmanager
def opened(directory: Path) -> Iterator[Ledger]:
    with closing(Ledger(directory / "reader.db", waits_for_disk=False)) as ledger:
        yield ledger


def dead(id_: str, reason: str = "why") -> DeadLetter:
    return DeadLetter(0, 1.0, id_, "n", "a", 3, reason, b"{}", readable=True)


@contextmanager
def full(ledger: Ledger) -> Iterator[None]:
    """No room on the disk, as SQLite says it."""
    pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
    ledger._db.execute(f"PRAGMA max_page_count = {pages}")
    yield
    ledger._db.execute("PRAGMA max_page_count = 1000000")


BIG = Ledger.keep_value("big", '"' + "x" * 100_000 + '"')


@pytest.mark.parametrize("waits_for_disk", [False, True])
def test_progress_outlives_the_process(tmp_path: Path, *, waits_for_disk: bool) -> None:
    with closing(Ledger(tmp_path / "l", waits_for_disk=waits_for_disk)) as ledger:
        ledger.take(FILE, 100)
        ledger.settle(FILE, 50, "m1")
        assert ledger.unkept == 1
        assert ledger.flush()
        assert ledger.unkept == 0
    assert (tmp_path / "l").stat().st_mode & 0o777 == 0o600
    with closing(Ledger(tmp_path / "l", waits_for_disk=waits_for_disk)) as ledger:
        assert ledger.segments() == {FILE: LaneProgress(50, 100)}
        assert ledger.is_known("m1")
        assert not ledger.is_known("m2")
        ledger.done(FILE)
    with opened(tmp_path) as other:
        assert other.segments() == {}


def test_a_file_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.take(FILE, 100)
        ledger.flush()
        ledger.forget(FILE)
        assert ledger.segments() == {}
    with opened(tmp_path) as ledger:
        assert ledger.segments() == {}


def test_a_settled_message_is_known_before_it_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.settle(FILE, 50, "m1")
        assert ledger.is_known("m1")


def test_a_message_and_its_effects_are_settled_together(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.commit_settled(
            FILE, 50, "m1", [Ledger.keep_value("k", "1"), Ledger.send_out("b", b"{}")]
        )
        assert ledger.value("k") == "1"
        assert ledger.outgoing(0, 10) == [(1, "b", b"{}")]
        assert ledger.segments()[FILE].settled == 50
        ledger.went_out([1])
    with opened(tmp_path) as ledger:
        assert ledger.is_known("m1")
        assert ledger.values() == {"k": "1"}
        assert ledger.outgoing(0, 10) == []


@pytest.mark.parametrize(
    "bad",
    [
        ("INSERT INTO nowhere VALUES (?)", (1,)),
        Ledger.keep_value("k", "\ud800"),
        Ledger.keep_value("\ud800", "1"),
        Ledger.keep_value(b"bytes", "1"),  # type: ignore[arg-type]  # on purpose
    ],
)
def test_effects_that_cannot_be_kept_leave_their_message_unsettled(
    tmp_path: Path, bad: tuple[str, tuple[object, ...]]
) -> None:
    with opened(tmp_path) as ledger:
        ledger.settle(FILE, 50, "m1")
        with pytest.raises(StateError, match="cannot do that"):
            ledger.commit_settled(FILE, 80, "m2", [Ledger.keep_value("ok", "1"), bad])
        assert ledger.value("ok") is None
        assert ledger.segments()[FILE].settled == 50
        assert ledger.is_known("m1")
        assert not ledger.is_known("m2")
        assert ledger.flush(), "one bad statement spoiled what comes after it"
    with opened(tmp_path) as ledger:
        assert ledger.segments()[FILE].settled == 50
        assert not ledger.is_known("m2")


def test_a_full_disk_keeps_nothing_now_and_all_later(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.flush()
        with full(ledger):
            ledger.bury(dead("m1", "x" * 100_000))
            ledger.settle(FILE, 50, "m2")
            assert not ledger.flush()
            assert "full" in ledger.trouble
            with pytest.raises(StateError, match="full"):
                ledger.commit([BIG])
        assert ledger.flush()
        assert ledger.trouble == ""
        assert ledger.dead_count() == 1
    with opened(tmp_path) as ledger:
        assert ledger.segments()[FILE].settled == 50
        assert ledger.value("big") is None


def test_tries_are_counted_until_the_message_is_done_with(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        assert ledger.tries("m1") == (0, 0.0, "")
        ledger.failed("m1", 1, 5.0, "first")
        ledger.failed("m1", 2, 6.0, "second")
        ledger.failed("m2", 1, 5.0, "other")
    with opened(tmp_path) as ledger:
        assert ledger.tries("m1") == (2, 6.0, "second")
        ledger.succeeded("m1")
        ledger.bury(dead("m2"))
        ledger.flush()
        assert ledger.tries("m1") == ledger.tries("m2") == (0, 0.0, "")


def test_dead_letters_are_known_until_they_are_exhumed(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for id_ in ("m1", "m2", "m3"):
            ledger.bury(dead(id_))
        assert [one.id for one in ledger.dead()] == ["m1", "m2", "m3"]
        assert [one.id for one in ledger.dead(2)] == ["m2", "m3"]
        assert ledger.is_known("m2")
        ledger.exhume([ledger.dead()[1].n])
        assert not ledger.is_known("m2")
        assert ledger.dead_count() == 2
    with opened(tmp_path) as ledger:
        assert [one.n for one in ledger.dead()] == [1, 3]


def test_the_oldest_dead_letters_go_first(tmp_path: Path) -> None:
    many = (
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < ?)"
        " INSERT INTO dead (at, id, kind, sender, attempts, reason, payload, readable)"
        " SELECT 0, 'm' || i, 'n', 'a', 1, '', x'', 1 FROM c"
    )
    with opened(tmp_path) as ledger:
        ledger.commit([(many, (DEAD_LIMIT,))])
        ledger.bury(dead("newest"))
        assert ledger.dead_count() == DEAD_LIMIT
        assert not ledger.is_known("m1")
        assert ledger.is_known("m2")
        assert ledger.dead(1)[0].id == "newest"


def test_ids_are_forgotten_beyond_the_window(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for n, id_ in ((1, "old"), (2, "young"), (SEEN_LIMIT + 1, "now")):
            ledger.commit([("INSERT INTO seen (n, id) VALUES (?, ?)", (n, id_))])
    with opened(tmp_path) as ledger:
        ledger.flush()
        assert [ledger.is_known(id_) for id_ in ("old", "young", "now")] == [False, True, True]


def test_counters_grow_over_all_incarnations(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.count("settled", 2)
        ledger.flush()
        ledger.count("settled")
    with opened(tmp_path) as ledger:
        ledger.count("dead")
        assert ledger.counters() == {"settled": 3, "dead": 1}


def test_values_are_forgotten_with_none(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.commit([Ledger.keep_value("a", "1"), Ledger.keep_value("b", "2")])
        ledger.commit([Ledger.keep_value("a", None)])
        assert (ledger.value("a"), ledger.values()) == (None, {"b": "2"})


def test_tidying_takes_the_log_over_and_keeping_goes_on(tmp_path: Path) -> None:
    wal = tmp_path / "reader.db-wal"
    with opened(tmp_path) as ledger:
        for _ in range(4):
            ledger.commit([BIG])
        assert wal.stat().st_size > WAL_TIDY_BYTES
        ledger.tidy()
        assert (wal.stat().st_size, ledger.trouble) == (0, "")
        ledger.settle(FILE, 100, "m1")
        assert ledger.flush()
        size_bytes = wal.stat().st_size
        ledger.tidy()
        assert wal.stat().st_size == size_bytes > 0, "too little to be worth it"
        shutil.copytree(tmp_path, tmp_path / "killed")
    with opened(tmp_path / "killed") as ledger:
        assert ledger.is_known("m1")
        assert ledger.value("big") is not None
        assert ledger.segments() == {FILE: LaneProgress(100, 0)}
