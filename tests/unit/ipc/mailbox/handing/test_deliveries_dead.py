"""What no handler will take: where it ends, with which reason, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from post import LAST, killed, letter, put, segment, working

from dims.errors import RefusedError, StateError
from dims.ipc.mailbox.files.ledger import DeadLetter
from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES
from dims.ipc.mailbox.handing.deliveries import Undeliverable
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.wire.envelope import Envelope
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM


def last(n: int = 99) -> Envelope:
    return letter(n, LAST)


async def fail(_: Delivery) -> None:
    raise ValueError("bad \ud83d value")


async def buried(directory: Path, **ways: Any) -> tuple[DeadLetter, list[int]]:
    """The only dead letter of a mailbox that is worked to its last message, and what was tried."""
    async with working(directory, ways.pop("handle", fail), **ways) as (deliveries, clerk, mailbox):
        clerk.strangers, clerk.unknown = {"stranger"}, {"unknown"}
        deliveries.start()
        await clerk.until_last()
        await deliveries.drain()
        (dead,) = mailbox.ledger.dead()
        assert mailbox.ledger.counters()["dead"] == 1
        return dead, clerk.numbers


@pytest.mark.parametrize("attempts", [1, 3])
async def test_after_all_tries_a_message_is_kept_with_the_last_reason(
    tmp_path: Path, attempts: int
) -> None:
    bad = letter(7)
    put(tmp_path, bad, last())
    dead, tried = await buried(tmp_path, attempts=attempts)
    assert tried == [7] * attempts
    assert (dead.id, dead.kind, dead.sender, dead.readable) == (bad.id, "n", "a", True)
    assert dead.attempts == attempts
    assert dead.reason.startswith("ValueError: bad ")


async def test_what_no_other_try_can_help_is_tried_once(tmp_path: Path) -> None:
    async def handle(_: Delivery) -> None:
        raise Undeliverable("no such field")

    put(tmp_path, letter(7), last())
    dead, tried = await buried(tmp_path, handle=handle)
    assert (tried, dead.attempts, dead.reason) == ([7], 1, "no such field")


async def test_unknown_kinds_and_ungranted_senders_are_never_tried(tmp_path: Path) -> None:
    put(tmp_path / "kind", letter(1, "unknown"), last())
    dead, tried = await buried(tmp_path / "kind")
    assert (tried, dead.attempts, dead.reason) == ([], 0, "no handler for 'unknown'")
    put(tmp_path / "grant", letter(1, sender="stranger"))
    put(tmp_path / "grant", last())
    dead, tried = await buried(tmp_path / "grant", slots=1)
    assert (tried, dead.reason) == ([], "no grant lets stranger send 'n'")


async def test_an_expired_message_is_never_tried(tmp_path: Path) -> None:
    put(tmp_path, letter(1, expires_s=SYSTEM.utc() - 1), last())
    dead, tried = await buried(tmp_path)
    assert (tried, dead.reason, dead.readable) == ([], "expired", True)


async def test_a_message_in_the_name_of_another_is_quarantined(tmp_path: Path) -> None:
    put(tmp_path, letter(1, sender="boss"), writer="a")
    put(tmp_path, last(), number=2)
    dead, tried = await buried(tmp_path)
    assert (tried, dead.sender, dead.readable) == ([], "a", False)
    assert "holds a message of 'boss'" in dead.reason


@pytest.mark.parametrize("payload", [b"", b"no json", b"[]", b'{"v":1}', b"\xff"])
async def test_what_is_no_message_is_quarantined(tmp_path: Path, payload: bytes) -> None:
    segment(tmp_path, 1, payload)
    put(tmp_path, last(), number=2)
    dead, tried = await buried(tmp_path)
    assert (tried, dead.payload, dead.readable) == ([], payload, False)
    assert dead.reason.startswith("quarantined: ")


async def test_damaged_bytes_are_quarantined(tmp_path: Path) -> None:
    segment(tmp_path, 1, tail=b"garbage")
    put(tmp_path, last(), number=2)
    dead, _ = await buried(tmp_path)
    assert dead.payload == b"garbage"
    assert "7 bytes at 8" in dead.reason


async def test_a_message_that_comes_twice_is_handled_once(tmp_path: Path) -> None:
    twice = letter(1)
    put(tmp_path, twice, twice, letter(2))
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: clerk.numbers == [1, 2])
        await deliveries.drain()
        assert mailbox.ledger.counters()["duplicates"] == 1
    put(tmp_path, twice, last(), number=2)
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        assert clerk.numbers == []
        assert mailbox.ledger.counters()["duplicates"] == 2
        assert mailbox.ledger.dead() == []


async def test_a_message_that_kills_its_reader_is_buried_after_all_its_tries(
    tmp_path: Path,
) -> None:
    """Each reader is killed while the message is in hand, as `os._exit` in a handler does it."""
    put(tmp_path / "0", letter(7), last())
    attempts = []
    for incarnation in range(3):

        async def die(_: Delivery, n: int = incarnation) -> None:
            killed(tmp_path / f"{n}", f"{n + 1}")

        async with working(tmp_path / f"{incarnation}", die) as (deliveries, clerk, _):
            deliveries.start()
            await clerk.until(lambda: clerk.done)
            attempts.append(clerk.came[0].message.attempt)
    assert attempts == [1, 2, 3]
    dead, tried = await buried(tmp_path / "3")
    assert (tried, dead.attempts) == ([], 3)
    assert dead.reason == "the worker ended while it was in hand"


async def test_a_request_is_answered_by_a_message_to_its_sender(tmp_path: Path) -> None:
    request = letter(1, wants_reply=True, expires_s=SYSTEM.utc() + 100)
    put(tmp_path, request)

    async def handle(_: Delivery) -> Mapping[str, Any]:
        return {"sum": 3}

    async with working(tmp_path, handle) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: clerk.sent)
        (reply,) = clerk.sent
        assert (reply.kind, reply.body, reply.recipient) == ("reply", {"sum": 3}, "a")
        assert reply.reply_to == reply.causation == reply.correlation == request.id
        assert (reply.sender, reply.expires_s) == ("me", request.expires_s)


async def test_a_request_that_fails_for_good_is_answered_with_the_error(tmp_path: Path) -> None:
    put(tmp_path, letter(1, wants_reply=True), last())
    async with working(tmp_path, fail) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        (reply,) = clerk.sent
        assert reply.kind == "error"
        assert reply.body["type"] == "RemoteError"
        assert "ValueError: bad" in reply.body["message"]
        assert len(mailbox.ledger.dead()) == 1


async def test_a_result_too_large_for_a_message_is_never_sent(tmp_path: Path) -> None:
    put(tmp_path, letter(1, wants_reply=True), last())

    async def handle(_: Delivery) -> Mapping[str, Any]:
        return {"text": "x" * RECORD_LIMIT_BYTES}

    async with working(tmp_path, handle, attempts=1) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until_last()
        assert [reply.kind for reply in clerk.sent] == ["error"]
        assert "the limit is" in clerk.sent[0].body["message"]


async def test_an_asker_that_refuses_the_answer_harms_nobody(tmp_path: Path) -> None:
    put(tmp_path, letter(1, wants_reply=True), last())
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        clerk.refusing = {"a"}
        deliveries.start()
        await clerk.until_last()
        await deliveries.drain()
        assert (clerk.sent, mailbox.ledger.dead()) == ([], [])


async def test_an_answer_is_for_whoever_asked_without_any_grant(tmp_path: Path) -> None:
    put(tmp_path, letter(1, "unknown", sender="stranger", reply_to=new_id()))
    async with working(tmp_path) as (deliveries, clerk, _):
        clerk.strangers, clerk.unknown = {"stranger"}, {"unknown"}
        deliveries.start()
        await clerk.until(lambda: clerk.numbers == [1])


@pytest.mark.parametrize("error", [RefusedError("no"), StateError("disk"), KeyError("k")])
async def test_any_error_of_a_handler_costs_only_its_message(
    tmp_path: Path, error: Exception
) -> None:
    async def handle(_: Delivery) -> None:
        raise error

    put(tmp_path, letter(1), last())
    dead, tried = await buried(tmp_path, handle=handle)
    assert tried == [1, 1, 1]
    assert dead.reason.startswith(type(error).__name__)
