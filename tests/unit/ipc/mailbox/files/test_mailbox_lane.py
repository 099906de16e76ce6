"""A lane: one writer's messages in order, over files that end, tear and rot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from post import segment, taken

from dims.ipc.mailbox.files.file_names import SegmentName, Writer
from dims.ipc.mailbox.files.lane import BATCH, CHUNK_BYTES, Item, Lane
from dims.ipc.mailbox.files.ledger import Ledger
from dims.ipc.mailbox.files.records import HEAD, HEADER, RECORD_LIMIT_BYTES, pack
from dims.ipc.mailbox.files.segment import SegmentWriter
from dims.ipc.wire.envelope import Priority

KEY = (Writer("a"), Priority.NORMAL)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "reader.db", waits_for_disk=False)) as ledger:
        yield ledger


def lane_of(directory: Path, ledger: Ledger, *names: SegmentName) -> Lane:
    lane = Lane(KEY, directory, ledger)
    lane.add(list(names))
    return lane


def sound(items: list[Item]) -> list[bytes]:
    return [item.payload for item in items if not item.damage]


def damaged(payload: bytes, where: int) -> bytes:
    record = bytearray(pack(payload))
    record[where] ^= 1
    return bytes(record)


def test_messages_come_in_order_over_all_files(tmp_path: Path, ledger: Ledger) -> None:
    names = [segment(tmp_path, n, b"%d-0" % n, b"%d-1" % n) for n in (3, 1, 2)]
    lane = lane_of(tmp_path, ledger, *names)
    assert sound(taken(lane, ledger)) == [b"1-0", b"1-1", b"2-0", b"2-1", b"3-0", b"3-1"]
    assert lane.consumed == sorted(names)
    lane.removed()
    assert lane.is_empty


def test_a_file_that_is_noticed_again_does_not_come_again(tmp_path: Path, ledger: Ledger) -> None:
    name = segment(tmp_path, 1, b"one")
    lane = lane_of(tmp_path, ledger, name, name)
    lane.add([name])
    assert len(taken(lane, ledger)) == 1
    lane.add([name])
    assert lane.next() is None


def test_the_file_of_a_living_writer_is_read_along_and_kept(tmp_path: Path, ledger: Ledger) -> None:
    writer = SegmentWriter.create(tmp_path, *KEY)
    lane = lane_of(tmp_path, ledger, writer.name)
    assert lane.next() is None
    for n in range(3):
        writer.append(pack(b"%d" % n))
        assert sound(taken(lane, ledger)) == [b"%d" % n]
    assert lane.consumed == []
    writer.close()
    assert lane.next() is None
    assert lane.consumed == [writer.name]


def test_what_a_living_writer_has_not_ended_is_waited_for(tmp_path: Path, ledger: Ledger) -> None:
    writer = SegmentWriter.create(tmp_path, *KEY)
    record = pack(b"x" * 100)
    lane = lane_of(tmp_path, ledger, writer.name)
    for size in range(1, 5):
        writer.append(record[size - 1 : size])
        assert [lane.next(), lane.next()] == [None, None]
    writer.append(record[4:])
    assert sound(taken(lane, ledger)) == [b"x" * 100]
    writer.close()


@pytest.mark.parametrize("size", [1, 2, HEADER.size - 1, HEADER.size, HEADER.size + 5])
def test_the_torn_end_of_a_dead_writer_is_passed_over(
    tmp_path: Path, ledger: Ledger, size: int
) -> None:
    names = [
        segment(tmp_path, 1, b"one", tail=pack(b"never ended")[:size]),
        segment(tmp_path, 2, b"two"),
    ]
    lane = lane_of(tmp_path, ledger, *names)
    assert [item.payload for item in taken(lane, ledger)] == [b"one", b"two"]
    assert lane.consumed == names


@pytest.mark.parametrize("payload", [b"bad", b"b" * (CHUNK_BYTES + 1), b"b" * 500_000])
@pytest.mark.parametrize("where", [0, 1, 2, 3, 4, 5, 6, 9, HEADER.size, -1])
def test_damage_is_given_out_as_such_and_what_is_behind_it_comes(
    tmp_path: Path, ledger: Ledger, payload: bytes, where: int
) -> None:
    bad = damaged(payload, where)
    name = segment(tmp_path, 1, b"before", tail=bad + pack(b"behind") + pack(b"end"))
    lane = lane_of(tmp_path, ledger, name)
    items = taken(lane, ledger)
    assert sound(items) == [b"before", b"behind", b"end"]
    assert [item.payload for item in items if item.damage] == [bad]
    assert lane.consumed == [name]


def test_damage_in_a_living_file_is_believed_at_the_second_look(
    tmp_path: Path, ledger: Ledger
) -> None:
    writer = SegmentWriter.create(tmp_path, *KEY)
    writer.append(damaged(b"bad", -1) + pack(b"behind"))
    lane = lane_of(tmp_path, ledger, writer.name)
    assert lane.next() is None
    items = taken(lane, ledger)
    assert [bool(item.damage) for item in items] == [True, False]
    assert items[1].payload == b"behind"
    writer.append(pack(b"more"))
    assert sound(taken(lane, ledger)) == [b"more"]
    writer.close()


@pytest.mark.parametrize("garbage", [b"garbage", b"DI", b"x" * 100_000, HEAD[:-1] + b"!", b"\0"])
def test_a_file_of_garbage_comes_once_as_damage(
    tmp_path: Path, ledger: Ledger, garbage: bytes
) -> None:
    names = [segment(tmp_path, 1, head=garbage), segment(tmp_path, 2, b"two")]
    lane = lane_of(tmp_path, ledger, *names)
    items = taken(lane, ledger)
    assert items[0].damage
    assert b"".join(item.payload for item in items[:-1]) == garbage
    assert items[-1].payload == b"two"
    assert lane.consumed == names


@pytest.mark.parametrize("content", [b"", HEAD])
def test_a_file_without_messages_is_consumed(
    tmp_path: Path, ledger: Ledger, content: bytes
) -> None:
    name = segment(tmp_path, 1, head=content)
    lane = lane_of(tmp_path, ledger, name)
    assert lane.next() is None
    assert lane.consumed == [name]


def test_a_file_that_is_gone_does_not_hold_up_the_lane(tmp_path: Path, ledger: Ledger) -> None:
    names = [segment(tmp_path, n, b"%d" % n) for n in (1, 2)]
    lane = lane_of(tmp_path, ledger, *names)
    (tmp_path / str(names[0])).unlink()
    assert [item.payload for item in taken(lane, ledger)] == [b"2"]
    assert lane.consumed == names


def test_little_is_read_ahead_however_much_waits(tmp_path: Path, ledger: Ledger) -> None:
    name = segment(tmp_path, 1, *([b"x" * 10] * 10_000))
    lane = lane_of(tmp_path, ledger, name)
    size = HEADER.size + 10
    for n in range(1, 3 * BATCH):
        item = lane.next()
        assert item is not None
        assert len(lane._batch) < BATCH
        assert ledger.segments()[str(name)].taken <= len(HEAD) + (n + BATCH) * size
    lane.close(None)


def test_the_largest_messages_are_read(tmp_path: Path, ledger: Ledger) -> None:
    largest = b"x" * RECORD_LIMIT_BYTES
    lane = lane_of(tmp_path, ledger, segment(tmp_path, 1, largest, b"small", largest))
    assert [len(item.payload) for item in taken(lane, ledger)] == [len(largest), 5, len(largest)]


def test_what_the_ledger_cannot_note_is_not_given_out(tmp_path: Path, ledger: Ledger) -> None:
    lane = lane_of(tmp_path, ledger, segment(tmp_path, 1, b"one"))
    ledger._db.execute("PRAGMA query_only = 1")
    for _ in range(2):
        with pytest.raises(Exception, match="cannot be written"):
            lane.next()
    ledger._db.execute("PRAGMA query_only = 0")
    assert sound(taken(lane, ledger)) == [b"one"]
