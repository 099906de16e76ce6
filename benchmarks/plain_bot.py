"""A Telethon bot as people write it today: one script, one interpreter, an SQLite session.

Usage: plain_bot.py SESSION TOKEN HOST PORT DC PUBLIC_KEY_FILE. The last four point it at a sandbox;
everything else is what Telethon's own documentation shows.
"""

import logging
import sys
from pathlib import Path

from telethon import TelegramClient, events
from telethon.crypto import rsa

logging.basicConfig(level=logging.INFO)
session, token, host, port, dc, key_file = sys.argv[1:]

rsa.add_key(Path(key_file).read_text(encoding="ascii"), old=False)
client = TelegramClient(session, 1, "benchmark")
client.session.set_dc(int(dc), host, int(port))


@client.on(events.NewMessage(incoming=True))
async def echo(event):
    await event.respond(event.raw_text)


client.start(bot_token=token)
client.run_until_disconnected()
