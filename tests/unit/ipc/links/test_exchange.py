"""Links between bots over real sockets, introduced by a brain that does as it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dims.errors import (
    DimsError,
    FullError,
    NotRunningError,
    RefusedError,
    TimedOutError,
    UsageError,
)
from dims.ipc.links.channel import Channel, dial
from dims.ipc.links.control_client import ControlClient
from dims.ipc.links.exchange import CREDIT_EVERY, QUEUE_LIMIT, WINDOW, Exchange, Link
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.ipc.wire.ids import new_id
from dims.ipc.words.fleet import Whereabouts

LIMIT_S = 10.0
URGENT, HIGH, NORMAL, LOW = Priority
Done = Callable[[], None]
Answer = Callable[[Mapping[str, Any] | DimsError], None]


def word(n: int = 0, kind: str = "n", *, sender: str = "a", to: str = "b", **more: Any) -> Envelope:
    return Envelope(new_id(), kind, Address(sender), Address(to), body={"n": n}, **more)


def question(n: int = 0, kind: str = "ask", **more: Any) -> Envelope:
    return word(n, kind, wants_reply=True, **more)


class Bot:
    """An exchange and its owner, who notes what came and handles it when told to."""

    def __init__(self, brain: Brain, name: str, incarnation: int = 1) -> None:
        self.name = name
        self.brain = brain
        self.incarnation = incarnation
        self.path = brain.directory / f"{name}.peer"
        self.words: list[Envelope] = []
        self.hands: list[Done] = []
        self.questions: list[tuple[Envelope, Answer]] = []
        self.given_up: list[str] = []
        self.operators: list[str] = []
        self.unknown: set[str] = set()
        self.handles_at_once = True
        self._news = asyncio.Event()
        self.exchange = Exchange(
            name, incarnation, self.path, self, lambda to: brain.introduce(self, to)
        )

    @property
    def numbers(self) -> list[int]:
        return [message.body["n"] for message in self.words]

    async def until(self, fact: Callable[[], object]) -> None:
        """Returns when the fact is true; looks after each thing that happens to this bot."""
        async with asyncio.timeout(LIMIT_S):
            while not fact():
                self._news.clear()
                await self._news.wait()

    async def settled(self, link: Link, far: Bot) -> None:
        """All that went over the link before has arrived, and what followed has come back."""
        await link.ask(question(kind="echo"), LIMIT_S)
        back = far.exchange._links.get(self.name)
        assert back is not None
        await back.ask(question(sender=far.name, to=self.name, kind="echo"), LIMIT_S)

    def handle_all(self) -> None:
        hands, self.hands = self.hands, []
        for done in hands:
            done()

    def came(self, message: Envelope, done: Done) -> None:
        if message.kind in self.unknown:
            raise RefusedError(f"no handler for {message.kind!r}")
        self.words.append(message)
        if self.handles_at_once:
            done()
        else:
            self.hands.append(done)
        self._news.set()

    def asked(self, request: Envelope, answer: Answer) -> None:
        if request.kind in self.unknown:
            raise RefusedError(f"no handler for {request.kind!r}")
        if request.kind == "echo":
            answer(request.body)
            return
        self.questions.append((request, answer))
        self._news.set()

    def gave_up(self, request: str) -> None:
        self.given_up.append(request)
        self._news.set()

    async def operator(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.operators.append(kind)
        self._news.set()
        match kind:
            case "echo":
                return body
            case "hang":
                try:
                    await asyncio.Event().wait()
                finally:
                    self.operators.append("given up")
                    self._news.set()
        raise UsageError("no such thing", hint="look again")


class Brain:
    """Introduces bots to each other, in the way that a test wants."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bots: dict[str, Bot] = {}
        self.is_away = False
        self.pid = os.getpid()
        self.told_pid = os.getpid()
        self.tells = True
        self.introductions = 0

    async def introduce(self, asker: Bot, to: str) -> Whereabouts:
        if self.is_away:
            raise NotRunningError("the supervisor is away")
        self.introductions += 1
        other = self.bots[to]
        if self.tells:
            self.tell(asker, other)
        return Whereabouts(self.pid, other.incarnation, str(other.path))

    def tell(self, asker: Bot, other: Bot) -> None:
        other.exchange.introduced(asker.name, self.told_pid, asker.incarnation)


@asynccontextmanager
async def fleet(directory: Path, *names: str) -> AsyncIterator[tuple[Brain, list[Bot]]]:
    """Bots that listen; at the end no task, channel or file of theirs is left."""
    before = asyncio.all_tasks()
    brain = Brain(directory)
    for name in names or ("a", "b"):
        brain.bots[name] = Bot(brain, name)
        await brain.bots[name].exchange.open()
    try:
        async with asyncio.timeout(LIMIT_S):
            yield brain, list(brain.bots.values())
    finally:
        for bot in brain.bots.values():
            await bot.exchange.close()
        assert asyncio.all_tasks() <= before
        assert not any(bot.path.exists() for bot in brain.bots.values())


