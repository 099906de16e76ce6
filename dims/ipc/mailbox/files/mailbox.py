"""A recipient's mailbox as its one reader has it open: lanes, ledger, and what may be seen of it.

Knows files; refuses to know handlers, time limits and event loops. Opening costs a listing of the
directory, however many messages wait. Who only looks (an operator while the bot is down) opens it
in the same way and gives nothing out.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dims.errors import ProtocolError
from dims.ipc.mailbox.files import records
from dims.ipc.mailbox.files.file_names import LaneKey, SegmentName, parse_name
from dims.ipc.mailbox.files.lane import Item, Lane
from dims.ipc.mailbox.files.ledger import DeadLetter, Ledger
from dims.ipc.mailbox.files.records import HEAD
from dims.ipc.mailbox.files.segment import SegmentWriter, list_names, remove_unborn
from dims.ipc.wire.envelope import Envelope, Priority, created_s
from dims.ipc.wire.framing import decode_payload
from dims.layout import PRIVATE_DIR
from dims.system.locks import FileLock

LEDGER, LOCK = "reader.db", "reader.lock"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """What waits in a lane: messages, bytes, and when the oldest was made (UTC seconds since 1970,
    0 if unknown). What is in a handler's hands counts."""

    sender: str
    priority: Priority
    messages: int
    size_bytes: int
    oldest_s: float


