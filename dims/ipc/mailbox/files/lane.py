"""One sender's messages of one priority, read in order out of their segment files.

Knows files and positions; refuses to know what is done with a message. Holds at most one batch of
messages however many wait, and opens one file at a time.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from dims.ipc.mailbox.files import records
from dims.ipc.mailbox.files.file_names import LaneKey, SegmentName
from dims.ipc.mailbox.files.ledger import Ledger
from dims.ipc.mailbox.files.records import HEAD, Rest
from dims.ipc.mailbox.files.segment import is_finished

BATCH = 64
"""Messages read ahead. Each batch is noted as given out in one commit, before its first message
is: more would make that cheaper still, and what a crash makes doubtful larger."""
CHUNK_BYTES = 32_768

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """A payload and where it ends. `damage` says why it is none, and is empty otherwise.

    `again` when it was given out before by a reader that ended without settling it; `head` when it
    is the one that reader had in hand.
    """

    lane: LaneKey
    segment: SegmentName
    end: int
    payload: bytes
    again: bool = False
    head: bool = False
    damage: str = ""


class Lane:
    """Gives items in order. Whoever takes one settles it before the next is asked for, or gives
    up the lane."""

    def __init__(self, key: LaneKey, directory: Path, ledger: Ledger) -> None:
        self.key = key
        self._directory = directory
        self._ledger = ledger
        self._segments: deque[SegmentName] = deque()
        self._known: set[SegmentName] = set()
        self._descriptor = -1
        self._read = 0
        self._doubtful_to = 0
        """Up to here a former reader gave messages out."""
        self._batch: deque[Item] = deque()
        self._ended: dict[SegmentName, int] = {}
        """Segments read to their end, and where that is."""
        self._suspect = -1
        self._is_fresh = True
        """Whether nothing was given out yet."""
        self.consumed: list[SegmentName] = []
        """Segments of which everything is settled, and whose files may go after a commit."""

    @property
    def segments(self) -> list[SegmentName]:
        """What is not consumed, in order."""
        return [*self._ended, *self._segments]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of this lane is left."""
        return not (self._segments or self._ended or self.consumed or self._batch)

    def knows(self, name: SegmentName) -> bool:
        """Whether that file was added, and is not removed."""
        return name in self._known

    def add(self, names: list[SegmentName]) -> None:
        """Takes note of files; those that are known are passed over."""
        for name in sorted(names):
            if name not in self._known:
                self._known.add(name)
                self._segments.append(name)

    def next(self) -> Item | None:
        """The next message, or None while there is none.

        Raises OSError when a file cannot be read, StateError when the ledger cannot note what is
        given out; the same message comes the next time then.
        """
        while not self._batch:
            if not self._segments or not self._refill():
                return None
        return self._batch.popleft()

    def settle(self, item: Item) -> None:
        """The item is done with: it will not come again once the ledger is kept."""
        if self._ended.get(item.segment) == item.end:
            self._consume(item.segment)

    def close(self, in_hand: Item | None) -> None:
        """Gives nothing more out, and takes back what was read ahead; not what may be `in_hand`
        still."""
        self._batch.clear()
        self._close()
        for segment in self.segments:
            at = self._ledger.segments().get(str(segment))
            if at is None:
                continue
            kept = in_hand.end if in_hand is not None and in_hand.segment == segment else 0
            self._ledger.take(str(segment), max(at.settled, kept))

    def _refill(self) -> bool:
        """Whether the batch got something, or another look is worth while."""
        segment = self._segments[0]
        if self._descriptor < 0:
            try:
                self._open(segment)
            except FileNotFoundError:
                # Removed by hand: what is behind it must come all the same.
                _log.error("%s is gone", segment)
                self._read = 0
                self._leave(segment)
                return True
        data = self._look(CHUNK_BYTES)
        found = records.scan(data, 0, BATCH)
        if not found.payloads and found.needs_bytes > len(data) == CHUNK_BYTES:
            data = self._look(found.needs_bytes)
            found = records.scan(data, 0, BATCH)
        if found.payloads:
            start = self._read
            self._give(segment, [(body, start + end) for body, end in found.payloads])
            return True
        if not is_finished(self._descriptor):
            if found.rest is Rest.DAMAGED and self._suspect == self._read:
                return self._quarantine(segment)
            # Not believed at the first look: its writer may be in the middle of it.
            self._suspect = self._read if found.rest is Rest.DAMAGED else -1
            return False
        if self._look(max(CHUNK_BYTES, found.needs_bytes, len(data))) != data:
            # Something was written between the look and the end of its writer.
            return True
        if found.rest is Rest.DAMAGED or records.resume(data, 1) is not None:
            # A cut message has nothing behind it: then it is its length that is damaged.
            return self._quarantine(segment)
        if found.rest is Rest.CUT:
            _log.info("%s ends in a cut message of %d bytes", segment, len(data))
        self._leave(segment)
        return True

    def _look(self, size_bytes: int) -> bytes:
        return os.pread(self._descriptor, size_bytes, self._read)

    def _open(self, segment: SegmentName) -> None:
        self._descriptor = os.open(self._directory / str(segment), os.O_RDONLY | os.O_CLOEXEC)
        at = self._ledger.segments().get(str(segment))
        self._read = max(at.settled, len(HEAD)) if at else len(HEAD)
        self._doubtful_to = at.taken if at else 0
        self._suspect = -1
        if os.pread(self._descriptor, len(HEAD), 0) != HEAD:
            self._read = 0 if at is None else at.settled

    def _give(self, segment: SegmentName, found: list[tuple[bytes, int]], damage: str = "") -> None:
        end = found[-1][1]
        self._ledger.take(str(segment), end)
        self._ledger.commit(())
        self._read = end
        self._suspect = -1
        for payload, end in found:
            again = end <= self._doubtful_to
            head, self._is_fresh = again and self._is_fresh, False
            self._batch.append(Item(self.key, segment, end, payload, again, head, damage))

    def _quarantine(self, segment: SegmentName) -> bool:
        """What stands here is no message: it is given out as such, up to the next that is one."""
        data = self._look(os.fstat(self._descriptor).st_size)
        sound = records.resume(data, 1)
        bad = data if sound is None else data[:sound]
        what = f"{len(bad)} bytes at {self._read} of {segment} are no message"
        _log.error("%s", what)
        self._give(segment, [(bad, self._read + len(bad))], what)
        return True

    def _leave(self, segment: SegmentName) -> None:
        """The segment is read to its end."""
        end = self._read
        self._close()
        self._segments.popleft()
        self._ended[segment] = end
        at = self._ledger.segments().get(str(segment))
        if (at.settled if at else len(HEAD)) >= end:
            self._consume(segment)

    def _consume(self, segment: SegmentName) -> None:
        del self._ended[segment]
        self._ledger.done(str(segment))
        self.consumed.append(segment)

    def removed(self) -> None:
        """The files of `consumed` are gone."""
        self._known.difference_update(self.consumed)
        self.consumed.clear()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
