"""Locks that say "one at a time": held exactly as long as the holder lives. Knows files only."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dims.errors import AlreadyRunningError, StateError
from dims.layout import PRIVATE_FILE


def holder(path: Path) -> int | None:
    """The pid of who holds the lock on `path` now; None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 32, 0) or b"0") or None
    finally:
        os.close(descriptor)
    return None


class FileLock:
    """An exclusive flock(2) on a file that names its holder's pid.

    The kernel drops it when the process ends, however it ends. Children made by exec do not
    inherit it (close-on-exec); children made by fork must close `descriptor`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    @property
    def descriptor(self) -> int:
        """The open file, or -1."""
        return self._descriptor

    def take(self, what: str) -> None:
        """Takes the lock at once.

        Raises AlreadyRunningError, which names the holder of `what`, or StateError.
        """
        while True:
            try:
                descriptor = os.open(
                    self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE
                )
            except OSError as error:
                raise StateError(f"cannot open {self._path}: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise AlreadyRunningError(
                    f"{what} is already running, pid {holder or 'unknown'} holds {self._path}",
                    hint="see `dims status`; `dims stop` ends it",
                ) from error
            if self._is_still_there(descriptor):
                break
            # The former holder removed the file between our open and our lock.
            os.close(descriptor)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            os.close(descriptor)
            raise StateError(f"cannot write {self._path}: {error.strerror}") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Removes the file, then drops the lock; no effect when it is not held."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """Closes the descriptor only: for a forked child, whose parent goes on holding it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _is_still_there(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
