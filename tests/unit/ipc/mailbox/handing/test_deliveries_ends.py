"""How a handler may end, what it may do afterwards, and what becomes of the messages behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from post import LAST, Asker, letter, offering, put, working

from dims.errors import RefusedError, RemoteError
from dims.ipc.mailbox.files.ledger import Ledger
from dims.ipc.mailbox.handing.deliveries import Undeliverable
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.mailbox.handing.outgoing import LIMIT
from dims.ipc.wire.answers import error_body, error_from
from dims.ipc.wire.envelope import Envelope, MessageId


async def awaits_what_is_cancelled(delivery: Delivery) -> None:
    if delivery.message.body["n"] == 0:
        work = asyncio.create_task(asyncio.Event().wait())
        work.cancel()
        await work


async def test_a_handler_that_awaits_something_cancelled_has_failed_and_its_lane_goes_on(
    tmp_path: Path,
) -> None:
    put(tmp_path, letter(0), letter(1), letter(kind=LAST))
    async with working(tmp_path, awaits_what_is_cancelled, attempts=2) as (
        deliveries,
        clerk,
        mailbox,
    ):
        deliveries.start()
        await clerk.until_last()
        assert clerk.numbers == [0, 0, 1]
        [dead] = mailbox.ledger.dead()
        assert "cancelled" in dead.reason


async def test_so_has_one_that_a_socket_brought() -> None:
    async with offering(awaits_what_is_cancelled) as (deliveries, clerk):
        for n in range(3):
            deliveries.offer(letter(n), clerk.tell)
        await clerk.until(lambda: len(clerk.done) == 3)
        await deliveries._pool._idle.wait()
        deliveries.offer(letter(3), clerk.tell)
        await clerk.until(lambda: len(clerk.done) == 4)
        asker = Asker(deliveries)
        asker.ask(0)
        assert isinstance(await asker.answers[0], RemoteError)


async def test_what_a_failed_handler_left_running_settles_nothing(tmp_path: Path) -> None:
    put(tmp_path, letter(1), letter(kind=LAST))
    left: list[asyncio.Task[None]] = []
    entered, go = asyncio.Event(), asyncio.Event()

    async def count(delivery: Delivery, *, waits: bool) -> None:
        async with delivery.transaction() as tx:
            tx["count"] = tx.get("count", 0) + 1
            if waits:
                entered.set()
                await go.wait()

    async def handle(delivery: Delivery) -> None:
        if delivery.message.attempt > 1:
            go.set()
            await count(delivery, waits=False)
            return
        left.append(asyncio.create_task(count(delivery, waits=True)))
        left.append(asyncio.create_task(count(delivery, waits=False)))
        await entered.wait()
        raise ValueError("the other half failed")

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        ends = await asyncio.gather(*left, return_exceptions=True)
        assert [str(end) for end in ends if isinstance(end, RuntimeError)] != []
        assert all(isinstance(end, RuntimeError) for end in ends)
        assert clerk.numbers == [1, 1]
        assert mailbox.ledger.values() == {"count": "1"}


async def test_an_empty_reply_of_a_transaction_is_the_reply(tmp_path: Path) -> None:
    async def handle(delivery: Delivery) -> Mapping[str, Any]:
        async with delivery.transaction() as tx:
            tx.reply({})
        return {"ignored": True}

    put(tmp_path, letter(1, wants_reply=True))
    async with working(tmp_path, handle) as (deliveries, clerk, _):
        deliveries.start()
        asker = Asker(deliveries)
        asker.ask(2)
        assert await asker.answers[2] == {}
        await clerk.until(lambda: clerk.sent)
        assert clerk.sent[0].body == {}


# Requests that nobody handles


async def replies(
    directory: Path, request: Envelope, *, attempts: int = 3, unknown: str = ""
) -> list[Envelope]:
    """What is sent to the asker of a request whose handling fails."""

    async def handle(_: Delivery) -> None:
        raise Undeliverable("the body does not fit")

    put(directory, request)
    async with working(directory, handle, attempts=attempts) as (deliveries, clerk, mailbox):
        clerk.unknown, clerk.strangers = {unknown}, {"stranger"}
        deliveries.start()
        await deliveries._pool._idle.wait()
        await deliveries.drain()
        assert mailbox.ledger.dead_count() == 1
        return clerk.sent


async def test_a_durable_request_that_no_handler_takes_is_answered_so(tmp_path: Path) -> None:
    requests = {
        "no handler": letter(1, "what", wants_reply=True),
        "no grant": letter(1, wants_reply=True, sender="stranger"),
        "does not fit": letter(1, wants_reply=True),
    }
    for number, (why, request) in enumerate(requests.items()):
        [reply] = await replies(tmp_path / str(number), request, unknown="what")
        assert (reply.kind, reply.reply_to) == ("error", request.id)
        with pytest.raises(RefusedError, match=why):
            raise error_from(reply.body)


async def test_nobody_waits_for_the_answer_to_a_request_that_is_late(tmp_path: Path) -> None:
    assert await replies(tmp_path, letter(1, wants_reply=True, expires_s=1.0)) == []


def test_an_error_is_told_as_the_nearest_that_all_know() -> None:
    error = error_from(error_body(Undeliverable("no", hint="why")))
    assert (type(error), str(error), error.hint) == (RefusedError, "no", "why")


# What transactions send


async def test_what_is_sent_while_a_bot_is_drained_goes_out_still(tmp_path: Path) -> None:
    put(tmp_path, letter(1, wants_reply=True))
    go = asyncio.Event()

    async def handle(delivery: Delivery) -> Mapping[str, Any]:
        await go.wait()
        async with delivery.transaction() as tx:
            tx.send("b", "n", {"n": 1})
            tx.send("full", "n", {"n": 2})
        return {"n": 3}

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        clerk.refusing = {"full"}
        deliveries.start()
        await clerk.until(lambda: clerk.came)
        draining = asyncio.create_task(deliveries.drain())
        await asyncio.sleep(0)
        go.set()
        await draining
        assert [one.body["n"] for one in clerk.sent] == [1, 3]
        assert len(mailbox.ledger.outgoing(0, 10)) == 1


async def test_one_message_that_waits_long_keeps_no_others_back(tmp_path: Path) -> None:
    async with working(tmp_path) as (deliveries, _, mailbox):
        mailbox.ledger.commit(
            [
                Ledger.send_out("full", b"{}"),
                ("INSERT INTO outgoing VALUES (?, ?, ?)", (LIMIT + 5, "full", b"{}")),
            ]
        )
        deliveries.check_outgoing()
        many = (
            "WITH RECURSIVE c(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM c WHERE i < ?)"
            " INSERT INTO outgoing SELECT i, 'full', x'' FROM c"
        )
        mailbox.ledger.commit([(many, (LIMIT - 1,))])
        with pytest.raises(RefusedError, match="wait to be sent"):
            deliveries.check_outgoing()


async def test_a_reply_that_comes_too_late_is_no_dead_letter(tmp_path: Path) -> None:
    put(tmp_path, letter(1, "reply", reply_to=MessageId("asked"), expires_s=1.0))
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: clerk.done)
        await deliveries.drain()
        assert mailbox.ledger.dead() == []