async def dialled(bot: Bot) -> tuple[Channel, asyncio.Queue[Envelope], asyncio.Future[str]]:
    """A connection that no exchange made, what it hears, and why it ends."""
    heard: asyncio.Queue[Envelope] = asyncio.Queue()
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    channel = await dial(
        str(bot.path),
        lambda: Channel(
            lambda _, message: heard.put_nowait(message),
            lambda _, why: lost.set_result(why),
            name=Address("x"),
        ),
    )
    return channel, heard, lost


# Introductions


async def test_bots_that_were_introduced_talk_both_ways_over_one_link(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, b]):
        link = await a.exchange.link("b")
        link.send(word(1))
        await b.until(lambda: b.numbers == [1])
        back = await b.exchange.link("a")
        back.send(word(2, sender="b", to="a"))
        await a.until(lambda: a.numbers == [2])
        assert await link.ask(question(3, kind="echo"), LIMIT_S) == {"n": 3}
        assert await a.exchange.link("b") is link
        assert brain.introductions == 1, "the way back needs none"
        assert [one.bot for one in (*a.exchange.known(), *b.exchange.known())] == ["b", "a"]


async def test_an_introduction_may_come_after_the_hello(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, b]):
        brain.tells = False
        linking = asyncio.create_task(a.exchange.link("b"))
        stranger, heard, _ = await dialled(b)
        stranger.say("hello", {"bot": "a", "incarnation": 1})
        while not b.exchange._hellos:  # noqa: ASYNC110 (a hello that waits is no event)
            await asyncio.sleep(0)
        assert not linking.done()
        brain.tell(a, b)
        assert (await heard.get()).kind == "welcome"
        assert (await linking).is_open
        stranger.abort()


async def test_links_live_on_without_the_brain_and_new_ones_need_it(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b", "c") as (brain, [a, b, _]):
        link = await a.exchange.link("b")
        brain.is_away = True
        assert await a.exchange.link("b") is link
        link.send(word(1))
        await b.until(lambda: b.numbers == [1])
        with pytest.raises(NotRunningError, match="away"):
            await a.exchange.link("c")
        brain.is_away = False
        assert (await a.exchange.link("c")).is_open


async def test_another_process_in_the_place_of_a_bot_is_refused(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, b]):
        brain.pid = 1
        with pytest.raises(RefusedError, match="another process"):
            await a.exchange.link("b")
        brain.pid, brain.told_pid = os.getpid(), 1
        linking = asyncio.create_task(a.exchange.link("b"))
        while not b.exchange._hellos:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)
        assert b.exchange.known() == []
        linking.cancel()


async def test_a_caller_of_another_incarnation_is_not_let_in(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [_, b]):
        b.exchange.introduced("a", os.getpid(), 2)
        stranger, heard, _ = await dialled(b)
        stranger.say("hello", {"bot": "a", "incarnation": 1})
        stranger.say("n", {"n": 1})
        while not b.exchange._hellos:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)
        assert (heard.qsize(), b.words, b.exchange.known()) == (0, [], [])
        stranger.abort()


@pytest.mark.parametrize(
    ("kind", "body"),
    [("n", {}), ("welcome", {}), ("hello", {}), ("hello", {"bot": "a", "incarnation": "1"})],
)
async def test_a_stranger_who_says_something_else_is_cut_off(
    tmp_path: Path, kind: str, body: Mapping[str, Any]
) -> None:
    async with fleet(tmp_path) as (_, [_, b]):
        stranger, heard, lost = await dialled(b)
        stranger.say(kind, body)
        await lost
        assert (heard.qsize(), b.words) == (0, [])


