"""One segment file, as its only writer has it open.

The writer holds a flock(2) from before the file can be seen until it closes it. Who gets that lock
knows that nothing will be added any more, however the writer ended. The file is made under another
name and linked into place, so that nobody ever sees it unlocked and unfinished.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import weakref
from pathlib import Path

from dims.ipc.mailbox.files.file_names import SUFFIX, SegmentName, Writer, next_number, parse_name
from dims.ipc.mailbox.files.records import HEAD
from dims.ipc.wire.envelope import Priority
from dims.layout import PRIVATE_FILE
from dims.system.clock import SYSTEM

SEGMENT_BYTES = 1024 * 1024
"""A writer begins a new file beyond this size: what is consumed can be removed by the megabyte."""
LONGEST_SEGMENTS = 16
"""Behind a heap of unread files the next may be up to so many times longer, so that a reader that
comes has few files to look at however much waits."""
_FILES_PER_STEP = 4
_UNBORN = re.compile(rf"\.([0-9]+)-.*{re.escape(SUFFIX)}")


class SegmentWriter:
    """Appends to one file. `append` either writes all or leaves the file as it was."""

    def __init__(self, directory: Path, name: SegmentName) -> None:
        self.name = name
        self.path = directory / str(name)
        self.size_bytes = 0
        self.limit_bytes = SEGMENT_BYTES
        """Where the next file shall begin."""
        temporary = directory / f".{os.getpid()}-{name}"
        self._descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE
        )
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.append(HEAD)
            # link and not rename: it refuses to replace a file of that name.
            os.link(temporary, self.path)
        except OSError:
            self.close()
            raise
        finally:
            temporary.unlink()
        _open.add(self)

    @classmethod
    def create(cls, directory: Path, writer: Writer, priority: Priority) -> SegmentWriter:
        """A new file behind all that this writer has there; raises OSError."""
        names = map(parse_name, list_names(directory))
        numbers = [name.number for name in names if name and name.lane == (writer, priority)]
        number = next_number(numbers, int(SYSTEM.utc() * 1e6))
        segment = cls(directory, SegmentName(writer, priority, number, os.urandom(2).hex()))
        steps = 1 + len(numbers) // _FILES_PER_STEP
        segment.limit_bytes = SEGMENT_BYTES * min(LONGEST_SEGMENTS, steps)
        return segment

    @property
    def is_open(self) -> bool:
        """Whether it can be appended to."""
        return self._descriptor >= 0

    def append(self, data: bytes) -> None:
        """Adds whole records; raises OSError, and then nothing of them stays in the file."""
        view, start = memoryview(data), self.size_bytes
        written = 0
        try:
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
        except OSError:
            # A disk that is full takes part of a write: that part would look like damage.
            os.ftruncate(self._descriptor, start)
            os.lseek(self._descriptor, start, os.SEEK_SET)
            raise
        self.size_bytes += written

    def sync(self) -> None:
        """Returns when the bytes are on the disk (fdatasync(2)); raises OSError."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """No more is added: readers may finish and remove the file. Closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        _open.discard(self)


def list_names(directory: Path) -> list[str]:
    """The segment files in a mailbox, by name only; raises OSError."""
    # Not Path.iterdir: it makes an object of each of what may be thousands.
    return [name for name in os.listdir(directory) if name.endswith(SUFFIX)]  # noqa: PTH208


def remove_unborn(directory: Path, names: list[str]) -> None:
    """Removes, of `names`, those over which their writers were killed before, or just when, they
    were linked into place; raises OSError."""
    for name in names:
        if not name.startswith("."):
            continue
        match = _UNBORN.fullmatch(name)
        if match is not None and not Path(f"/proc/{match[1]}").exists():
            (directory / name).unlink(missing_ok=True)


def is_finished(descriptor: int) -> bool:
    """Whether nobody can add to the open file any more; asks for the writer's lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def sync_directory(directory: Path) -> None:
    """Returns when the directory's names are on the disk; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_open: weakref.WeakSet[SegmentWriter] = weakref.WeakSet()


def _leave_children() -> None:
    """A child that a bot's code forks must not keep our files locked after we are gone."""
    for segment in tuple(_open):
        segment.close()


os.register_at_fork(after_in_child=_leave_children)
