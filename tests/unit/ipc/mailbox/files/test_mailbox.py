"""A mailbox as its one reader has it: files that come and go, and what may be seen of them."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from post import all_of, killed, letter, put, segment

from dims.errors import AlreadyRunningError
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.lane import Item
from dims.ipc.mailbox.files.mailbox import Mailbox, dead_letter, unread_bytes
from dims.ipc.mailbox.files.records import HEAD, pack
from dims.ipc.mailbox.files.segment import SegmentWriter, list_names
from dims.ipc.wire.envelope import Envelope, Priority
from dims.ipc.wire.framing import decode_payload, encode_payload

FILE = "a~1~0000000000000001-0000.seg"
LOW, NORMAL, HIGH = Priority.LOW, Priority.NORMAL, Priority.HIGH


def opened(directory: Path) -> closing[Mailbox]:
    return closing(Mailbox(directory))


def numbers(items: list[Item]) -> list[int]:
    return [decode_payload(item.payload).body["n"] for item in items]


def bury(mailbox: Mailbox, item: Item, message: Envelope | None = None) -> None:
    message = message or decode_payload(item.payload)
    mailbox.ledger.bury(dead_letter(item, message, 3, "why", 0.0))
    mailbox.settle(item, None)


def test_one_process_at_a_time_has_it_open(tmp_path: Path) -> None:
    with opened(tmp_path / "me"), pytest.raises(AlreadyRunningError, match="me"):
        Mailbox(tmp_path / "me")
    assert (tmp_path / "me").stat().st_mode & 0o777 == 0o700
    with opened(tmp_path / "me"):
        pass


def test_a_forked_child_does_not_keep_the_mailbox_open(tmp_path: Path) -> None:
    mailbox = Mailbox(tmp_path)
    ready, tell_ready = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.write(tell_ready, b".")
        os.read(wait, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(AlreadyRunningError):
            Mailbox(tmp_path)
        # As the kernel does when we are killed; the lock's file stays.
        mailbox.ledger.close()
        mailbox._lock.forget()
        with opened(tmp_path):
            pass
    finally:
        for descriptor in (go, wait, ready, tell_ready):
            os.close(descriptor)
        os.waitpid(pid, 0)


def test_a_file_that_is_finished_and_settled_is_removed(tmp_path: Path) -> None:
    names = [put(tmp_path, letter(n), number=n) for n in (1, 2)]
    with opened(tmp_path) as mailbox:
        assert numbers(all_of(mailbox)) == [1, 2]
        assert sorted(list_names(tmp_path)) == list(map(str, names)), "removed before it was kept"
        assert mailbox.sweep()
        assert list_names(tmp_path) == []
        assert list(mailbox.lanes) == []
        assert mailbox.ledger.segments() == {}


def test_a_file_of_a_living_writer_stays_until_it_ends(tmp_path: Path) -> None:
    writer = SegmentWriter.create(tmp_path, Writer("a"), NORMAL)
    writer.append(pack(encode_payload(letter(1))))
    with opened(tmp_path) as mailbox:
        assert numbers(all_of(mailbox)) == [1]
        mailbox.sweep()
        assert list_names(tmp_path) == [str(writer.name)]
        writer.close()
        assert all_of(mailbox) == []
        mailbox.sweep()
        assert list_names(tmp_path) == []


def test_a_file_with_unsettled_messages_stays(tmp_path: Path) -> None:
    name = put(tmp_path, letter(1), letter(2))
    with opened(tmp_path) as mailbox:
        (lane,) = mailbox.lanes
        item = lane.next()
        assert item is not None
        mailbox.settle(item, None)
        assert lane.next() is not None
        mailbox.sweep()
        assert list_names(tmp_path) == [str(name)]


def test_files_are_read_in_the_order_they_were_made_whichever_was_noticed_first(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as mailbox:
        put(tmp_path, letter(1), number=1)
        later = put(tmp_path, letter(2), number=2)
        mailbox.notice([str(later)])
        assert numbers(all_of(mailbox)) == [1, 2]


def test_a_bell_for_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    name = put(tmp_path, letter(1))
    with opened(tmp_path) as mailbox:
        all_of(mailbox)
        mailbox.sweep()
        mailbox.notice([str(name), "reader.db", "", "../x", "\udcff"])
        assert all_of(mailbox) == []
        put(tmp_path, letter(2), number=2)
        mailbox.scan()
        assert numbers(all_of(mailbox)) == [2]


def test_messages_behind_a_clock_that_was_set_back_come_in_order(tmp_path: Path) -> None:
    put(tmp_path, letter(1), number=2**62)
    writer = SegmentWriter.create(tmp_path, Writer("a"), NORMAL)
    writer.append(pack(encode_payload(letter(2))))
    writer.close()
    with opened(tmp_path) as mailbox:
        assert numbers(all_of(mailbox)) == [1, 2]


def test_what_a_former_reader_consumed_is_removed_at_the_next_opening(tmp_path: Path) -> None:
    name = put(tmp_path / "me", letter(1))
    with opened(tmp_path / "me") as mailbox:
        all_of(mailbox)
        mailbox.ledger.flush()
        left = killed(tmp_path / "me", "left")
    assert list_names(left) == [str(name)]
    with opened(left) as mailbox:
        assert all_of(mailbox) == []
        assert list_names(left) == []


def test_a_mailbox_that_cannot_be_opened_lets_the_next_try_in(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        mailbox.ledger.done(FILE)
    (tmp_path / FILE).mkdir()
    with pytest.raises(IsADirectoryError) as failed:
        Mailbox(tmp_path)
    (tmp_path / FILE).rmdir()
    with opened(tmp_path) as mailbox:
        assert dict(mailbox.ledger.segments()) == {}, failed


def test_notes_without_a_file_are_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as mailbox:
        mailbox.ledger.settle("a~2~0000000000000001-0000.seg", 50, None)
        mailbox.ledger.settle("strange", 50, None)
    with opened(tmp_path) as mailbox:
        assert mailbox.ledger.segments() == {}


def test_depth_counts_what_is_not_settled_by_lane(tmp_path: Path) -> None:
    first = letter(1)
    put(tmp_path, first, letter(2), number=1)
    put(tmp_path, letter(3), number=2)
    put(tmp_path, letter(4, sender="b", priority=LOW), writer="b+17")
    put(tmp_path, letter(5, sender="c"))
    segment(tmp_path, 1, writer="d")
    with opened(tmp_path) as mailbox:
        lane = next(lane for lane in mailbox.lanes if lane.key[0] == "c")
        item = lane.next()
        assert item is not None
        assert sum(depth.messages for depth in mailbox.depths()) == 5, "in hand does not count"
        mailbox.settle(item, None)
        depths = {depth.sender: depth for depth in mailbox.depths()}
        assert {sender: depth.messages for sender, depth in depths.items()} == {"a": 3, "b": 1}
        assert depths["a"].oldest_s == first.created_s
        assert depths["b"].priority is LOW
        size = sum(len(pack(encode_payload(letter(n)))) for n in (1, 2, 3))
        assert depths["a"].size_bytes == size


def test_peeking_shows_the_first_of_each_lane_and_gives_nothing_out(tmp_path: Path) -> None:
    put(tmp_path, *(letter(n, priority=LOW) for n in range(5)))
    put(tmp_path, letter(10, sender="b", priority=HIGH), number=1)
    segment(tmp_path, 2, b"no json", writer="b", priority=HIGH)
    put(tmp_path, *(letter(n, sender="b", priority=HIGH) for n in (11, 12, 13)), number=3)
    for _ in range(2):
        with opened(tmp_path) as mailbox:
            assert [one.body["n"] for one in mailbox.peek(3)] == [10, 11, 12, 0, 1, 2]
            assert list(mailbox.peek(0)) == []
    with opened(tmp_path) as mailbox:
        assert not any(item.again for item in all_of(mailbox))


def test_a_dead_letter_that_is_replayed_comes_again_and_leaves_the_box(tmp_path: Path) -> None:
    sent = [letter(n, priority=HIGH) for n in range(3)]
    put(tmp_path, *sent)
    with opened(tmp_path) as mailbox:
        (lane,) = mailbox.lanes
        while (item := lane.next()) is not None:
            bury(mailbox, item)
        letters = mailbox.ledger.dead()
        assert mailbox.replay(letters[:2]) == [1, 2]
        assert [one.n for one in mailbox.ledger.dead()] == [3]
        mailbox.scan()
        again = all_of(mailbox)
        assert [decode_payload(item.payload) for item in again] == sent[:2]
        assert {item.segment.sender for item in again} == {"a"}
        assert {item.lane[1] for item in again} == {HIGH}
        assert not mailbox.ledger.is_known(sent[0].id)
        assert mailbox.ledger.is_known(sent[2].id)


def test_bytes_that_are_no_message_stay_in_the_box(tmp_path: Path) -> None:
    name = segment(tmp_path, 1, b"garbage")
    with opened(tmp_path) as mailbox:
        (lane,) = mailbox.lanes
        item = lane.next()
        assert item is not None
        mailbox.ledger.bury(dead_letter(item, None, 0, "quarantined", 0.0))
        (one,) = mailbox.ledger.dead()
        assert (one.payload, one.readable, one.sender) == (b"garbage", False, "a")
        assert one.id.startswith(str(name))
        assert mailbox.replay([one]) == []
        assert mailbox.ledger.dead_count() == 1


def test_unread_bytes_are_those_of_segments_only(tmp_path: Path) -> None:
    name = put(tmp_path, letter(1))
    with opened(tmp_path):
        assert unread_bytes(tmp_path) == (tmp_path / str(name)).stat().st_size > len(HEAD)
