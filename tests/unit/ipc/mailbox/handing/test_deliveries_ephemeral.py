"""Messages and requests that came over a socket: order, answers, and what is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from post import Asker, letter, offering, working

from dims.errors import DimsError, RefusedError, RemoteError
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.mailbox.handing.places import URGENT_SLOTS
from dims.ipc.wire.envelope import Priority
from dims.system.clock import SYSTEM

URGENT = Priority.URGENT


async def test_offered_messages_come_in_order_and_each_is_said_to_be_done() -> None:
    done: list[int] = []
    async with offering() as (deliveries, clerk):

        def note(n: int) -> None:
            done.append(n)
            clerk.tell()

        for n in range(100):
            deliveries.offer(letter(n), partial(note, n))
        await clerk.until(lambda: len(done) == 100)
        assert clerk.numbers == done == list(range(100))


async def test_of_each_sender_and_priority_one_is_in_hand() -> None:
    go = asyncio.Event()

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with offering(handle) as (deliveries, clerk):
        for n in range(3):
            for sender in "ab":
                deliveries.offer(letter(n, sender=sender), clerk.tell)
        await clerk.until(lambda: len(clerk.came) == 2)
        assert (deliveries.in_hand, clerk.numbers) == (2, [0, 0])
        go.set()
        await clerk.until(lambda: len(clerk.done) == 6)


async def test_an_offered_message_that_fails_or_is_late_is_done_with_all_the_same() -> None:
    done: list[int] = []

    async def handle(delivery: Delivery) -> None:
        raise ValueError("bad")

    async with offering(handle) as (deliveries, clerk):

        def note(n: int) -> None:
            done.append(n)
            clerk.tell()

        for n, expires_s in enumerate((None, SYSTEM.utc() - 1, None)):
            message = letter(n, expires_s=expires_s)
            deliveries.offer(message, partial(note, n))
        await clerk.until(lambda: done == [0, 1, 2])
        assert clerk.numbers == [0, 2]


async def test_a_sender_comes_again_after_all_of_its_messages_were_handled() -> None:
    async with offering() as (deliveries, clerk):
        for n in range(3):
            deliveries.offer(letter(n), clerk.tell)
            await clerk.until(partial(clerk.has_done, n + 1))
            await deliveries._pool._idle.wait()
        assert clerk.numbers == [0, 1, 2]


async def test_requests_run_side_by_side_and_each_has_its_answer() -> None:
    turns = [asyncio.Event() for _ in range(4)]

    async def handle(delivery: Delivery) -> Mapping[str, Any] | None:
        n = delivery.message.body["n"]
        await turns[n].wait()
        return {"n": n} if n else None

    async with offering(handle) as (deliveries, _):
        asker = Asker(deliveries)
        for n in range(4):
            asker.ask(n)
        for n in reversed(range(4)):
            turns[n].set()
            assert await asker.answers[n] == ({"n": n} if n else {})


@pytest.mark.parametrize(
    ("error", "kind"), [(RefusedError("no"), RefusedError), (ValueError("bad"), RemoteError)]
)
async def test_an_error_is_an_answer(error: Exception, kind: type[DimsError]) -> None:
    async def handle(_: Delivery) -> None:
        raise error

    async with offering(handle) as (deliveries, _):
        asker = Asker(deliveries)
        asker.ask(1)
        answer = await asker.answers[1]
        assert type(answer) is kind
        assert str(error) in str(answer)


async def test_a_request_that_is_given_up_is_cancelled_and_not_answered() -> None:
    cancelled = asyncio.Event()

    async def handle(delivery: Delivery) -> Mapping[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    async with offering(handle) as (deliveries, clerk):
        asker = Asker(deliveries)
        request = asker.ask(1)
        await clerk.until(lambda: clerk.came)
        deliveries.cancel(request.id)
        await cancelled.wait()
        await deliveries._pool._idle.wait()
        assert not asker.answers[1].done()
        deliveries.cancel(request.id)


async def test_a_request_that_is_late_already_is_not_begun() -> None:
    async with offering(slots=1) as (deliveries, clerk):
        asker = Asker(deliveries)
        asker.ask(1, expires_s=SYSTEM.utc() - 1)
        asker.ask(2)
        assert await asker.answers[2] == {}
        assert clerk.numbers == [2]
        assert not asker.answers[1].done()


async def test_requests_wait_for_a_place_and_urgent_ones_have_their_own() -> None:
    go = asyncio.Event()

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with offering(handle, slots=2) as (deliveries, clerk):
        asker = Asker(deliveries)
        for n in range(5):
            asker.ask(n)
        assert deliveries.in_hand == 2
        for n in range(5, 15):
            asker.ask(n, priority=URGENT)
        assert deliveries.in_hand == 2 + URGENT_SLOTS
        go.set()
        await asyncio.gather(*asker.answers.values())
        assert clerk.numbers[:6] == [0, 1, 5, 6, 7, 8]
        assert sorted(clerk.numbers) == list(range(15))


async def test_draining_waits_for_requests_in_hand() -> None:
    go = asyncio.Event()

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with offering(handle, slots=1) as (deliveries, clerk):
        asker = Asker(deliveries)
        asker.ask(1)
        asker.ask(2)
        draining = asyncio.create_task(deliveries.drain())
        await clerk.until(lambda: clerk.came)
        assert not draining.done()
        go.set()
        await draining
        assert asker.answers[1].result() == {}
        assert clerk.numbers == [1]


async def test_without_a_mailbox_there_are_no_transactions() -> None:
    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            tx["a"] = 1

    async with offering(handle) as (deliveries, _):
        asker = Asker(deliveries)
        asker.ask(1)
        answer = await asker.answers[1]
        assert isinstance(answer, RefusedError)
        deliveries.start()
        deliveries.look(None)


async def test_an_ephemeral_message_may_have_a_transaction(tmp_path: Path) -> None:
    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            tx["a"] = tx.get("a", 0) + 1
            tx.send("b", "n", {"n": 1})

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        asker = Asker(deliveries)
        asker.ask(1)
        assert await asker.answers[1] == {}
        await clerk.until(lambda: clerk.sent)
        assert mailbox.ledger.values() == {"a": "1"}
