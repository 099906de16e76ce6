"""The writer of mail: what `send` promises, what it refuses, and when the recipient is woken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace
from post import letter
from virtual import JumpingLoop

from dims.errors import FullError, ProtocolError, RefusedError, StateError
from dims.ipc.mailbox.files.doorbell import MOST_NAMES, Doorbell, Ringer
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.records import HEAD, RECORD_LIMIT_BYTES, scan
from dims.ipc.mailbox.files.segment import SEGMENT_BYTES, is_finished, list_names
from dims.ipc.mailbox.files.writer import IDLE_S, LONGEST_WAIT_S, MailWriter
from dims.ipc.wire.envelope import Envelope, Priority
from dims.ipc.wire.framing import decode_payload, encode_payload
from dims.system.clock import SYSTEM

LIMIT_S = 10.0
ROOM_BYTES = 100_000_000
both = pytest.mark.parametrize("waits_for_disk", [False, True])


@asynccontextmanager
async def writing(
    root: Path, *, waits_for_disk: bool = False, mailbox_bytes: int = ROOM_BYTES
) -> AsyncIterator[MailWriter]:
    """A writer under the name `a`, and the mailbox of `me`."""
    (root / "me").mkdir(exist_ok=True)
    writer = MailWriter(
        root,
        Writer("a"),
        lambda bot: root / f"{bot}.bell",
        waits_for_disk=waits_for_disk,
        mailbox_bytes=mailbox_bytes,
        clock=SYSTEM,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            yield writer
    finally:
        writer.close()


def there(root: Path) -> list[Envelope]:
    """All messages in the mailbox, file by file."""
    found = []
    for name in sorted(list_names(root / "me")):
        data = (root / "me" / name).read_bytes()
        assert data.startswith(HEAD)
        found += [decode_payload(body) for body, _ in scan(data, len(HEAD)).payloads]
    return found


def bulky(n: int, size_bytes: int) -> Envelope:
    return replace(letter(n), body={"n": n, "text": "x" * size_bytes})


@contextmanager
def one_descriptor() -> Iterator[None]:
    """No more than one more file can be opened; one again at the end."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        os.close(taken.pop())
        yield
        taken.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@asynccontextmanager
async def bell(root: Path) -> AsyncIterator[asyncio.Queue[set[str] | None]]:
    rings: asyncio.Queue[set[str] | None] = asyncio.Queue()
    doorbell = Doorbell(root / "me.bell", rings.put_nowait)
    doorbell.open()
    try:
        yield rings
    finally:
        doorbell.close()


@both
async def test_a_message_is_in_its_file_when_send_returns(
    tmp_path: Path, *, waits_for_disk: bool
) -> None:
    async with writing(tmp_path, waits_for_disk=waits_for_disk) as writer:
        sent = [letter(n) for n in range(5)]
        for count, one in enumerate(sent, 1):
            await writer.send(one)
            assert there(tmp_path) == sent[:count]
        assert writer.sent == 5
        assert len(list_names(tmp_path / "me")) == 1


@both
async def test_what_is_sent_at_once_goes_with_one_write_in_order(
    tmp_path: Path, *, waits_for_disk: bool
) -> None:
    async with writing(tmp_path, waits_for_disk=waits_for_disk) as writer, bell(tmp_path) as rings:
        sent = [letter(n) for n in range(64)]
        await asyncio.gather(*map(writer.send, sent))
        assert there(tmp_path) == sent
        (name,) = list_names(tmp_path / "me")
        assert await rings.get() == {name}
        await asyncio.sleep(0)
        assert rings.empty(), "each write rings once, and there was more than one"


async def test_many_are_sent_to_each_priority_whole(tmp_path: Path) -> None:
    sent = [letter(n, priority=Priority(n % 4)) for n in range(40)]
    async with writing(tmp_path) as writer:
        assert await writer.send_many(sent) == 40
        assert await writer.send_many([]) == 0
    assert there(tmp_path) == sorted(sent, key=lambda one: one.priority)
    assert len(list_names(tmp_path / "me")) == 4


