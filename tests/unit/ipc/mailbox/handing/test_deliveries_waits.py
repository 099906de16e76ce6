"""What waits, and what it waits for: a place, its next try, room at others, a ledger that works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from post import LAST, Asker, killed, letter, offering, put, working
from virtual import JumpingLoop

from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.handing import judgement, outgoing
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.system.clock import SYSTEM, Clock

LIMIT_S = 1e6
Scenario = Callable[[JumpingLoop], Awaitable[None]]
PAUSE_S = 4.0


def play(scenario: Scenario) -> None:
    """Runs it on a loop whose clock it may set ahead."""
    loop = JumpingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait_for(scenario(loop), LIMIT_S))


async def until(fact: Callable[[], object]) -> None:
    for _ in range(10_000):
        if fact():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


async def fails_once(delivery: Delivery) -> None:
    if delivery.message.attempt == 1:
        raise ValueError("not yet")


async def test_a_request_that_is_given_up_while_it_waits_for_a_place_is_never_begun() -> None:
    go = asyncio.Event()

    async def handle(_: Delivery) -> None:
        await go.wait()

    async with offering(handle, slots=1) as (deliveries, clerk):
        asker = Asker(deliveries)
        asker.ask(1)
        given_up = asker.ask(2)
        asker.ask(3)
        deliveries.cancel(given_up.id)
        go.set()
        assert await asker.answers[3] == {}
        assert (clerk.numbers, asker.answers[2].done()) == ([1, 3], False)


def test_when_the_ledger_cannot_be_read_nothing_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, *(letter(n) for n in range(3)), letter(kind=LAST))

    async def scenario(loop: JumpingLoop) -> None:
        async with working(tmp_path) as (deliveries, clerk, mailbox):
            mailbox.ledger.flush()
            mailbox.ledger._db.execute("ALTER TABLE seen RENAME TO hidden")
            deliveries.start()
            await until(lambda: "a message of a waits" in caplog.text)
            assert clerk.came == []
            mailbox.ledger._db.execute("ALTER TABLE hidden RENAME TO seen")
            loop.ahead_s += judgement.TRY_AGAIN_S
            await clerk.until_last()
            assert clerk.numbers == [0, 1, 2]
            assert not any(one.redelivered for one in clerk.came)
            await deliveries.drain()
            assert mailbox.ledger.dead() == []

    play(scenario)


def test_a_pause_between_tries_holds_over_a_restart(tmp_path: Path) -> None:
    put(tmp_path, letter(0))
    put(tmp_path, letter(kind=LAST, sender="b"))

    async def scenario(loop: JumpingLoop) -> None:
        async with working(tmp_path, fails_once, pause_s=PAUSE_S) as (deliveries, clerk, mailbox):
            deliveries.start()
            await clerk.until(lambda: clerk.done)
            await clerk.until_last()
            id_ = clerk.came[clerk.numbers.index(0)].message.id
        put(tmp_path, letter(kind=LAST, sender="b"), number=2)
        async with working(tmp_path, fails_once, pause_s=PAUSE_S) as (deliveries, clerk, mailbox):
            attempts, due_s, _ = mailbox.ledger.tries(id_)
            assert attempts == 1
            assert due_s > SYSTEM.utc() + PAUSE_S / 3
            deliveries.start()
            await clerk.until_last()
            assert clerk.numbers == []
            loop.ahead_s += PAUSE_S
            await clerk.until(lambda: clerk.numbers)
            assert clerk.came[-1].message.attempt == 2
            assert clerk.came[-1].redelivered

    play(scenario)


def test_a_clock_that_was_set_back_makes_no_pause_longer(tmp_path: Path) -> None:
    message = letter(0)
    put(tmp_path, message)

    async def scenario(loop: JumpingLoop) -> None:
        async with working(tmp_path, pause_s=PAUSE_S) as (deliveries, clerk, mailbox):
            mailbox.ledger.failed(message.id, 1, SYSTEM.utc() + 1_000 * PAUSE_S, "once")
            mailbox.ledger.flush()
            deliveries.start()
            await until(lambda: not deliveries.in_hand)
            assert clerk.came == []
            loop.ahead_s += PAUSE_S + 1
            await clerk.until(lambda: clerk.done)
            assert clerk.came[0].message.attempt == 2

    play(scenario)


def test_a_message_that_expires_while_it_waits_for_its_next_try_has_none(tmp_path: Path) -> None:
    now_s = 1_000.0
    put(tmp_path, letter(0, expires_s=now_s + PAUSE_S / 4), letter(kind=LAST))

    async def scenario(loop: JumpingLoop) -> None:
        clock = Clock(loop.time, lambda: now_s + loop.ahead_s, lambda: 0.0)
        async with working(tmp_path, fails_once, pause_s=PAUSE_S, clock=clock) as working_now:
            deliveries, clerk, mailbox = working_now
            deliveries.start()
            await clerk.until(lambda: clerk.done)
            loop.ahead_s += PAUSE_S
            await clerk.until_last()
            assert clerk.numbers == [0]
            (dead,) = mailbox.ledger.dead()
            assert (dead.attempts, dead.reason) == (1, judgement.EXPIRED)

    play(scenario)


async def test_a_lane_that_was_swept_away_while_it_waited_for_a_place_is_woken_again(
    tmp_path: Path,
) -> None:
    go = asyncio.Event()
    put(tmp_path, letter(1))

    async def handle(delivery: Delivery) -> None:
        if delivery.message.sender == "b":
            await go.wait()

    async with working(tmp_path, handle, slots=1) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: clerk.done == [1])
        key = (Writer("a"), clerk.came[0].message.priority)
        lane = mailbox.lane(key)
        assert lane is not None
        await until(lambda: lane.consumed)
        deliveries.look({str(put(tmp_path, letter(2, sender="b")))})
        await clerk.until(lambda: len(clerk.came) == 2)
        # All files are looked at: the settled one is there still, and its lane waits for a place.
        deliveries.look(None)
        assert mailbox.sweep()
        assert mailbox.lane(key) is None
        deliveries.look({str(put(tmp_path, letter(3), number=2))})
        assert mailbox.lane(key) is not lane
        go.set()
        await clerk.until(lambda: clerk.numbers == [1, 2, 3])


# Replies


async def number(delivery: Delivery) -> Mapping[str, Any]:
    return {"n": delivery.message.body["n"]}


def test_a_reply_to_a_full_asker_reaches_it_later(tmp_path: Path) -> None:
    request = letter(1, wants_reply=True)
    put(tmp_path, request, letter(kind=LAST))

    async def scenario(loop: JumpingLoop) -> None:
        async with working(tmp_path, number) as (deliveries, clerk, mailbox):
            clerk.refusing = {"a"}
            deliveries.start()
            await clerk.until_last()
            await until(lambda: deliveries._durable and not deliveries._durable.outgoing._sending)
            assert clerk.sent == []
            assert len(mailbox.ledger.outgoing(0, 10)) == 1
            clerk.refusing = set()
            loop.ahead_s += outgoing.TRY_AGAIN_S
            await clerk.until(lambda: clerk.sent)
            assert (clerk.sent[0].reply_to, clerk.sent[0].body) == (request.id, {"n": 1})

    play(scenario)


async def test_a_reply_is_kept_with_the_settling_of_its_request(tmp_path: Path) -> None:
    directory = tmp_path / "me"
    request = letter(1, wants_reply=True)
    put(directory, request)
    async with working(directory, number) as (deliveries, clerk, _):
        clerk.refusing = {"a"}
        deliveries.start()
        await clerk.until(lambda: clerk.done)
        await deliveries._pool._idle.wait()
        left = killed(directory, "left")
    put(left, letter(kind=LAST), number=2)
    async with working(left, number) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until_last()
        await clerk.until(lambda: clerk.sent)
        assert clerk.numbers == [], "the request is settled"
        assert [one.reply_to for one in clerk.sent] == [request.id]


# Files


async def test_a_file_that_cannot_be_removed_harms_no_message(tmp_path: Path) -> None:
    name = put(tmp_path, letter(1))
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: clerk.done)
        lane = mailbox.lane(name.lane)
        assert lane is not None
        await until(lambda: lane.consumed)
        # As nobody may remove it: a directory is no file.
        (tmp_path / str(name)).unlink()
        (tmp_path / str(name)).mkdir()
        await deliveries.drain()
        assert not mailbox.sweep()
        assert not mailbox.sweep()
        (tmp_path / str(name)).rmdir()
        assert mailbox.sweep()
        assert mailbox.lane(name.lane) is None
    Mailbox(tmp_path).close()
