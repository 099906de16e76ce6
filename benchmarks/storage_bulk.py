"""Many messages at once: `bot.db.messages.add_many` and bare COPY.

Contenders alternate batch by batch, in one process, into tables that grow alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg
from ipc_pairs import Figures, alone
from storage_ground import UNWALLED, WITHIN_S, Home, bare, now_s

from dims.storage.bot.repositories.messages import NewMessage

DIMS, COPY = "bot.db.messages.add_many", "bare COPY, plain table"
COPY_PARTED = "bare COPY, partitions without policies"
COLUMNS = ["bot_id", "chat_id", "message_id", "sender_id", "is_outgoing", "text", "sent_at"]
CHATS = 50
_TEXT = "The blue enamel mug, 0.3 l, is sold out; number {} comes on Monday."
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)

Store = Callable[[list[NewMessage]], Awaitable[object]]


def messages(count: int, first: int) -> list[NewMessage]:
    """Messages of some chats, in the order in which they were sent."""
    return [
        NewMessage(
            chat_id=1 + number % CHATS,
            message_id=number,
            text=_TEXT.format(number),
            sender_id=1 + number % CHATS,
            is_outgoing=number % 2 == 0,
            sent_at=_FIRST + timedelta(seconds=number),
        )
        for number in range(first, first + count)
    ]


def bulk(home: Home, size: int, batches: int) -> Mapping[str, Figures]:
    """Messages per second of each contender, stored in batches of `size`."""

    async def measured() -> Mapping[str, Figures]:
        async with AsyncExitStack() as stack:
            admin = await bare(home.owner)
            stack.push_async_callback(admin.close)
            # Before each round the same: empty tables, nothing to be written back.
            await admin.execute(f"TRUNCATE dims.messages, plain.messages, {UNWALLED}")
            await admin.execute("CHECKPOINT")
            ways = await _ways(home, stack)
            took = dict.fromkeys(ways, 0.0)
            for number in range(-1, batches):
                batch = messages(size, 1 + (number + 1) * size)
                for name, store in ways.items():
                    began_s = now_s()
                    await store(batch)
                    ended_s = now_s()
                    # The first one opens files and fills caches.
                    if number >= 0:
                        took[name] += ended_s - began_s
            return {name: {"per_s": [size * batches / spent]} for name, spent in took.items()}

    found: Mapping[str, Figures] = alone(lambda: asyncio.run(measured()))
    return found


async def _ways(home: Home, stack: AsyncExitStack) -> dict[str, Store]:
    database = home.database()
    stack.push_async_callback(database.close, WITHIN_S)
    connections = []
    for _ in range(2):
        connections.append(await bare(home.owner))
        stack.push_async_callback(connections[-1].close)
    copy = partial(_copy, home.bots[0])
    return {
        DIMS: database.messages.add_many,
        COPY: partial(copy, connections[0], "plain.messages"),
        COPY_PARTED: partial(copy, connections[1], UNWALLED),
    }


async def _copy(
    bot: str, connection: asyncpg.Connection, table: str, batch: list[NewMessage]
) -> None:
    schema, _, name = table.partition(".")
    await connection.copy_records_to_table(
        name, schema_name=schema, columns=COLUMNS, records=_records(bot, batch)
    )


def _records(bot: str, batch: list[NewMessage]) -> Iterator[tuple[object, ...]]:
    return (
        (bot, m.chat_id, m.message_id, m.sender_id, m.is_outgoing, m.text, m.sent_at) for m in batch
    )