async def test_one_that_cannot_be_encoded_keeps_all_of_its_lot_back(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        with pytest.raises(ProtocolError):
            await writer.send_many(
                [letter(1), replace(letter(1), body={"set": object()}), letter(2)]
            )
        assert there(tmp_path) == []


async def test_an_encoded_message_is_sent_as_it_is(tmp_path: Path) -> None:
    one = letter(1)
    async with writing(tmp_path) as writer:
        await writer.send_payload("me", one.priority, encode_payload(one))
    assert there(tmp_path) == [one]


async def test_a_full_mailbox_refuses_and_says_how_long_to_wait(tmp_path: Path) -> None:
    async with writing(tmp_path, mailbox_bytes=1_000) as writer:
        await writer.send(letter(1))
        waits_s = []
        for _ in range(9):
            with pytest.raises(FullError, match="mailbox of me is full") as refused:
                await writer.send(bulky(2, 1_000))
            waits_s.append(refused.value.retry_after_s)
        assert waits_s == sorted(waits_s)
        assert waits_s[0] < waits_s[1]
        assert waits_s[-1] == LONGEST_WAIT_S
        await writer.send(letter(3))
        with pytest.raises(FullError) as refused:
            await writer.send(bulky(2, 1_000))
        assert refused.value.retry_after_s == waits_s[0], "room ends the growing"
        assert [one.body["n"] for one in there(tmp_path)] == [1, 3]


async def test_room_that_was_made_is_seen_at_once(tmp_path: Path) -> None:
    async with writing(tmp_path, mailbox_bytes=1_000) as writer:
        await writer.send(bulky(1, 500))
        with pytest.raises(FullError):
            await writer.send(bulky(2, 500))
        writer.close()
        for name in list_names(tmp_path / "me"):
            (tmp_path / "me" / name).unlink()
        await writer.send(letter(7))
        assert [one.body["n"] for one in there(tmp_path)] == [7]


@both
async def test_nobody_there_is_refused(tmp_path: Path, *, waits_for_disk: bool) -> None:
    async with writing(tmp_path, waits_for_disk=waits_for_disk) as writer:
        with pytest.raises(RefusedError, match="no mailbox of 'nobody'"):
            await writer.send_payload("nobody", Priority.LOW, b"{}")
        await writer.send(letter(1))
        assert os.listdir(tmp_path) == ["me"]  # noqa: PTH208


@both
async def test_a_disk_that_refuses_is_said_so(tmp_path: Path, *, waits_for_disk: bool) -> None:
    (tmp_path / "file").touch()
    async with writing(tmp_path, waits_for_disk=waits_for_disk) as writer:
        with pytest.raises(StateError, match="to file cannot be written"):
            await writer.send_payload("file", Priority.LOW, b"{}")


async def test_what_is_too_large_or_no_json_harms_no_other(tmp_path: Path) -> None:
    bodies = [{"text": "x" * RECORD_LIMIT_BYTES}, {"set": object()}, {"nan": float("nan")}]
    async with writing(tmp_path) as writer:
        bad = [replace(letter(1), body=body) for body in bodies]
        results = await asyncio.gather(
            writer.send(letter(0)),
            *(writer.send(one) for one in bad),
            writer.send(letter(9)),
            return_exceptions=True,
        )
        assert results[0] is results[-1] is None
        assert all(isinstance(one, ProtocolError) for one in results[1:-1])
        assert [one.body["n"] for one in there(tmp_path)] == [0, 9]


async def test_a_new_file_begins_beyond_the_size_of_one(tmp_path: Path) -> None:
    async with writing(tmp_path) as writer:
        for n in range(4):
            await writer.send(bulky(n, SEGMENT_BYTES // 2))
        assert [one.body["n"] for one in there(tmp_path)] == [0, 1, 2, 3]
        assert len(list_names(tmp_path / "me")) == 2


def test_a_file_that_nothing_is_added_to_is_closed_and_its_reader_is_told(tmp_path: Path) -> None:
    loop = JumpingLoop()

    async def scenario() -> None:
        async with writing(tmp_path) as writer, bell(tmp_path) as rings:
            await writer.send(letter(1))
            (name,) = list_names(tmp_path / "me")
            assert await rings.get() == {name}
            descriptor = os.open(tmp_path / "me" / name, os.O_RDONLY)
            assert not is_finished(descriptor)
            loop.ahead_s += IDLE_S + 1
            async with asyncio.timeout(LIMIT_S):
                assert await rings.get() == {""}
            assert is_finished(descriptor)
            os.close(descriptor)
            await writer.send(letter(2))
            assert len(list_names(tmp_path / "me")) == 2
            assert [one.body["n"] for one in there(tmp_path)] == [1, 2]

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 10 * IDLE_S))


async def test_many_rings_mean_a_look_at_all(tmp_path: Path) -> None:
    ringer = Ringer(lambda bot: tmp_path / f"{bot}.bell")
    ringer.ring("me", "before.seg")
    async with asyncio.timeout(LIMIT_S), bell(tmp_path) as rings:
        for n in range(MOST_NAMES - 1):
            ringer.ring("me", f"{n % 2}.seg")
        assert await rings.get() == {"0.seg", "1.seg"}
        for n in range(1_000):
            ringer.ring("me", f"{n}.seg")
        assert await rings.get() is None
    ringer.ring("me", "after.seg")
    assert not (tmp_path / "me.bell").exists()
    ringer.close()
    ringer.close()


async def test_a_bell_that_a_killed_reader_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "me.bell").touch()
    ringer = Ringer(lambda bot: tmp_path / f"{bot}.bell")
    ringer.ring("me", "nobody hears it")
    async with asyncio.timeout(LIMIT_S), bell(tmp_path) as rings:
        ringer.ring("me", "one.seg")
        assert await rings.get() == {"one.seg"}
    ringer.close()


async def test_a_file_whose_name_cannot_be_brought_to_the_disk_is_not_left_open(
    tmp_path: Path,
) -> None:
    async with writing(tmp_path, waits_for_disk=True) as writer:
        with one_descriptor(), pytest.raises(OSError, match="Too many open files"):
            writer.new_segment(tmp_path / "me", Priority.NORMAL)
        (name,) = list_names(tmp_path / "me")
        descriptor = os.open(tmp_path / "me" / name, os.O_RDONLY)
        assert is_finished(descriptor), "its reader can remove it"
        os.close(descriptor)
        await writer.send(letter(1))
        assert [one.body["n"] for one in there(tmp_path)] == [1]
