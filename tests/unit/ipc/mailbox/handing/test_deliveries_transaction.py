"""Transactions: values, outgoing messages and the settling of a message, all or nothing, once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from post import LAST, killed, letter, put, working

from dims.errors import ProtocolError, RefusedError
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.wire.framing import decode_payload

COUNT = 3
MOMENTS = [(n, when) for n in range(COUNT) for when in ("before", "within", "after")]


async def count_one(delivery: Delivery) -> None:
    """The sum of all numbers is kept, and each number is sent on twice."""
    async with delivery.transaction() as tx:
        n = delivery.message.body["n"]
        tx["seen"] = [*tx.get("seen", []), n]
        tx.send("b", "one", {"n": n})
        tx.send("b", "two", {"n": n})


def values(mailbox: Mailbox) -> dict[str, str]:
    return mailbox.ledger.values()


async def test_values_and_messages_are_kept_with_the_settling(tmp_path: Path) -> None:
    put(tmp_path, *(letter(n) for n in range(COUNT)), letter(kind=LAST))
    async with working(tmp_path, count_one) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        await clerk.until(lambda: len(clerk.sent) == 2 * COUNT)
        assert values(mailbox) == {"seen": "[0,1,2]"}
        assert [(one.kind, one.body["n"]) for one in clerk.sent] == [
            (kind, n) for n in range(COUNT) for kind in ("one", "two")
        ]
        causes = [one.message.id for one in clerk.came[:COUNT]]
        assert [one.causation for one in clerk.sent[::2]] == causes
        assert all(one.correlation == one.causation for one in clerk.sent)
        assert all(one.sender == "me" for one in clerk.sent)
        assert len({one.id for one in clerk.sent}) == 2 * COUNT
        await deliveries.drain()
        assert mailbox.ledger.outgoing(0, 10) == []


async def test_a_block_that_raises_leaves_nothing_of_it(tmp_path: Path) -> None:
    put(tmp_path, letter(1))

    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            tx["a"] = delivery.message.attempt
            tx.send("b", "try", {"attempt": delivery.message.attempt})
            if delivery.message.attempt == 1:
                assert values(mailbox) == {}
                raise ValueError("no")

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: clerk.sent)
        assert values(mailbox) == {"a": "2"}
        assert [one.body["attempt"] for one in clerk.sent] == [2]


async def test_a_handler_that_fails_after_its_transaction_is_not_run_again(tmp_path: Path) -> None:
    put(tmp_path, letter(1), letter(kind=LAST))

    async def handle(delivery: Delivery) -> None:
        await count_one(delivery)
        raise ValueError("too late")

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        assert clerk.numbers == [1]
        assert mailbox.ledger.dead() == []


@pytest.mark.parametrize(("n", "when"), MOMENTS)
async def test_effects_happen_once_whenever_the_worker_is_killed(
    tmp_path: Path, n: int, when: str
) -> None:
    letters = [letter(number) for number in range(COUNT)]
    put(tmp_path / "me", *letters, letter(kind=LAST))

    def may_die(delivery: Delivery, moment: str) -> None:
        if (delivery.message.body["n"], moment) == (n, when):
            killed(tmp_path / "me", "left")
            before[:] = [one.id for one in clerk.sent]

    async def handle(delivery: Delivery) -> None:
        may_die(delivery, "before")
        async with delivery.transaction() as tx:
            number = delivery.message.body["n"]
            tx["seen"] = [*tx.get("seen", []), number]
            tx.send("b", "one", {"n": number})
            may_die(delivery, "within")
            tx.send("b", "two", {"n": number})
        may_die(delivery, "after")

    before: list[str] = []
    async with working(tmp_path / "me", handle) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until(lambda: len(clerk.sent) == 2 * COUNT)
        all_ids = {one.id for one in clerk.sent}
    async with working(tmp_path / "left", count_one) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        await clerk.until(lambda: {*before, *(one.id for one in clerk.sent)} == all_ids)
        assert values(mailbox) == {"seen": "[0,1,2]"}
        first = clerk.came[0]
        settled = n + 1 if when == "after" else n
        assert first.message.body["n"] == (settled if settled < COUNT else 0)
        assert first.redelivered
        assert mailbox.ledger.dead() == []


async def test_a_transaction_is_a_mapping_of_what_is_kept(tmp_path: Path) -> None:
    put(tmp_path, letter(1), letter(2))

    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            if delivery.message.body["n"] == 1:
                tx.update({"a": 1, "b": [None, "é"], "c": {"d": 1.5}})
                return
            assert dict(tx) == {"a": 1, "b": [None, "é"], "c": {"d": 1.5}}
            del tx["a"]
            tx["z"] = True
            assert (list(tx), len(tx), "a" in tx) == (["b", "c", "z"], 3, False)
            with pytest.raises(KeyError):
                tx["a"]
            with pytest.raises(KeyError):
                tx.pop("nothing")
            with pytest.raises(ValueError, match="JSON"):
                tx["nan"] = float("nan")
            with pytest.raises(TypeError):
                tx["set"] = {1}

    async with working(tmp_path, handle, attempts=1) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: len(clerk.done) == 2)
        await deliveries.drain()
        assert mailbox.ledger.dead() == []
        assert list(values(mailbox)) == ["b", "c", "z"]


async def test_what_may_not_or_cannot_be_sent_is_refused_within_the_block(tmp_path: Path) -> None:
    put(tmp_path, letter(1))

    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            tx["a"] = 1
            with pytest.raises(RefusedError, match="no grant"):
                tx.send("stranger", "n", {})
            with pytest.raises(ProtocolError, match="limit"):
                tx.send("b", "n", {"text": "x" * RECORD_LIMIT_BYTES})
            with pytest.raises(ProtocolError, match="JSON"):
                tx.send("b", "n", {"set": object()})
            with pytest.raises(RuntimeError, match="no request"):
                tx.reply({})
            tx.send("b", "good", {})

    async with working(tmp_path, handle, attempts=1) as (deliveries, clerk, mailbox):
        clerk.strangers = {"stranger"}
        deliveries.start()
        await clerk.until(lambda: clerk.sent)
        assert [one.kind for one in clerk.sent] == ["good"]
        assert values(mailbox) == {"a": "1"}


async def test_a_message_has_one_transaction(tmp_path: Path) -> None:
    put(tmp_path, letter(1), letter(kind=LAST))

    async def handle(delivery: Delivery) -> None:
        await count_one(delivery)
        with pytest.raises(RuntimeError, match="one transaction"):
            await count_one(delivery)

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        assert values(mailbox) == {"seen": "[1]"}


async def test_transactions_of_lanes_side_by_side_do_not_mix(tmp_path: Path) -> None:
    for sender in "abcdef":
        put(tmp_path, *(letter(n, sender=sender) for n in range(10)))

    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            count = tx.get("count", 0)
            await asyncio.sleep(0)
            tx["count"] = count + 1

    async with working(tmp_path, handle, slots=6) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: len(clerk.done) == 60)
        assert values(mailbox) == {"count": "60"}


async def test_a_recipient_that_refuses_holds_up_its_own_messages_only(tmp_path: Path) -> None:
    put(tmp_path, letter(1), letter(kind=LAST))

    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            for n in range(3):
                tx.send("full", "n", {"n": n})
                tx.send("b", "n", {"n": n})

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        clerk.refusing = {"full"}
        deliveries.start()
        await clerk.until(lambda: len(clerk.sent) == 3)
        await deliveries.drain()
        assert [one.recipient for one in clerk.sent] == ["b"] * 3
        waiting = [decode_payload(payload) for _, _, payload in mailbox.ledger.outgoing(0, 10)]
        assert [(one.recipient, one.body["n"]) for one in waiting] == [
            ("full", n) for n in (0, 1, 2)
        ]
    async with working(tmp_path) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until(lambda: len(clerk.sent) == 3)
        assert clerk.sent == waiting


async def test_a_reply_in_a_transaction_is_sent_once_and_only_if_it_is_kept(tmp_path: Path) -> None:
    put(tmp_path, letter(1, wants_reply=True), letter(2, wants_reply=True), letter(kind=LAST))

    async def handle(delivery: Delivery) -> Mapping[str, Any] | None:
        try:
            async with delivery.transaction() as tx:
                tx.reply({"n": delivery.message.body["n"]})
                _ = {2: "kept"}[delivery.message.body["n"]]
        except KeyError:
            return {"sorry": True}
        return None

    async with working(tmp_path, handle) as (deliveries, clerk, _):
        deliveries.start()
        await clerk.until_last()
        await clerk.until(lambda: len(clerk.sent) == 2)
        assert {one.reply_to for one in clerk.sent} == {one.message.id for one in clerk.came[:2]}
        assert [one.body for one in clerk.sent] == [{"sorry": True}, {"n": 2}]


async def test_a_transaction_within_a_transaction_is_refused_and_not_waited_for(
    tmp_path: Path,
) -> None:
    put(tmp_path, letter(1), letter(kind=LAST))

    async def handle(delivery: Delivery) -> None:
        async with delivery.transaction() as tx:
            with pytest.raises(RuntimeError, match="open already"):
                async with delivery.transaction():
                    raise AssertionError
            tx["outer"] = True

    async with working(tmp_path, handle) as (deliveries, clerk, mailbox):
        deliveries.start()
        await clerk.until_last()
        assert values(mailbox) == {"outer": "true"}
