"""kill -9 and SIGSTOP of those who write and read durable mail: nothing lost, twice, or held up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from fleet import until
from mail_actors import READER, Campaign, Place, Sender, act, fork, numbered

from dims.ipc.mailbox.files.doorbell import Ringer
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.files.records import pack
from dims.ipc.mailbox.files.segment import SegmentWriter
from dims.ipc.wire.envelope import Priority
from dims.ipc.wire.framing import decode_payload, encode_payload

AT_ONCE_S = 4.0
"""Less than a reader's own look at its files takes to come round (`RESCAN_S`)."""
Start = Callable[[Callable[[], object]], int]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, power=False).make()


@pytest.fixture
def start() -> Iterator[Start]:
    """Forks children; none of them survives the test, not even one that is stopped."""
    pids: list[int] = []

    def start(work: Callable[[], object]) -> int:
        pids.append(fork(work))
        return pids[-1]

    yield start
    for pid in pids:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def handled(place: Place, sender: str, priority: Priority) -> int:
    """The last number of a lane that the reader has handled."""
    return place.counters[f"{READER}/{sender}/{int(priority)}"]


def append(place: Place, segment: SegmentWriter, number: int) -> None:
    message = numbered(segment.name.writer, number, segment.name.priority)
    segment.append(pack(encode_payload(message)))


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
def test_thirty_kills_lose_nothing_double_nothing_and_mix_up_nothing(
    tmp_path: Path, power: bool
) -> None:
    campaign = Campaign(Place(tmp_path, power), seed=20)
    try:
        verdict = campaign.run(30)
    finally:
        campaign.close()
    assert verdict.faults == {}
    assert sum(verdict.kills.values()) == 30
    assert verdict.acknowledged > 100


def stops_in_the_middle(place: Place) -> None:
    """Writes 1 (normal), 2 (high), 3 (low) and half of 4 (normal), and stops itself."""
    normal, high, low = (
        SegmentWriter.create(place.mail / READER, Writer("al"), priority)
        for priority in (Priority.NORMAL, Priority.HIGH, Priority.LOW)
    )
    append(place, normal, 1)
    append(place, high, 2)
    append(place, low, 3)
    record = pack(encode_payload(numbered("al", 4, Priority.NORMAL)))
    half = len(record) // 2
    os.write(normal._descriptor, record[:half])
    os.kill(os.getpid(), signal.SIGSTOP)
    os.write(normal._descriptor, record[half:])
    ringer = Ringer(place.bell)
    ringer.ring(READER, normal.path.name)
    signal.pause()


@pytest.mark.parametrize("reader_runs_before", [False, True])
def test_a_sender_stopped_in_the_middle_of_a_write_holds_up_nobody(
    place: Place, start: Start, reader_runs_before: bool
) -> None:
    if reader_runs_before:
        start(partial(act, place, READER, "1"))
        until(place.bell(READER).exists, "the reader listens")
    stopped = start(lambda: stops_in_the_middle(place))
    assert os.WIFSTOPPED(os.waitpid(stopped, os.WUNTRACED)[1])
    if not reader_runs_before:
        start(partial(act, place, READER, "1"))
        until(place.bell(READER).exists, "the reader listens")

    place.ring(READER)
    other = start(Sender(place, "dora", "1", limit=200).run)
    own = {Priority.NORMAL: 1, Priority.HIGH: 2, Priority.LOW: 3}
    until(
        lambda: all(handled(place, "al", p) == n for p, n in own.items()),
        "what the stopped sender wrote before",
        AT_ONCE_S,
    )
    assert os.waitpid(other, 0)[1] == 0
    last = {Priority(priority): number for number, priority in place.acknowledged("dora")}
    assert set(last) == set(Priority)
    until(
        lambda: all(handled(place, "dora", p) == n for p, n in last.items()),
        "what the other sender wrote meanwhile",
        AT_ONCE_S,
    )
    assert handled(place, "al", Priority.NORMAL) == 1

    os.kill(stopped, signal.SIGCONT)
    until(lambda: handled(place, "al", Priority.NORMAL) == 4, "the message itself", AT_ONCE_S)


def test_half_a_message_of_a_killed_sender_does_not_keep_its_next_ones_back(
    place: Place, start: Start
) -> None:
    start(partial(act, place, READER, "1"))
    until(place.bell(READER).exists, "the reader listens")
    stopped = start(lambda: stops_in_the_middle(place))
    assert os.WIFSTOPPED(os.waitpid(stopped, os.WUNTRACED)[1])
    os.kill(stopped, signal.SIGKILL)
    os.waitpid(stopped, 0)
    segment = SegmentWriter.create(place.mail / READER, Writer("al"), Priority.NORMAL)
    append(place, segment, 5)
    ringer = Ringer(place.bell)
    ringer.ring(READER, segment.path.name)
    until(lambda: handled(place, "al", Priority.NORMAL) == 5, "the next message", AT_ONCE_S)
    segment.close()
    ringer.close()


def test_a_file_that_nobody_rang_for_goes_before_younger_ones_of_its_lane(place: Place) -> None:
    """A sender that is killed between its write and its bell leaves such a file."""
    mailbox = Mailbox(place.mail / READER)
    segments = [
        SegmentWriter.create(place.mail / READER, Writer("al"), Priority.LOW) for _ in range(2)
    ]
    for number, segment in enumerate(segments, 1):
        append(place, segment, number)
        segment.close()
    (lane,) = mailbox.notice([segments[1].path.name])
    items = [lane.next(), lane.next()]
    assert [decode_payload(item.payload).body["number"] for item in items if item] == [1, 2]
    mailbox.close()


def test_a_bell_for_a_file_that_is_not_there_keeps_no_lane_back(place: Place) -> None:
    mailbox = Mailbox(place.mail / READER)
    segment = SegmentWriter.create(place.mail / READER, Writer("al"), Priority.LOW)
    append(place, segment, 1)
    (lane,) = mailbox.notice(["al~3~0000000000000000-0000.seg", segment.path.name])
    assert lane.next() is not None
    segment.close()
    mailbox.close()


def test_a_sender_killed_over_a_new_file_leaves_none_behind_for_ever(
    place: Place, start: Start
) -> None:
    directory = place.mail / READER

    def begins() -> None:
        (directory / f".{os.getpid()}-al~2~0006423f1e0a7b40-3f9c.seg").touch()
        signal.pause()

    pid = start(begins)
    until(lambda: list(directory.glob(".*.seg")), "the file is begun")
    Mailbox(directory).close()
    assert list(directory.glob(".*.seg")), "its writer lives"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    Mailbox(directory).close()
    assert not list(directory.glob(".*.seg"))
