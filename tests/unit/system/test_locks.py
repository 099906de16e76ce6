"""One holder at a time, for exactly as long as it lives."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dims.errors import AlreadyRunningError, StateError
from dims.system.locks import FileLock


def test_a_held_lock_names_its_holder_and_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path)
    first.take("the supervisor")
    with pytest.raises(AlreadyRunningError, match=f"pid {os.getpid()} holds") as refused:
        second.take("the supervisor")
    assert refused.value.hint
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first.release()


def test_a_released_lock_leaves_no_file_and_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        lock = FileLock(path)
        lock.take("it")
        assert lock.descriptor >= 0
        lock.release()
        lock.release()
        assert lock.descriptor == -1
        assert not path.exists()


def test_what_a_killed_holder_left_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    pid = os.fork()
    if pid == 0:
        FileLock(path).take("it")
        os._exit(0)
    os.waitpid(pid, 0)
    assert path.exists()
    lock = FileLock(path)
    lock.take("it")
    assert path.read_text("ascii") == f"{os.getpid()}\n"
    lock.release()


def test_a_lock_that_cannot_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot open"):
        FileLock(tmp_path / "nowhere" / "lock").take("it")
