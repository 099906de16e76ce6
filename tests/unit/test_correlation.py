"""One id for all that is done because of one update or one message."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from own_mail import mail, request, send
from telethon import TelegramClient, events, types
from telethon.tl.types import updates as difference

from dims import correlation
from dims.bot_worker.mail.authoring import Message
from dims.bot_worker.mail.mail import Mail
from dims.bot_worker.telegram.file_session import FileSession
from dims.bot_worker.telegram.updates import UpdateTracker
from dims.logs import JsonFormatter, Redactor

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def logged() -> dict[str, Any]:
    """A line that is logged here and now."""
    record = logging.LogRecord("bot", logging.INFO, __file__, 1, "x", (), None)
    line: dict[str, Any] = json.loads(JsonFormatter({}, Redactor(())).format(record))
    return line


def test_outside_of_any_there_is_none() -> None:
    assert correlation.current() is None
    assert "correlation" not in logged()


def test_the_inner_one_counts_until_it_ends() -> None:
    outer = correlation.begin("outer")
    inner = correlation.begin("inner")
    assert logged()["correlation"] == "inner"
    correlation.end(inner)
    assert logged()["correlation"] == "outer"
    correlation.end(outer)
    assert correlation.current() is None


async def test_tasks_inherit_it_and_give_nothing_back() -> None:
    async def work() -> str | None:
        found = correlation.current()
        correlation.begin("its own")
        return found

    token = correlation.begin("update")
    assert await asyncio.create_task(work()) == "update"
    assert correlation.current() == "update"
    correlation.end(token)


# Updates of Telegram


class Bot:
    """A client that is never connected, with two handlers for each message."""

    def __init__(self, path: Path) -> None:
        self.session = FileSession(path)
        self.client = TelegramClient(self.session, 1, "x")
        self.tracker = UpdateTracker(self.client, self.session, handlers_at_once=10)
        self.tracker.start_from(difference.State(10, 0, NOW, 0, 0))
        self.tracker.serve()
        self.client._mb_entity_cache.set_self_user(1, True, 2)
        self.seen: list[str | None] = []
        for _ in range(2):
            self.client.add_event_handler(self._handle, events.Raw(types.UpdateNewMessage))

    async def _handle(self, _new: types.UpdateNewMessage) -> None:
        await asyncio.sleep(0)
        self.seen.append(correlation.current())
        self.seen.append(await asyncio.create_task(self._later()))

    @staticmethod
    async def _later() -> str | None:
        return correlation.current()

    async def gets(self, number: int) -> list[str | None]:
        """One message, dispatched as Telethon's update loop does it; what its handlers saw."""
        message = types.Message(number, types.PeerUser(5), NOW, "text", out=False)
        new = types.UpdateNewMessage(message, 10 + number, 1)
        new._entities = {}
        self.seen = []
        await asyncio.get_running_loop().create_task(self.client._dispatch_update(new))
        return self.seen


@pytest_asyncio.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    bot = Bot(tmp_path / "bot.session")
    yield bot
    bot.session.updates.close()


async def test_all_handlers_of_an_update_and_their_tasks_have_one_id(bot: Bot) -> None:
    first, second = set(await bot.gets(1)), set(await bot.gets(2))
    assert len(first) == len(second) == 1
    assert None not in first | second
    assert first != second, "each update has its own"
    assert correlation.current() is None


# Messages of other bots


class Noted(list[tuple[Message, str | None]]):
    """Messages as they came, each with what was in hand."""

    def __init__(self) -> None:
        super().__init__()
        self.some = asyncio.Event()

    def add(self, message: Message) -> None:
        self.append((message, correlation.current()))
        self.some.set()


@pytest_asyncio.fixture
async def one(tmp_path: Path) -> AsyncIterator[tuple[Mail, Noted]]:
    """Mail that notes each message with what was in hand; `relay` sends another one on."""
    seen = Noted()
    async with mail(tmp_path) as found:

        @found.on("note")
        async def note(message: Message) -> str | None:
            seen.add(message)
            return correlation.current()

        @found.on("relay")
        async def relay(message: Message) -> Any:
            seen.add(message)
            return await request(found, "note")

        await found.start()
        yield found, seen


async def test_a_message_begins_one_and_those_it_causes_carry_it(one: tuple[Mail, Noted]) -> None:
    found, seen = one
    in_hand = await request(found, "relay")
    (first, began), (second, went_on) = seen
    assert began == first.id == in_hand, "a first message is its own correlation"
    assert went_on == began
    assert second.conversation == first.id
    assert correlation.current() is None


@pytest.mark.parametrize("durable", [False, True])
async def test_what_is_sent_for_an_update_carries_its_id(
    one: tuple[Mail, Noted], *, durable: bool
) -> None:
    found, seen = one
    token = correlation.begin("update")
    await send(found, "me", "note", durable=durable)
    correlation.end(token)
    async with asyncio.timeout(10):
        await seen.some.wait()
    [(message, in_hand)] = seen
    assert in_hand == message.conversation == "update"


async def test_a_handler_that_fails_leaves_none_behind(one: tuple[Mail, Noted]) -> None:
    found, seen = one

    @found.on("fails")
    async def fails(_message: Message) -> None:
        raise ValueError("as it does")

    token = correlation.begin("update")
    with pytest.raises(Exception, match="ValueError"):
        await request(found, "fails")
    assert correlation.current() == "update"
    correlation.end(token)
    await request(found, "note")
    [(message, in_hand)] = seen
    assert in_hand == message.id
