"""One reader after another: what the second is told of the first, however that one ended."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from post import all_of, killed, letter, put

from dims.ipc.mailbox.files.lane import BATCH, Item
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.wire.framing import decode_payload

COUNT = 3 * BATCH


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    put(tmp_path / "me", *(letter(n) for n in range(COUNT)))
    return tmp_path / "me"


def opened(directory: Path) -> closing[Mailbox]:
    return closing(Mailbox(directory))


def take(mailbox: Mailbox, count: int) -> list[Item]:
    """So many items of the one lane; all but the last are settled."""
    (lane,) = mailbox.lanes
    items: list[Item] = []
    for _ in range(count):
        if items:
            mailbox.settle(items[-1], decode_payload(items[-1].payload).id)
        item = lane.next()
        assert item is not None
        items.append(item)
    return items


def marks(items: list[Item]) -> tuple[list[int], list[int], list[int]]:
    """The numbers of all, of those that come again, and of those that were in hand."""
    by_number = {decode_payload(item.payload).body["n"]: item for item in items}
    return (
        list(by_number),
        [n for n, item in by_number.items() if item.again],
        [n for n, item in by_number.items() if item.head],
    )


def test_a_reader_that_is_closed_leaves_nothing_doubtful(directory: Path) -> None:
    with opened(directory) as mailbox:
        items = take(mailbox, 5)
        mailbox.settle(items[-1], None)
    with opened(directory) as mailbox:
        assert marks(all_of(mailbox)) == (list(range(5, COUNT)), [], [])


def test_what_was_in_hand_at_the_close_comes_again_as_such(directory: Path) -> None:
    mailbox = Mailbox(directory)
    mailbox.close([take(mailbox, 5)[-1]])
    with opened(directory) as mailbox:
        assert marks(all_of(mailbox)) == (list(range(4, COUNT)), [4], [4])


def test_what_a_killed_reader_had_given_out_comes_again_and_the_first_was_in_hand(
    directory: Path,
) -> None:
    with opened(directory) as mailbox:
        take(mailbox, 5)
        mailbox.ledger.flush()
        left = killed(directory, "left")
    with opened(left) as mailbox:
        numbers, again, head = marks(all_of(mailbox))
        assert numbers == list(range(4, COUNT))
        assert again == list(range(4, BATCH))
        assert head == [4]


def test_what_a_killed_reader_had_settled_but_not_kept_comes_again(directory: Path) -> None:
    with opened(directory) as mailbox:
        take(mailbox, 5)
        left = killed(directory, "left")
    with opened(left) as mailbox:
        assert marks(all_of(mailbox)) == (list(range(COUNT)), list(range(BATCH)), [0])


def test_a_reader_that_is_killed_before_it_gave_anything_out_leaves_nothing_doubtful(
    directory: Path,
) -> None:
    with opened(directory) as mailbox:
        assert [depth.messages for depth in mailbox.depths()] == [COUNT]
        left = killed(directory, "left")
    with opened(left) as mailbox:
        assert marks(all_of(mailbox)) == (list(range(COUNT)), [], [])


def test_what_is_doubtful_stays_so_over_two_kills(directory: Path) -> None:
    with opened(directory) as mailbox:
        take(mailbox, 3)
        first = killed(directory, "first")
    with opened(first) as mailbox:
        take(mailbox, 2)
        mailbox.ledger.flush()
        second = killed(first, "second")
    with opened(second) as mailbox:
        assert marks(all_of(mailbox)) == (list(range(1, COUNT)), list(range(1, BATCH)), [1])


def test_each_lane_has_its_own_that_was_in_hand(directory: Path) -> None:
    put(directory, *(letter(n, sender="b") for n in range(2)))
    with opened(directory) as mailbox:
        for lane in mailbox.lanes:
            assert lane.next() is not None
        left = killed(directory, "left")
    with opened(left) as mailbox:
        heads = [item.lane[0] for item in all_of(mailbox) if item.head]
        assert sorted(heads) == ["a", "b"]


FORKING = """
import os, sys
from pathlib import Path
from dims.ipc.mailbox.files.ledger import Ledger
from dims.ipc.mailbox.files.mailbox import Mailbox

mailbox = Mailbox(Path(sys.argv[1]))
mailbox.ledger.commit([Ledger.keep_value("before", "1")])
pid = os.fork()
if pid == 0:
    sys.exit(0)
os.waitpid(pid, 0)
mailbox.ledger.commit([Ledger.keep_value("after", "1")])
os._exit(0)
"""


def test_what_is_kept_after_a_forked_child_has_ended_outlives_a_kill(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKING, str(tmp_path)], check=True, timeout=20)
    with opened(tmp_path) as mailbox:
        assert mailbox.ledger.values() == {"before": "1", "after": "1"}
