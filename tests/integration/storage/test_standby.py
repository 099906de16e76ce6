"""`bot.db` between a primary and a hot standby: where reads and writes go, also without the latter.

`test_database` shows the same decisions on one server, `test_replica` their times.
"""

# ruff: noqa: PT012 (what raises is a whole block: that is what is tested)

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest
from standby import Pair, standby_pair
from storage_site import becomes

from dims.errors import DimsError
from dims.storage.bot.database import REPLICA_WAIT_S, Database
from dims.storage.bot.replica import PAUSE_S

LAG_S = 1.0
"""Longer than the machine may hesitate between a write and the read behind it."""
LONG_S = 3600.0
IS_STANDBY = "SELECT pg_is_in_recovery()"
ADD = "INSERT INTO dims.chats (bot_id, chat_id, kind) VALUES ($1, $2, 'private')"
WHERE_AND_COUNT = "SELECT pg_is_in_recovery(), (SELECT count(*) FROM chats)"
SLOW_ON_THE_STANDBY = (
    "SELECT pg_is_in_recovery() FROM pg_sleep(CASE WHEN pg_is_in_recovery() THEN 25 ELSE 0 END)"
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with standby_pair() as made:
        yield made


async def where_and_count(db: Database) -> tuple[bool, int]:
    """Whether the standby was asked, and how many chats were seen there, in one statement."""
    is_standby, count = await db.fetchrow(WHERE_AND_COUNT)
    return is_standby, count


async def first_of_the_standby(db: Database, *, meanwhile: int) -> int:
    """Reads until the standby answers; how many chats there are there. Until then the primary must
    answer without a failure, and always `meanwhile`."""

    async def look() -> tuple[bool, int] | None:
        is_standby, count = await where_and_count(db)
        assert is_standby or count == meanwhile
        return (is_standby, count) if is_standby else None

    _, count = await becomes(look, "the standby answers")
    return count


# Which server


async def test_reads_go_to_the_standby_and_transactions_to_the_primary(pair: Pair) -> None:
    async with pair.split(0.0) as db:
        assert await db.fetchval(IS_STANDBY)
        async with db.tx():
            assert not await db.fetchval(IS_STANDBY)
        async with db.tx(read_only=True):
            assert not await db.fetchval(IS_STANDBY)
        assert await db.fetchval(IS_STANDBY)


async def test_repositories_read_the_standby_and_write_to_the_primary(pair: Pair) -> None:
    async with pair.split(0.0) as db, pair.behind():
        await db.chats.save(1, title="new")
        assert await db.execute(ADD, db.bot_id, 2) == "INSERT 0 1"
        async with db.tx():
            await db.chats.save(3)
            assert await db.chats.count() == 3
        # What the standby does not have yet is on the primary only.
        assert (await db.chats.get(1), await db.chats.count()) == (None, 0)
        async with db.primary():
            chat = await db.chats.get(1)
            assert chat is not None
            assert (chat.title, await db.chats.count()) == ("new", 3)


async def test_a_block_of_the_primary_reads_what_the_standby_does_not_have(pair: Pair) -> None:
    async with pair.split(0.0) as db:
        async with pair.behind():
            # Written by somebody else: this bot has no reason of its own to avoid the standby.
            admin = await pair.admin()
            await admin.execute(ADD, db.bot_id, 1)
            await admin.close()
            assert await where_and_count(db) == (True, 0)
            async with db.primary():
                assert await where_and_count(db) == (False, 1)
                assert await asyncio.create_task(db.chats.count()) == 1
            assert await where_and_count(db) == (True, 0)
        assert await where_and_count(db) == (True, 1)


async def test_a_select_that_writes_is_done_by_the_primary(pair: Pair) -> None:
    async with pair.split(LONG_S) as db:
        assert await db.fetchval(IS_STANDBY)
        assert not await db.fetchval(f"{IS_STANDBY} FROM pg_current_xact_id()")
        # It counts as a write.
        assert not await db.fetchval(IS_STANDBY)


async def test_a_wrong_statement_costs_neither_the_standby_nor_its_connection(pair: Pair) -> None:
    async with pair.split(0.0) as db:
        pid = await db.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(DimsError, match="nonsense"):
            await db.fetch("SELECT nonsense")
        is_standby, again = await db.fetchrow("SELECT pg_is_in_recovery(), pg_backend_pid()")
        assert (is_standby, again) == (True, pid)


# Its own writes


async def test_a_bot_reads_what_it_wrote_and_after_the_lag_the_standby(pair: Pair) -> None:
    clock = asyncio.get_running_loop().time
    async with pair.split(LAG_S) as db:
        async with pair.behind():
            assert await where_and_count(db) == (True, 0)
            wrote_s = clock()
            await db.chats.save(1)
            assert await where_and_count(db) == (False, 1)
            assert await db.chats.get(1) is not None
            # Nothing is replayed yet: what is not seen now shows that the standby is asked.
            assert await first_of_the_standby(db, meanwhile=1) == 0
            assert clock() >= wrote_s + LAG_S
        assert await where_and_count(db) == (True, 1)


async def test_a_transaction_counts_as_a_write_even_when_rolled_back(pair: Pair) -> None:
    async with pair.split(LONG_S) as db, pair.behind():
        assert await db.fetchval(IS_STANDBY)
        with pytest.raises(KeyError):
            async with db.tx():
                await db.chats.save(1)
                raise KeyError
        assert await where_and_count(db) == (False, 0)


async def test_one_bots_write_leaves_the_reads_of_another_on_the_standby(pair: Pair) -> None:
    async with pair.split(LONG_S) as writer, pair.split(LONG_S) as reader:
        await writer.chats.save(1)
        assert not await writer.fetchval(IS_STANDBY)
        assert await reader.fetchval(IS_STANDBY)


# Other bots


async def test_the_standby_shows_a_bot_its_own_rows_only(pair: Pair) -> None:
    async with pair.split(0.0) as ours, pair.split(0.0) as theirs:
        await theirs.chats.save(7, title="secret")
        await pair.caught_up()
        assert await where_and_count(theirs) == (True, 1)
        standby = await pair.standby.admin()
        seen_by_all = await standby.fetchval(
            "SELECT count(*) FROM dims.chats WHERE bot_id = $1", theirs.bot_id
        )
        await standby.close()
        assert seen_by_all == 1

        assert await where_and_count(ours) == (True, 0)
        rows = await ours.fetch(
            "SELECT pg_is_in_recovery(), count(*) FROM dims.chats WHERE bot_id = $1", theirs.bot_id
        )
        assert [tuple(row) for row in rows] == [(True, 0)]
        assert await ours.chats.get(7) is None
        assert await ours.fetch("SELECT * FROM dims.bots WHERE bot_id = $1", theirs.bot_id) == []


# Its death; last, for it takes long


async def test_without_its_standby_a_bot_reads_the_primary_until_it_is_back(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "dims.storage")
    clock = asyncio.get_running_loop().time
    async with pair.split(0.0) as db, pair.split(0.0) as late:
        await db.chats.save(1)
        await pair.caught_up()
        assert await where_and_count(db) == (True, 1)
        reading = asyncio.create_task(db.fetchval(SLOW_ON_THE_STANDBY))
        await _runs_on_the_standby(pair, "pg_sleep")

        await asyncio.to_thread(pair.standby.kill)
        assert await reading is False
        failed_s = clock()
        assert await where_and_count(db) == (False, 1)
        # Who has no connection to lose is not refused either, only served a little later.
        assert await where_and_count(late) == (False, 0)
        await db.chats.save(2)
        assert await db.chats.count() == 2

        pair.standby.serve()  # not in a thread: it leaves with its parent, which is a thread
        await pair.caught_up()
        is_back_s = clock()
        assert await first_of_the_standby(db, meanwhile=2) == 2
        assert clock() >= failed_s + PAUSE_S - 0.5
        assert clock() < is_back_s + PAUSE_S + REPLICA_WAIT_S + 1.0
        own = [text for text in caplog.messages if text.startswith(f"{db.bot_id}: the replica ")]
        assert [text.split(":")[1].split(",")[0] for text in own] == [
            " the replica failed",
            " the replica serves again",
        ]


async def _runs_on_the_standby(pair: Pair, part: str) -> None:
    standby = await pair.standby.admin()
    ask = (
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%' "
        "AND wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
    )
    await becomes(lambda: standby.fetchval(ask, part), f"{part} runs on the standby")
    await standby.close()
