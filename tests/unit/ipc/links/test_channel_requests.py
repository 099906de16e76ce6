"""Requests over a channel: answers in any order, errors, time limits, and what is given up."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from channel_ends import End, pair

from dims.errors import FullError, NotRunningError, TimedOutError, UsageError
from dims.ipc.links.channel import QUEUE_LIMIT, Channel
from dims.ipc.wire.envelope import CANCEL, Address, Envelope, Priority
from dims.ipc.wire.framing import HEADER, MAGIC

LIMIT_S = 10.0


def listening(far: End) -> asyncio.Queue[Envelope]:
    """What the far end hears from now on."""
    heard: asyncio.Queue[Envelope] = asyncio.Queue()
    far.on_message = heard.put_nowait
    return heard


def asking(channel: Channel, n: int = 0, timeout_s: float = LIMIT_S) -> asyncio.Task[Envelope]:
    return asyncio.create_task(channel.request("ask", {"n": n}, timeout_s=timeout_s))


async def test_a_request_has_its_reply(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, near, other, far):
        heard = listening(far)
        asked = asking(channel, 7)
        request = await heard.get()
        assert (request.kind, request.body, request.wants_reply) == ("ask", {"n": 7}, True)
        assert request.expires_s is not None
        assert request.expires_s == pytest.approx(request.created_s + LIMIT_S, abs=5)
        other.answer(request, {"got": 7})
        reply = await asked
        assert (reply.body, reply.reply_to) == ({"got": 7}, request.id)
        assert near.heard == [], "a reply is nobody else's message"


async def test_an_error_is_raised_where_it_was_asked(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, other, far):
        heard = listening(far)
        for error in (UsageError("what?", hint="look"), FullError("full", retry_after_s=4.5)):
            asked = asking(channel)
            other.answer(await heard.get(), error)
            with pytest.raises(type(error), match=str(error)) as raised:
                await asked
            assert raised.value.hint == error.hint
            if isinstance(raised.value, FullError):
                assert raised.value.retry_after_s == 4.5


async def test_replies_in_any_order_find_their_requests(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, other, far):
        heard = listening(far)
        asked = [asking(channel, n) for n in range(500)]
        requests = [await heard.get() for _ in asked]
        assert [request.body["n"] for request in requests] == list(range(500))
        random.Random(1).shuffle(requests)
        for request in requests:
            other.answer(request, {"n": request.body["n"]})
        replies = await asyncio.gather(*asked)
        assert [reply.body["n"] for reply in replies] == list(range(500))


async def test_a_deadline_is_an_error_here_and_a_cancel_there(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, near, other, far):
        heard = listening(far)
        asked = asking(channel, timeout_s=0.01)
        request = await heard.get()
        with pytest.raises(TimedOutError, match="no answer to 'ask' from brain within"):
            await asked
        cancel = await heard.get()
        assert (cancel.kind, cancel.reply_to) == (CANCEL, request.id)
        assert cancel.priority is Priority.URGENT
        other.answer(request, {"too": "late"})
        again = asking(channel)
        other.answer(await heard.get(), {"in": "time"})
        assert (await again).body == {"in": "time"}
        assert [message.body for message in near.heard] == [{"too": "late"}]


async def test_who_gives_up_cancels_the_request_there(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, _, far):
        heard = listening(far)
        asked = asking(channel)
        request = await heard.get()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        cancel = await heard.get()
        assert (cancel.kind, cancel.reply_to) == (CANCEL, request.id)


async def test_a_link_that_is_lost_ends_all_that_was_asked(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, other, far):
        heard = listening(far)
        asked = [asking(channel, n) for n in range(10)]
        for _ in asked:
            await heard.get()
        other.abort()
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, NotRunningError)
            assert "the link ended before the answer" in str(error)
        with pytest.raises(NotRunningError, match="no link to brain"):
            await channel.request("ask", {}, timeout_s=LIMIT_S)


async def test_a_reply_that_nobody_asked_for_is_an_ordinary_message(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, near, other, far):
        request = Envelope(other.say("n", {}), "n", Address("end"), Address("end"))
        heard = listening(near)
        other.answer(request, {"for": "nobody"})
        assert [(await heard.get()).kind for _ in range(2)] == ["n", "reply"]
        assert channel.is_open
        assert far.heard == []


async def test_what_is_said_in_one_turn_keeps_its_order_within_a_priority(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, _, far):
        heard = listening(far)
        drawn = random.Random(2).choices(list(Priority), k=2_000)
        for n, priority in enumerate(drawn):
            channel.say("n", {"n": n}, priority=priority)
        assert channel.waiting == 1_999, "the first goes at once, the others wait for the turn"
        got = [await heard.get() for _ in drawn]
        assert channel.waiting == 0
        for priority in Priority:
            numbers = [message.body["n"] for message in got if message.priority is priority]
            assert numbers == [n for n, one in enumerate(drawn) if one is priority]
        urgent = [at for at, message in enumerate(got) if message.priority is Priority.URGENT]
        assert urgent[-1] < len(got) * 0.4, "urgent messages did not overtake"


async def test_what_was_said_before_the_end_arrives(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, _, far):
        heard = listening(far)
        for n in range(1_000):
            channel.say("n", {"n": n})
        channel.close()
        assert [(await heard.get()).body["n"] for _ in range(1_000)] == list(range(1_000))
        assert await far.lost == ""


@pytest.mark.parametrize(
    "wire",
    [
        {"v": 1, "id": "1", "kind": "old", "from": "a", "to": "b"},
        {
            "v": 3,
            "id": "3",
            "kind": "new",
            "from": "a",
            "to": "b",
            "prio": 0,
            "body": {"n": 1},
            "ask": True,
            "exp": 5,
            "zip": {"level": [9]},
            "sig": None,
        },
    ],
)
async def test_elder_and_newer_envelopes_are_understood(
    tmp_path: Path, wire: dict[str, Any]
) -> None:
    async with pair(tmp_path) as (channel, _, _, far):
        heard = listening(far)
        payload = json.dumps(wire).encode()
        assert channel._transport is not None
        channel._transport.write(HEADER.pack(MAGIC, len(payload)) + payload)
        message = await heard.get()
        assert (message.version, message.id, message.kind) == (wire["v"], wire["id"], wire["kind"])
        assert message.body == wire.get("body", {})
        assert message.wants_reply is wire.get("ask", False)
        assert message.priority == wire.get("prio", Priority.NORMAL)


async def test_deadlines_hold_though_nothing_more_can_be_said(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, other, _):
        assert other._transport is not None
        other._transport.pause_reading()
        while not channel._full:
            channel.say("bulk", {"text": "x" * 10_000})
            await asyncio.sleep(0)
        asked = [asking(channel, n, timeout_s=0.001) for n in range(3)]
        patient = asking(channel)
        await asyncio.sleep(0)
        while channel.waiting < QUEUE_LIMIT:
            channel.say("bulk", {})
        for one in asked:
            with pytest.raises(TimedOutError):
                await one
        patient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await patient
