"""What a zygote imports and runs once, so that no worker has to. The zygote is told its name.

Each page touched here is shared by all workers; each module forgotten here is a private copy in
every one of them, and its import time is paid at every start.
"""

from __future__ import annotations

import asyncio
import concurrent.futures  # noqa: F401 (preloaded)
import contextlib  # noqa: F401
import csv  # noqa: F401
import decimal  # noqa: F401
import html  # noqa: F401
import random  # noqa: F401
import secrets  # noqa: F401
import sqlite3  # noqa: F401
import ssl  # noqa: F401
import textwrap  # noqa: F401
import urllib.request  # noqa: F401
import uuid  # noqa: F401

import cryptg
from telethon import TelegramClient, functions, types
from telethon.extensions import BinaryReader, markdown
from telethon.extensions import html as thtml
from telethon.sessions import MemorySession

from dims.bot_worker import memory, worker  # noqa: F401 (preloaded)


def warm_up() -> None:
    """Runs an event loop with a client that never connects, and the hot paths of the codec."""
    asyncio.run(_dummy())


async def _dummy() -> None:
    client = TelegramClient(MemorySession(), 1, "warm-up")
    request = functions.messages.SendMessageRequest(
        peer=types.InputPeerUser(1, 2), message="warm-up", random_id=3
    )
    reader = BinaryReader(bytes(request))
    reader.tgread_object()
    key = bytes(32)
    cryptg.decrypt_ige(cryptg.encrypt_ige(bytes(64), key, key), key, key)
    markdown.parse("**warm** `up`")
    thtml.parse("<b>warm</b> up")
    memory.unshared_bytes()
    await asyncio.sleep(0)
    del client
