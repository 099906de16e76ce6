"""Few bots and many: does what one bot does cost more when a thousand others have roles and rows?

Two servers with as many rows each. The one with few bots takes part twice: what it differs by from
itself is noise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from itertools import count

from ipc_pairs import US, Figures, alone
from measures import percentile
from storage_bulk import messages
from storage_ground import SHAPE, WITHIN_S, Home, bare, now_s, roles_of
from storage_reads import in_slices, keep_apart

from dims.storage.admin.tenancy import drop_bot_role, put_roles
from dims.storage.bot.database import Database
from dims.storage.connections.connecting import connect
from dims.system.sealed import new_password

FEW, FEW_AGAIN, MANY = "few bots", "few bots, once more", "many bots"
BATCH = 1_000
NEW_ROLES = 10


def roles(few: Home, many: Home, reads: int, times: int) -> Mapping[str, Figures]:
    """`reads` point reads, and `times` each a batch of messages, a connection that is opened, and
    ten new roles, of each contender, in turn."""
    homes = {FEW: few, MANY: many, FEW_AGAIN: few}

    async def measured() -> Mapping[str, Figures]:
        async with AsyncExitStack() as stack:
            databases = {}
            for name, home in homes.items():
                databases[name] = home.database(len(home.bots) // 2)
                stack.push_async_callback(databases[name].close, WITHIN_S)
            for home in (few, many):
                await _empty(home)
            ways = {name: database.users.get for name, database in databases.items()}
            for home in (few, many):
                await keep_apart(ways, home)
            found: dict[str, dict[str, list[float]]] = {}
            for name, took in (await in_slices(ways, reads)).items():
                found[name] = {"p50_us": [percentile(took, 0.5) * US]}
            batches, opened, made = [{name: [] for name in homes} for _ in range(3)]  # type: tuple[dict[str, list[float]], ...]
            first = count(1, BATCH)
            for _ in range(times):
                for name, home in homes.items():
                    batches[name].append(await _insert_s(databases[name], next(first)))
                    opened[name].append(await _connect_s(home))
                    made[name].append(await _roles_s(home))
            for name in homes:
                found[name]["per_s"] = [BATCH / percentile(batches[name], 0.5)]
                found[name]["connect_ms"] = [percentile(opened[name], 0.5) * 1e3]
                found[name]["role_ms"] = [percentile(made[name], 0.5) * 1e3]
            return found

    found: Mapping[str, Figures] = alone(lambda: asyncio.run(measured()))
    return found


async def _empty(home: Home) -> None:
    admin = await bare(home.owner)
    await admin.execute("TRUNCATE dims.messages")
    await admin.execute("CHECKPOINT")
    await admin.close()


async def _insert_s(database: Database, first: int) -> float:
    batch = messages(BATCH, first)
    began_s = now_s()
    await database.messages.add_many(batch)
    return now_s() - began_s


async def _connect_s(home: Home) -> float:
    """Password check included."""
    began_s = now_s()
    connection = await connect(
        home.bot(1), timeout_s=WITHIN_S, application_name="benchmark", statement_s=WITHIN_S
    )
    took_s = now_s() - began_s
    await connection.close()
    return took_s


async def _roles_s(home: Home) -> float:
    """Per role; they are removed again."""
    bots = [f"new{number}" for number in range(NEW_ROLES)]
    new = roles_of(bots, {bot: new_password() for bot in bots})
    admin = await bare(home.owner)
    try:
        began_s = now_s()
        await put_roles(admin, SHAPE, new)
        took_s = now_s() - began_s
        for bot in bots:
            await drop_bot_role(admin, SHAPE, bot)
    finally:
        await admin.close()
    return took_s / NEW_ROLES
