"""What the stored update state says while handlers run, whatever way the updates came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio
from telethon import TelegramClient, types
from telethon.tl.types import updates as difference

from dims.bot_worker.telegram.file_session import FileSession
from dims.bot_worker.telegram.updates import UpdateTracker

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_S = 5.0


def message(number: int, *, out: bool = False) -> types.Message:
    return types.Message(number, types.PeerUser(5), NOW, "text", out=out)


def update(number: int, pts: int) -> types.UpdateNewMessage:
    return types.UpdateNewMessage(message(number), pts, 1)


class Bot:
    """A client that is never connected, fed with updates as Telethon feeds it."""

    def __init__(self, path: Path) -> None:
        self.session = FileSession(path)
        self.client = TelegramClient(self.session, 1, "x")
        self.tracker = UpdateTracker(self.client, self.session, handlers_at_once=10)
        self.tracker.start_from(difference.State(10, 0, NOW, 0, 0))
        self.doors: dict[int, asyncio.Event] = {}
        self.handled: list[int] = []
        self.client.add_event_handler(self._handle, self._raw())
        self.client._mb_entity_cache.set_self_user(1, True, 2)

    @staticmethod
    def _raw() -> Any:
        from telethon import events  # noqa: PLC0415

        return events.Raw(types.UpdateNewMessage)

    async def _handle(self, new: types.UpdateNewMessage) -> None:
        self.handled.append(new.message.id)
        await self.doors[new.message.id].wait()

    @property
    def stored_pts(self) -> int:
        stored = self.session.updates.read()
        assert stored is not None
        return stored[0]

    def arrives(self, new: types.UpdateNewMessage) -> asyncio.Task[None]:
        """As Telethon's update loop dispatches it."""
        new._entities = {}
        self.doors.setdefault(new.message.id, asyncio.Event())
        return asyncio.get_running_loop().create_task(self.client._dispatch_update(new))

    async def ends(self, task: asyncio.Task[None], number: int) -> None:
        self.doors[number].set()
        async with asyncio.timeout(LIMIT_S):
            await task
            await asyncio.sleep(0)  # the task's own callbacks come after it

    def catches_up(self, pts: int, *numbers: int) -> list[asyncio.Task[None]]:
        """An answer to getDifference: first the session sees it, then its messages are dispatched
        without a pts of their own."""
        state = difference.State(pts, 0, NOW, 0, 0)
        messages = [message(number) for number in numbers]
        self.session.process_entities(difference.Difference(messages, [], [], [], [], state))
        return [self.arrives(types.UpdateNewMessage(new, 0, 0)) for new in messages]


@pytest_asyncio.fixture
async def bot(tmp_path: Path) -> AsyncIterator[Bot]:
    bot = Bot(tmp_path / "bot.session")
    bot.tracker.serve()
    yield bot
    bot.session.updates.close()


@pytest_asyncio.fixture
async def early(tmp_path: Path) -> AsyncIterator[Bot]:
    """A bot whose setup has not returned."""
    early = Bot(tmp_path / "early.session")
    yield early
    early.session.updates.close()


async def test_the_state_advances_only_when_the_handler_has_ended(bot: Bot) -> None:
    task = bot.arrives(update(1, 11))
    await asyncio.sleep(0)
    assert bot.stored_pts == 10
    await bot.ends(task, 1)
    assert bot.stored_pts == 11


async def test_the_state_waits_for_the_oldest_handler_in_hand(bot: Bot) -> None:
    first, second = bot.arrives(update(1, 11)), bot.arrives(update(2, 12))
    await asyncio.sleep(0)
    await bot.ends(second, 2)
    assert bot.stored_pts == 10
    await bot.ends(first, 1)
    assert bot.stored_pts == 12


async def test_messages_of_a_difference_hold_the_state_where_it_was_asked_from(bot: Bot) -> None:
    first, second = bot.catches_up(20, 1, 2)
    await asyncio.sleep(0)
    live = bot.arrives(update(3, 21))
    await asyncio.sleep(0)
    await bot.ends(live, 3)
    await bot.ends(first, 1)
    assert bot.stored_pts == 10, "a kill now would lose the second message"
    await bot.ends(second, 2)
    assert bot.stored_pts == 21, "they would all come again after a restart"


async def test_what_comes_before_the_bot_serves_waits_and_is_handled_then(early: Bot) -> None:
    [missed] = early.catches_up(11, 1)
    live = early.arrives(update(2, 12))
    for _ in range(5):
        await asyncio.sleep(0)
    assert (early.handled, early.tracker.in_hand, early.stored_pts) == ([], 2, 10)
    early.tracker.serve()
    await early.ends(missed, 1)
    await early.ends(live, 2)
    assert (early.handled, early.stored_pts) == ([1, 2], 12)


async def test_a_bot_that_never_serves_leaves_what_came_to_the_next(early: Bot) -> None:
    task = early.arrives(update(1, 11))
    await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT_S):
        await early.tracker.drain()
        await task
    early.tracker.close()
    assert (early.handled, early.stored_pts) == ([], 10)


async def test_a_drain_waits_for_what_is_in_hand_and_leaves_the_rest_to_the_next(bot: Bot) -> None:
    first = bot.arrives(update(1, 11))
    await asyncio.sleep(0)
    draining = asyncio.create_task(bot.tracker.drain())
    await asyncio.sleep(0)
    late = bot.arrives(update(2, 12))
    await asyncio.wait_for(late, LIMIT_S)
    assert not draining.done()
    await bot.ends(first, 1)
    await asyncio.wait_for(draining, LIMIT_S)
    bot.tracker.close()
    assert bot.stored_pts == 11, "what came during the drain is for the next incarnation"


async def test_an_update_of_a_channel_is_none_of_the_accounts_own(bot: Bot) -> None:
    new = types.UpdateNewChannelMessage(message(1), 900, 1)
    task = bot.arrives(new)
    await asyncio.sleep(0)
    await bot.ends(task, 1)
    assert bot.stored_pts == 10