async def test_who_answers_a_call_gets_no_other_name_than_was_called(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        # As a bot whose code has its own way with the socket.
        b.exchange._bot = "admin"
        link = await a.exchange.link("b")
        b.exchange._bot = "b"
        assert link.bot == "b"
        assert set(a.exchange._links) == {"b"}
        for sender, n in (("admin", 1), ("b", 2)):
            await a.settled(link, b)
            b.exchange._links["a"].send(word(n, sender=sender, to="a"))
        await a.until(lambda: a.words)
        assert a.numbers == [2]


async def test_both_may_call_at_once_and_keep_one_order(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        there, back = await asyncio.gather(a.exchange.link("b"), b.exchange.link("a"))
        b.handles_at_once = False
        there.send(word(-1))
        for n in range(WINDOW * 2):
            (await a.exchange.link("b")).send(word(n))
        back.send(word(7, sender="b", to="a"))
        await a.until(lambda: a.numbers == [7])
        assert await a.exchange.link("b") is there
        assert await b.exchange.link("a") is back
        while len(b.words) < WINDOW * 2 + 1:
            await b.until(lambda: b.hands)
            b.handle_all()
        assert b.numbers == list(range(-1, WINDOW * 2))


async def test_a_call_that_comes_in_while_ours_is_under_way_changes_no_link(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        there = await a.exchange.link("b")
        b.handles_at_once = False
        for n in range(WINDOW + 1):
            there.send(word(n))
        b.exchange._links.clear()
        await b.exchange.link("a")
        (await a.exchange.link("b")).send(word(WINDOW + 1))
        while len(b.words) < WINDOW + 2:
            await b.until(lambda: b.hands)
            b.handle_all()
        assert b.numbers == list(range(WINDOW + 2))


async def test_callers_at_once_share_one_call_and_one_who_gives_up_harms_no_other(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path) as (brain, [a, _]):
        first, second, third = (asyncio.create_task(a.exchange.link("b")) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        assert await second is await third
        assert brain.introductions == 1


# Ends


async def test_a_lost_link_is_said_and_the_next_call_makes_another(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, b]):
        link = await a.exchange.link("b")
        asking = asyncio.create_task(link.ask(question(), LIMIT_S))
        await b.until(lambda: b.questions)
        await b.exchange.close()
        with pytest.raises(NotRunningError, match="ended before the answer"):
            await asking
        with pytest.raises(NotRunningError, match="gone"):
            link.send(word())
        with pytest.raises(NotRunningError):
            await link.ask(question(), LIMIT_S)
        with pytest.raises(NotRunningError, match="takes no messages"):
            await a.exchange.link("b")
        again = brain.bots["b"] = Bot(brain, "b", 2)
        await again.exchange.open()
        (await a.exchange.link("b")).send(word(5))
        await again.until(lambda: again.numbers == [5])
        assert [one.is_open for one in a.exchange.known()] == [True]


async def test_a_call_that_is_lost_with_its_welcome_leaves_no_link(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, _]):
        linking = asyncio.create_task(a.exchange.link("b"))
        while not a.exchange._welcomes:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)
        (channel,) = a.exchange._welcomes
        a.exchange._heard(channel, word(kind="welcome", sender="b", to="a"))
        a.exchange._lost(channel, "")
        assert (await linking) not in a.exchange.known()
        assert a.exchange.known() == []
        channel.abort()


async def test_a_bot_that_never_listened_takes_no_messages(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, _]):
        brain.bots["silent"] = Bot(brain, "silent")
        with pytest.raises(NotRunningError, match="takes no messages"):
            await a.exchange.link("silent")


async def test_closing_ends_calls_under_way_and_leaves_no_task(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, b]):
        brain.tells = False
        linking = asyncio.create_task(a.exchange.link("b"))
        while not b.exchange._hellos:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)
        await a.exchange.close()
        with pytest.raises(asyncio.CancelledError):
            await linking
        while b.exchange._strangers:  # noqa: ASYNC110 (as above)
            await asyncio.sleep(0)
        assert [*b.exchange._hellos, *a.exchange._dialling, *a.exchange._welcomes] == []


async def test_a_forked_child_does_not_keep_links_open(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (brain, [a, b]):
        link = await a.exchange.link("b")
        deaf = Bot(brain, "deaf")
        heard = await deaf.exchange.link("b")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        try:
            await deaf.exchange.close()
            while len(b.exchange.known()) > 1:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0)
            await b.exchange.close()
            while link.is_open:  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0)
            assert not heard.is_open
            with pytest.raises(NotRunningError):
                await a.exchange.link("b")
        finally:
            os.close(writing)
            os.waitpid(child, 0)  # noqa: ASYNC222 (it ends with the pipe)


# Flow


async def test_a_sender_has_so_many_in_their_hands_and_more_wait_by_priority(
    tmp_path: Path,
) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        b.handles_at_once = False
        link = await a.exchange.link("b")
        for n in range(WINDOW):
            link.send(word(n, priority=LOW))
        link.send(word(WINDOW, priority=LOW))
        link.send(word(WINDOW + 1, priority=HIGH))
        assert link.waiting == 2
        link.send(word(-1, priority=URGENT))
        await b.until(lambda: -1 in b.numbers)
        await a.settled(link, b)
        assert sorted(b.numbers) == [-1, *range(WINDOW)]
        for done in b.hands[:CREDIT_EVERY]:
            done()
        await b.until(lambda: len(b.words) == WINDOW + 3)
        assert b.numbers[-2:] == [WINDOW + 1, WINDOW]