class Mailbox:
    """Opened by one process at a time; raises AlreadyRunningError otherwise, StateError or
    OSError when the files cannot be used; then nothing stays open."""

    def __init__(self, directory: Path, *, waits_for_disk: bool = False) -> None:
        self.directory = directory
        directory.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK)
        self._lock.take(f"a reader of mailbox {directory.name!r}")
        try:
            self.ledger = Ledger(directory / LEDGER, waits_for_disk=waits_for_disk)
        except BaseException:
            self._lock.release()
            raise
        _open.add(self)
        self._lanes: dict[LaneKey, Lane] = {}
        try:
            names = list_names(directory)
            self._remove_consumed(names)
            self._note(map(parse_name, names))
        except BaseException:
            self.close()
            raise

    def close(self, in_hand: Iterable[Item] = ()) -> None:
        """Keeps everything and lets the next reader in."""
        hands = {item.lane: item for item in in_hand}
        for lane in self._lanes.values():
            lane.close(hands.get(lane.key))
        self.sweep()
        self.ledger.close()
        self._lock.release()
        _open.discard(self)

    def leave_to_parent(self) -> None:
        """For a forked child: the lock must not outlive us there, nor the ledger be closed."""
        self._lock.forget()
        self.ledger.leave_to_parent()

    @property
    def lanes(self) -> Iterable[Lane]:
        """All lanes that have files."""
        return self._lanes.values()

    def lane(self, key: LaneKey) -> Lane | None:
        """The lane of that key, if it has files now."""
        return self._lanes.get(key)

    def scan(self) -> list[Lane]:
        """Looks at all files; the lanes, which may all have something new."""
        return self._note(map(parse_name, list_names(self.directory)))

    def notice(self, names: Iterable[str]) -> list[Lane]:
        """Takes note of files by name; their lanes. Names that are no segments are passed over.

        A file that is new may have elder ones that nobody rang for, because their writer was
        killed: so its whole lane is looked for. Raises OSError.
        """
        named = [name for name in map(parse_name, names) if name is not None]
        news = {name.lane for name in named if not self._knows(name)}
        known = [name for name in named if name.lane not in news]
        there = map(parse_name, list_names(self.directory)) if news else ()
        return self._note([*known, *(name for name in there if name and name.lane in news)])

    def settle(self, item: Item, message_id: str | None) -> None:
        """The item is done with, from the next flush of the ledger on."""
        self.ledger.settle(str(item.segment), item.end, message_id)
        lane = self._lanes[item.lane]
        lane.settle(item)

    def sweep(self) -> bool:
        """Keeps what was noted, and removes the files that are consumed; False when something of
        that cannot be done now."""
        if not self.ledger.flush():
            return False
        for lane in tuple(self._lanes.values()):
            if lane.consumed:
                try:
                    self._remove(map(str, lane.consumed))
                except OSError as error:
                    # All is kept: a file that stays must not look like a failure of its messages.
                    _log.error("a file that is consumed cannot be removed: %s", error)
                    return False
                lane.removed()
            if lane.is_empty:
                del self._lanes[lane.key]
        return True

    # Looking

    def depths(self) -> list[LaneDepth]:
        """What waits, by lane. Reads the headers of all that waits: about 1 s for 2 million."""
        found = []
        for lane in self._lanes.values():
            messages = size_bytes = 0
            oldest_s = 0.0
            for name in lane.segments:
                data, start = self._unsettled(name)
                size_bytes += len(data) - start
                messages += sum(1 for _ in records.count(data, start))
                oldest_s = oldest_s or _first_created_s(data, start)
            sender = lane.segments[0].sender if lane.segments else lane.key[0]
            if messages:
                found.append(LaneDepth(sender, lane.key[1], messages, size_bytes, oldest_s))
        return found

    def peek(self, limit: int) -> Iterator[Envelope]:
        """The first messages of each lane, most urgent lanes first; nothing is given out."""
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.key[1]):
            left = limit
            for name in lane.segments:
                data, start = self._unsettled(name)
                for payload, _ in records.scan(data, start, left).payloads:
                    try:
                        yield decode_payload(payload)
                    except ProtocolError:
                        continue
                    left -= 1
                if left <= 0:
                    break

    # Dead letters

    def replay(self, letters: Iterable[DeadLetter]) -> list[int]:
        """Puts dead letters into the mailbox again, and takes them out of the box; their numbers.

        Those that are no messages stay. Raises OSError or StateError; a letter may then be both in
        the box and in the mailbox, and is delivered when it is replayed or dropped.
        """
        replayed = []
        for letter in letters:
            if not letter.readable:
                continue
            envelope = decode_payload(letter.payload)
            writer = f"{letter.sender}+replay"
            name = parse_name(f"{writer}~0~{0:016x}-0000.seg")
            if name is None:
                continue
            segment = SegmentWriter.create(self.directory, name.writer, envelope.priority)
            try:
                segment.append(records.pack(letter.payload))
                segment.sync()
            finally:
                segment.close()
            self.ledger.exhume([letter.n])
            replayed.append(letter.n)
        return replayed

    def _knows(self, name: SegmentName) -> bool:
        lane = self._lanes.get(name.lane)
        return lane is not None and lane.knows(name)

    def _note(self, names: Iterable[SegmentName | None]) -> list[Lane]:
        by_lane: dict[LaneKey, list[SegmentName]] = {}
        for name in names:
            if name is not None:
                by_lane.setdefault(name.lane, []).append(name)
        return [self._noticed(key, found) for key, found in by_lane.items()]

    def _noticed(self, key: LaneKey, names: list[SegmentName]) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key, self.directory, self.ledger)
        lane.add(names)
        return lane

    def _unsettled(self, name: SegmentName) -> tuple[bytes, int]:
        at = self.ledger.segments().get(str(name))
        try:
            data = (self.directory / str(name)).read_bytes()
        except FileNotFoundError:
            return b"", 0
        return data, min(len(data), max(at.settled, len(HEAD)) if at else len(HEAD))

    def _remove_consumed(self, names: list[str]) -> None:
        """What a former reader had no time for: files that are consumed, notes without files.

        Leaves in `names` what is there still.
        """
        remove_unborn(self.directory, names)
        there = set(names)
        progress = dict(self.ledger.segments())
        gone = {name for name, at in progress.items() if at.done or name not in there}
        self._remove(gone)
        names[:] = [name for name in names if name not in gone]

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self.directory / name).unlink(missing_ok=True)
            self.ledger.forget(name)


def unread_bytes(directory: Path) -> int:
    """What the segment files of a mailbox take in all; more than what is unread, by less than a
    segment per sender and priority. Raises OSError."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if parse_name(entry.name) is not None:
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:
                    continue
    return total


def dead_letter(
    item: Item, message: Envelope | None, attempts: int, reason: str, at_s: float
) -> DeadLetter:
    """The dead letter that an item becomes at `at_s`, in UTC seconds since 1970."""
    return DeadLetter(
        n=0,
        at=at_s,
        id=message.id if message else f"{item.segment}@{item.end}",
        kind=message.kind if message else "",
        sender=item.segment.sender,
        attempts=attempts,
        reason=reason,
        payload=item.payload[: records.RECORD_LIMIT_BYTES],
        readable=message is not None,
    )


def _first_created_s(data: bytes, start: int) -> float:
    found = records.scan(data, start, 1).payloads
    if not found:
        return 0.0
    try:
        return created_s(decode_payload(found[0][0]).id)
    except ProtocolError:
        return 0.0


_open: weakref.WeakSet[Mailbox] = weakref.WeakSet()


def _leave_children() -> None:
    for mailbox in tuple(_open):
        mailbox.leave_to_parent()


os.register_at_fork(after_in_child=_leave_children)
