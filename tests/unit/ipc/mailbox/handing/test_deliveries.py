"""Deliveries out of a mailbox: order, places, and what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from post import LAST, letter, put, working

from dims.ipc.mailbox.files.segment import list_names
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.mailbox.handing.places import URGENT_SLOTS
from dims.ipc.wire.envelope import Priority

URGENT, LOW = Priority.URGENT, Priority.LOW


def number(delivery: Delivery) -> int:
    return int(delivery.message.body["n"])


def failing(times: int) -> Callable[[Delivery], Awaitable[None]]:
    """A handler whose first tries of each message fail."""

    async def handle(delivery: Delivery) -> None:
        if delivery.message.attempt <= times:
            raise ValueError(f"try {delivery.message.attempt}")

    return handle


async def test_messages_of_a_lane_come_in_order_over_its_files(tmp_path: Path) -> None:
    for part in range(3):
        put(tmp_path, *(letter(part * 100 + n) for n in range(100)), number=part)
    put(tmp_path, letter(kind=LAST), number=3)
    async with working(tmp_path) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until_last()
        assert clerk.numbers == list(range(300))
        assert not any(one.redelivered or one.message.attempt > 1 for one in clerk.came)


async def test_a_lane_has_one_message_in_hand_and_lanes_run_side_by_side(tmp_path: Path) -> None:
    go = asyncio.Event()
    for sender in "abc":
        put(tmp_path, *(letter(n, sender=sender) for n in range(3)))

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with working(tmp_path, handle) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: len(clerk.came) == 3)
        assert {one.message.sender for one in clerk.came} == set("abc")
        assert deliveries.in_hand == 3
        go.set()
        await clerk.until(lambda: len(clerk.done) == 9)
        assert sorted(clerk.numbers[:3]) == [0, 0, 0]


async def test_no_more_are_in_hand_than_there_are_places_and_some_are_kept_for_the_urgent(
    tmp_path: Path,
) -> None:
    go = asyncio.Event()
    for sender in "abcdefgh":
        put(tmp_path, letter(1, sender=sender))

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with working(tmp_path, handle, slots=2) as (deliveries, clerk, _):
        deliveries.start()
        assert deliveries.in_hand == 2
        for sender in "abcdefgh":
            put(tmp_path, letter(2, sender=sender, priority=URGENT))
        deliveries.look(None)
        assert deliveries.in_hand == 2 + URGENT_SLOTS
        await clerk.until(lambda: len(clerk.came) == 2 + URGENT_SLOTS)
        assert clerk.numbers == [1, 1, 2, 2, 2, 2]
        go.set()
        await clerk.until(lambda: len(clerk.done) == 16)


async def test_an_urgent_message_overtakes_a_thousand_low_ones(tmp_path: Path) -> None:
    put(tmp_path, *(letter(n, priority=LOW) for n in range(1_000)))

    async def handle(delivery: Delivery) -> None:
        if number(delivery) == 2:
            deliveries.look({str(put(tmp_path, letter(-1, priority=URGENT)))})

    async with working(tmp_path, handle, slots=1) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: len(clerk.came) == 1_001)
        assert clerk.numbers.index(-1) == 3


async def test_what_fails_is_tried_again_and_holds_up_its_own_lane_only(tmp_path: Path) -> None:
    put(tmp_path, letter(0), letter(1))
    async with working(tmp_path, failing(2)) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: len(clerk.done) == 6)
        assert clerk.numbers == [0, 0, 0, 1, 1, 1]
        assert [one.message.attempt for one in clerk.came] == [1, 2, 3, 1, 2, 3]
        assert [one.redelivered for one in clerk.came] == [False, True, True] * 2
        await deliveries.drain()
        assert mailbox.ledger.dead() == []
        assert mailbox.ledger.tries(clerk.came[0].message.id)[0] in (0, 2), "kept lazily"
        mailbox.ledger.flush()
        assert mailbox.ledger.tries(clerk.came[0].message.id) == (0, 0.0, "")


async def test_other_lanes_go_on_while_one_waits_for_its_next_try(tmp_path: Path) -> None:
    put(tmp_path, letter(0))
    put(tmp_path, *(letter(n, sender="b") for n in range(1, 50)))
    others = asyncio.Event()

    async def handle(delivery: Delivery) -> None:
        if delivery.message.sender == "a" and delivery.message.attempt == 1:
            raise ValueError("not yet")
        if number(delivery) == 49:
            others.set()

    async with working(tmp_path, handle, slots=1) as (deliveries, clerk, _):
        deliveries.start()
        await others.wait()
        await clerk.until(lambda: clerk.numbers.count(0) == 2)


async def test_tries_are_counted_on_after_a_clean_restart(tmp_path: Path) -> None:
    put(tmp_path, letter(0), letter(kind=LAST))
    stop = asyncio.Event()

    async def handle(delivery: Delivery) -> None:
        if delivery.message.attempt == 2 and not stop.is_set():
            stop.set()
            await asyncio.Event().wait()
        raise ValueError("always")

    async with working(tmp_path, handle, attempts=4) as (deliveries, _, _):
        deliveries.start()
        await stop.wait()
    async with working(tmp_path, handle, attempts=4) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        attempts = [one.message.attempt for one in clerk.came if one.message.kind != LAST]
        assert attempts == [3, 4], "the try that the end cut off counts"
        assert all(one.redelivered for one in clerk.came[:2])
        (dead,) = mailbox.ledger.dead()
        assert (dead.attempts, dead.reason) == (4, "ValueError: always")


async def test_a_message_that_comes_while_a_lane_is_being_worked_is_not_missed(
    tmp_path: Path,
) -> None:
    async def handle(delivery: Delivery) -> None:
        if number(delivery) < 20:
            name = put(tmp_path, letter(number(delivery) + 1), number=number(delivery) + 1)
            deliveries.look({str(name)})

    put(tmp_path, letter(0), number=0)
    async with working(tmp_path, handle) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: len(clerk.done) == 21)
        assert clerk.numbers == list(range(21))


async def test_a_bell_without_a_name_means_a_look_at_all(tmp_path: Path) -> None:
    async with working(tmp_path) as (deliveries, clerk, _):
        deliveries.start()
        put(tmp_path, letter(1), number=1)
        deliveries.look({""})
        await clerk.until(lambda: clerk.numbers == [1])


async def test_draining_waits_for_what_is_in_hand_and_hands_out_nothing_more(
    tmp_path: Path,
) -> None:
    put(tmp_path, letter(0), letter(1))
    go = asyncio.Event()

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: clerk.came)
        draining = asyncio.create_task(deliveries.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        go.set()
        await draining
        assert (clerk.done, deliveries.in_hand) == ([0], 0)
        assert [depth.messages for depth in mailbox.depths()] == [1]
    async with working(tmp_path) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: clerk.done)
        assert clerk.numbers == [1]
        assert not clerk.came[0].redelivered


async def test_files_go_when_all_in_them_is_settled(tmp_path: Path) -> None:
    put(tmp_path, letter(0), number=0)
    put(tmp_path, letter(kind=LAST), number=1)
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        await deliveries.drain()
        assert mailbox.ledger.counters()["settled"] == 2
    assert len(list_names(tmp_path)) <= 1
    async with working(tmp_path) as (deliveries, clerk, _):
        deliveries.start()
        await deliveries.drain()
        assert clerk.came == []
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("slots", [1, 3])
async def test_many_lanes_all_come_to_their_end(tmp_path: Path, slots: int) -> None:
    for sender in range(40):
        put(tmp_path, *(letter(n, sender=f"s{sender}") for n in range(5)))
    async with working(tmp_path, failing(1), slots=slots) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: len(clerk.done) == 40 * 5 * 2)
        for sender in range(40):
            came = [number(one) for one in clerk.came if one.message.sender == f"s{sender}"]
            assert came == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
