"""Puts durable messages into the mailboxes of others: one file per recipient and priority.

What is sent while a write is under way, or in the same turn of the event loop, goes with one write
and, where it waits for the disk, one fdatasync (group commit). Nothing waits for more to come.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterable
from pathlib import Path

from dims.errors import DimsError, FullError, RefusedError, StateError
from dims.ipc.mailbox.files.doorbell import Ringer
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.mailbox import unread_bytes
from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES, pack
from dims.ipc.mailbox.files.segment import SegmentWriter, sync_directory
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.ipc.wire.framing import encode_payload
from dims.system.clock import Clock

IDLE_S = 5.0
"""A file that nothing was added to for this long is closed, so that its reader can remove it."""
MEASURE_S = 1.0
"""How old a measurement of a mailbox's size may be."""
LONGEST_WAIT_S = 30.0
FIRST_WAIT_S = 0.5
"""What a sender is told to wait when a mailbox is full: doubled from the first to the longest."""

Outlets = dict[tuple[str, Priority], "_Outlet"]


class MailWriter:
    """Writes under one name into all mailboxes below `root`."""

    def __init__(
        self,
        root: Path,
        writer: Writer,
        bell_of: Callable[[str], Path],
        *,
        waits_for_disk: bool,
        mailbox_bytes: int,
        clock: Clock,
    ) -> None:
        self._root = root
        self._writer = writer
        self._ringer = Ringer(bell_of)
        self._waits_for_disk = waits_for_disk
        self._rooms: dict[str, _Room] = {}
        self._mailbox_bytes = mailbox_bytes
        self._clock = clock
        self._outlets: Outlets = {}
        self._closer: asyncio.TimerHandle | None = None
        self.sent = 0
        """Messages written since the start of the process."""

    async def send(self, envelope: Envelope) -> None:
        """Returns when the message is in its recipient's mailbox.

        Raises FullError when there is no room, RefusedError when there is no such mailbox,
        ProtocolError when it is too large or no JSON, StateError when the disk refuses it.
        """
        record = pack(encode_payload(envelope, RECORD_LIMIT_BYTES))
        await self._outlet(envelope.recipient, envelope.priority).write(record, 1)

    async def send_many(self, envelopes: Iterable[Envelope]) -> int:
        """As `send`, for many at once; returns how many. One that cannot be encoded keeps all
        others from being sent; otherwise all of one recipient and priority are sent, or none."""
        batches: dict[tuple[Address, Priority], list[bytes]] = {}
        for envelope in envelopes:
            record = pack(encode_payload(envelope, RECORD_LIMIT_BYTES))
            batches.setdefault((envelope.recipient, envelope.priority), []).append(record)
        writes = [
            self._outlet(*key).write(b"".join(records), len(records))
            for key, records in batches.items()
        ]
        if len(writes) == 1:
            await writes[0]
        else:
            for result in await asyncio.gather(*writes, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
        return sum(map(len, batches.values()))

    async def send_payload(self, recipient: str, priority: Priority, payload: bytes) -> None:
        """As `send`, of a message that is encoded already."""
        await self._outlet(recipient, priority).write(pack(payload), 1)

    def close(self) -> None:
        """Closes all files; what is being sent must have been awaited before."""
        if self._closer is not None:
            self._closer.cancel()
        for outlet in self._outlets.values():
            outlet.close()
        self._outlets.clear()
        self._ringer.close()

    def _outlet(self, recipient: str, priority: Priority) -> _Outlet:
        outlet = self._outlets.get((recipient, priority))
        if outlet is None:
            outlet = _Outlet(self, self._root / recipient, priority)
            self._outlets[recipient, priority] = outlet
            if self._closer is None:
                self._closer = asyncio.get_running_loop().call_later(IDLE_S, self._close_idle)
        return outlet

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        for key, outlet in tuple(self._outlets.items()):
            if outlet.idle_since_s <= loop.time() - IDLE_S:
                outlet.close()
                del self._outlets[key]
                # It is finished now: its reader can remove it.
                self._ringer.ring(key[0], "")
        self._closer = loop.call_later(IDLE_S, self._close_idle) if self._outlets else None

    # For outlets

    @property
    def waits_for_disk(self) -> bool:
        """Whether a message counts as sent only once it is on the disk."""
        return self._waits_for_disk

    def new_segment(self, directory: Path, priority: Priority) -> SegmentWriter:
        """The next file there; raises OSError."""
        segment = SegmentWriter.create(directory, self._writer, priority)
        if self._waits_for_disk:
            try:
                sync_directory(directory)
            except OSError:
                segment.close()
                raise
        return segment

    def room(self, directory: Path) -> _Room:
        """What is known of a mailbox's size."""
        room = self._rooms.get(directory.name)
        if room is None:
            room = self._rooms[directory.name] = _Room(directory, self._mailbox_bytes, self._clock)
        return room

    def wrote(self, recipient: str, name: str, messages: int) -> None:
        """So many messages are in that file now."""
        self.sent += messages
        self._ringer.ring(recipient, name)


class _Room:
    """How full one mailbox is: measured now and then, added up in between."""

    def __init__(self, directory: Path, limit_bytes: int, clock: Clock) -> None:
        self._clock = clock
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._measured_s = float("-inf")
        self._wait_s = FIRST_WAIT_S

    def claim(self, size_bytes: int) -> None:
        """Takes so much of the room; raises FullError when it is not there, OSError."""
        full = self._used_bytes + size_bytes > self._limit_bytes
        now_s = self._clock.monotonic()
        if full or now_s - self._measured_s > MEASURE_S:
            self._used_bytes = unread_bytes(self._directory)
            self._measured_s = now_s
            full = self._used_bytes + size_bytes > self._limit_bytes
        if full:
            wait_s, self._wait_s = self._wait_s, min(LONGEST_WAIT_S, self._wait_s * 2)
            raise FullError(
                f"the mailbox of {self._directory.name} is full"
                f" ({self._used_bytes} of {self._limit_bytes} bytes)",
                retry_after_s=wait_s,
            )
        self._used_bytes += size_bytes
        self._wait_s = FIRST_WAIT_S


class _Outlet:
    """One file of one recipient and priority, and what waits to be written to it."""

    def __init__(self, writer: MailWriter, directory: Path, priority: Priority) -> None:
        self._writer = writer
        self._directory = directory
        self._priority = priority
        self._segment: SegmentWriter | None = None
        self._waiting: list[tuple[bytes, int, asyncio.Future[None]]] = []
        self._loop = asyncio.get_running_loop()
        self._flushing: asyncio.Task[None] | None = None
        self._scheduled = False
        self._used_s = self._loop.time()

    @property
    def idle_since_s(self) -> float:
        """Loop time since when nothing was to do."""
        is_busy = self._waiting or self._flushing is not None
        return self._loop.time() if is_busy else self._used_s

    def write(self, data: bytes, messages: int) -> asyncio.Future[None]:
        """Done when the records are written, with the error that kept them from it if any."""
        written: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((data, messages, written))
        if not self._scheduled and self._flushing is None:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return written

    def close(self) -> None:
        """Closes the file."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def _flush(self) -> None:
        self._scheduled = False
        if self._writer.waits_for_disk:
            self._flushing = self._loop.create_task(self._flush_to_disk())
            return
        self._write_batch(*self._next_batch())

    async def _flush_to_disk(self) -> None:
        try:
            while self._waiting:
                batch, data = self._next_batch()
                error = await asyncio.to_thread(self._append, data)
                self._tell(batch, error)
        finally:
            self._flushing = None

    def _next_batch(self) -> tuple[list[tuple[bytes, int, asyncio.Future[None]]], bytes]:
        batch, self._waiting = self._waiting, []
        return batch, b"".join([data for data, _, _ in batch])

    def _write_batch(
        self, batch: list[tuple[bytes, int, asyncio.Future[None]]], data: bytes
    ) -> None:
        self._tell(batch, self._append(data))

    def _append(self, data: bytes) -> DimsError | None:
        """Writes records, to the disk if need be; why it could not, if so. May run in a thread:
        one at a time, and nothing else of this outlet touches the file meanwhile."""
        try:
            self._writer.room(self._directory).claim(len(data))
            segment = self._segment
            if segment is not None and segment.size_bytes >= segment.limit_bytes:
                segment.close()
                segment = None
            if segment is None:
                segment = self._writer.new_segment(self._directory, self._priority)
                self._segment = segment
            segment.append(data)
            if self._writer.waits_for_disk:
                segment.sync()
        except FullError as error:
            return error
        except FileNotFoundError:
            return RefusedError(
                f"there is no mailbox of {self._directory.name!r}",
                hint="is it a bot of bots.yaml, and was the fleet ever started?",
            )
        except OSError as error:
            return _refused_by_disk(self._directory.name, error)
        return None

    def _tell(
        self, batch: list[tuple[bytes, int, asyncio.Future[None]]], error: DimsError | None
    ) -> None:
        self._used_s = self._loop.time()
        messages = 0
        for _, count, written in batch:
            messages += count
            if written.done():
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)
        if error is None and self._segment is not None:
            self._writer.wrote(self._directory.name, self._segment.path.name, messages)


def _refused_by_disk(recipient: str, error: OSError) -> StateError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StateError(
            f"the disk is full: the message to {recipient} is not sent", hint="make room, try again"
        )
    return StateError(f"the message to {recipient} cannot be written: {error.strerror}")
