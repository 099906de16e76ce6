"""Segment files: appended whole or not at all, and locked exactly as long as they may grow."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dims.ipc.mailbox.files.file_names import SegmentName, Writer, parse_name
from dims.ipc.mailbox.files.records import HEAD, pack, scan
from dims.ipc.mailbox.files.segment import SegmentWriter, is_finished, list_names
from dims.ipc.wire.envelope import Priority

ECHO = Writer("echo")
LOW = Priority.LOW


def made(directory: Path) -> SegmentWriter:
    return SegmentWriter.create(directory, ECHO, LOW)


def may_be_removed(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return is_finished(descriptor)
    finally:
        os.close(descriptor)


def in_child(work: Callable[[], object]) -> int:
    """Runs it in a forked child; the child's exit code, 99 for an exception."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_new_file_is_private_and_begins_with_its_head(tmp_path: Path) -> None:
    segment = made(tmp_path)
    assert segment.path.read_bytes() == HEAD
    assert segment.path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == [str(segment.name)]  # noqa: PTH208
    segment.close()


def test_what_is_appended_is_in_the_file_at_once(tmp_path: Path) -> None:
    segment = made(tmp_path)
    segment.append(pack(b"one"))
    segment.append(pack(b"two") + pack(b"three"))
    data = segment.path.read_bytes()
    assert [body for body, _ in scan(data, len(HEAD)).payloads] == [b"one", b"two", b"three"]
    assert segment.size_bytes == len(data)
    segment.sync()
    segment.close()


def test_an_append_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        segment = made(tmp_path)
        segment.append(pack(b"before"))
        before = segment.path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="too large"):
            segment.append(pack(b"x" * 200))
        assert segment.path.read_bytes() == before
        assert segment.size_bytes == len(before)
        segment.append(pack(b"small"))
        found = scan(segment.path.read_bytes(), len(HEAD))
        assert [body for body, _ in found.payloads] == [b"before", b"small"]

    assert in_child(work) == 0


def test_a_file_that_cannot_have_its_head_never_shows(tmp_path: Path) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4, resource.RLIM_INFINITY))
        with pytest.raises(OSError, match="too large"):
            made(tmp_path)

    assert in_child(work) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_missing_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        made(tmp_path / "nobody")


def test_it_is_locked_until_it_is_closed(tmp_path: Path) -> None:
    segment = made(tmp_path)
    assert segment.is_open
    assert not may_be_removed(segment.path)
    segment.close()
    segment.close()
    assert not segment.is_open
    assert may_be_removed(segment.path)


def test_a_writer_that_is_killed_unlocks_its_file(tmp_path: Path) -> None:
    def work() -> None:
        segment = made(tmp_path)
        assert segment.is_open
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work) == -signal.SIGKILL
    (name,) = list_names(tmp_path)
    assert may_be_removed(tmp_path / name)


def test_a_forked_child_neither_keeps_the_lock_nor_takes_it_away(tmp_path: Path) -> None:
    segment = made(tmp_path)
    ready, tell_ready = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.write(tell_ready, b"." if not segment.is_open else b"!")
        os.read(wait, 1)
        os._exit(0)
    try:
        assert os.read(ready, 1) == b".", "the child has the file open"
        assert not may_be_removed(segment.path)
        segment.append(pack(b"still ours"))
        segment.close()
        assert may_be_removed(segment.path)
    finally:
        os.close(go)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        for descriptor in (ready, tell_ready, wait):
            os.close(descriptor)


def test_files_of_one_writer_are_numbered_in_order_though_the_clock_is_set_back(
    tmp_path: Path,
) -> None:
    far_ahead = SegmentName(ECHO, LOW, 2**62, "0000")
    (tmp_path / str(far_ahead)).write_bytes(HEAD)
    segments = [made(tmp_path) for _ in range(3)]
    numbers = [segment.name.number for segment in segments]
    assert numbers == [2**62 + 1, 2**62 + 2, 2**62 + 3]
    for segment in segments:
        segment.close()


def test_no_file_is_ever_replaced(tmp_path: Path) -> None:
    segment = made(tmp_path)
    segment.append(pack(b"precious"))
    before = segment.path.read_bytes()
    with pytest.raises(FileExistsError):
        SegmentWriter(tmp_path, segment.name)
    assert segment.path.read_bytes() == before
    assert not may_be_removed(segment.path)
    segment.close()
    assert len(list(tmp_path.iterdir())) == 1


def test_only_segments_are_listed(tmp_path: Path) -> None:
    segment = made(tmp_path)
    for other in ("reader.db", "reader.lock", ".seg.tmp"):
        (tmp_path / other).touch()
    assert list_names(tmp_path) == [str(segment.name)]
    assert parse_name(list_names(tmp_path)[0]) == segment.name
    segment.close()