async def test_beyond_the_limit_a_sender_is_refused_and_urgent_words_go_on(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        b.handles_at_once = False
        link = await a.exchange.link("b")
        for n in range(WINDOW + QUEUE_LIMIT):
            link.send(word(n))
        with pytest.raises(FullError):
            link.send(word(-1))
        link.send(word(-2, priority=URGENT))
        await b.until(lambda: -2 in b.numbers)
        while len(b.words) < WINDOW + QUEUE_LIMIT + 1:
            await b.until(lambda: b.hands)
            b.handle_all()
        assert [n for n in b.numbers if n >= 0] == list(range(WINDOW + QUEUE_LIMIT))
        link.send(word(-1))


async def test_of_urgent_words_too_there_are_never_more_in_their_hands(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        b.handles_at_once = False
        link = await a.exchange.link("b")
        for n in range(WINDOW):
            link.send(word(n))
        for n in range(WINDOW * 2):
            link.send(word(n, priority=URGENT))
        await a.settled(link, b)
        assert len(b.words) == WINDOW * 2
        while len(b.words) < WINDOW * 3:
            await b.until(lambda: b.hands)
            b.handle_all()
        urgent = [one.body["n"] for one in b.words if one.priority is URGENT]
        assert urgent == list(range(WINDOW * 2))
        b.handle_all()
        await a.settled(link, b)
        assert link._credit == WINDOW


async def test_what_is_refused_gives_its_credit_back(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        b.unknown = {"unknown"}
        link = await a.exchange.link("b")
        for n in range(3):
            link.send(word(n, "unknown"))
        link.send(word(3, "unknown", priority=URGENT))
        link.send(word(4, sender="c"))
        link.send(word(5))
        await a.settled(link, b)
        assert link._credit == WINDOW
        assert b.exchange._links["a"].unanswered == 0
        assert b.numbers == [5]


# What may be said


@pytest.mark.parametrize(("sender", "to"), [("c", "b"), ("operator", "b"), ("a", "c")])
async def test_a_message_under_another_name_or_for_another_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sender: str, to: str
) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        link = await a.exchange.link("b")
        link.send(word(1, sender=sender, to=to))
        with pytest.raises(RefusedError, match=f"a sent a message of {sender} to {to}"):
            await link.ask(question(2, sender=sender, to=to), LIMIT_S)
        await a.settled(link, b)
        assert (b.words, b.questions) == ([], [])
        assert "b did not take our message" in caplog.text


async def test_who_gives_a_request_up_has_it_cancelled_there(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        link = await a.exchange.link("b")
        asking = asyncio.create_task(link.ask(question(1), LIMIT_S))
        await b.until(lambda: b.questions)
        asking.cancel()
        await b.until(lambda: b.given_up)
        with pytest.raises(TimedOutError):
            await link.ask(question(2), 0.001)
        await b.until(lambda: len(b.given_up) == 2)
        assert b.given_up == [request.id for request, _ in b.questions]
        for _, answer in b.questions:
            answer({"too": "late"})
        assert await link.ask(question(3, kind="echo"), LIMIT_S) == {"n": 3}


async def test_an_answer_that_cannot_be_sent_is_an_error_there(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [a, b]):
        link = await a.exchange.link("b")
        asking = asyncio.create_task(link.ask(question(1), LIMIT_S))
        await b.until(lambda: b.questions)
        b.questions[0][1]({"no": object()})
        with pytest.raises(DimsError, match="not JSON"):
            await asking


# Operators


async def test_operators_are_answered_without_any_introduction(tmp_path: Path) -> None:
    def ask(path: Path) -> None:
        with ControlClient(path, timeout_s=LIMIT_S) as client:
            assert client.request("echo", {"n": 1}) == {"n": 1}
            with pytest.raises(UsageError, match="no such thing") as raised:
                client.request("nonsense")
            assert raised.value.hint == "look again"
            assert client.request("echo", {"n": 2}) == {"n": 2}

    async with fleet(tmp_path) as (_, [_, b]):
        await asyncio.to_thread(ask, b.path)
        assert b.operators == ["echo", "nonsense", "echo"]


async def test_what_an_operator_who_left_has_asked_is_given_up(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [_, b]):
        operator, _, _ = await dialled(b)
        asking = asyncio.create_task(operator.request("hang", {}, timeout_s=LIMIT_S))
        await b.until(lambda: b.operators == ["hang"])
        operator.abort()
        await b.until(lambda: b.operators == ["hang", "given up"])
        with pytest.raises(NotRunningError):
            await asking
        assert not b.exchange._strangers


async def test_an_operator_may_wait_longer_than_a_stranger_may_be_silent(tmp_path: Path) -> None:
    async with fleet(tmp_path) as (_, [_, b]):
        operator, _, _ = await dialled(b)
        asking = asyncio.create_task(operator.request("hang", {}, timeout_s=LIMIT_S))
        await b.until(lambda: b.operators == ["hang"])
        (timer,) = b.exchange._strangers.values()
        assert timer.cancelled()
        asking.cancel()
        operator.abort()
