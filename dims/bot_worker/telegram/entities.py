"""The users and chats a bot can address without asking: fetched ahead, or let go.

Telethon keeps them twice, in the client's cache and in the session. The session's copy is the one
that reaches the disk, so the cache's may go; nothing goes that the cache alone has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from telethon import TelegramClient, errors, utils
from telethon.tl.types import PeerChannel

from dims.bot_worker.telegram.file_session import FileSession
from dims.logs import one_line

ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many entities left the client's cache, and how many had to stay."""

    dropped: int
    kept: int


async def warm(
    client: TelegramClient, entities: Sequence[int | str], timeout_s: float
) -> dict[str, str]:
    """Makes each entity (id or '@name') known, from the network where need be.

    Returns why not, for those where it failed. After a flood wait nobody else is asked for.
    """
    slots = asyncio.Semaphore(ASKED_AT_ONCE)
    failed: dict[str, str] = {}
    flooded = ""

    async def one(entity: int | str) -> None:
        nonlocal flooded
        async with slots:
            if flooded:
                failed[str(entity)] = flooded
                return
            try:
                async with asyncio.timeout(timeout_s):
                    await client.get_input_entity(entity)
            except errors.FloodWaitError as error:
                # Asking on would make it longer.
                flooded = failed[str(entity)] = f"Telegram asks to wait {error.seconds} s"
            except TimeoutError:
                failed[str(entity)] = f"no answer within {timeout_s:g} s"
            except ValueError:
                failed[str(entity)] = "Telegram knows nobody of that id or name, or hides them"
            except (errors.RPCError, ConnectionError) as error:
                failed[str(entity)] = one_line(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(one(entity) for entity in dict.fromkeys(entities)))
    return failed


def drop(client: TelegramClient, session: FileSession) -> Dropped:
    """Empties the client's cache, and stores the session first.

    Stay: the bot itself, channels whose updates are followed (Telethon keeps both too when its
    cache is full), and whatever the session does not have, or has with another access hash.
    """
    session.save()
    cache: Any = client._mb_entity_cache  # noqa: SLF001 (Telethon has no public way to empty it)
    followed = client._message_box.map  # noqa: SLF001 (as Telethon's own emptying)
    stored = session.peers()

    def must_stay(number: int) -> bool:
        if number == cache.self_id or number in followed:
            return True
        access_hash = cache.hash_map[number][0]
        channel = utils.get_peer_id(PeerChannel(number))
        return not {(number, access_hash), (channel, access_hash)} & stored

    before = len(cache)
    cache.retain(must_stay)
    return Dropped(before - len(cache), len(cache))
