"""Echo: answers every private message with the same text, and counts what it has heard.

Setting `prefix` (default: none) stands before the answer.
"""

from telethon import events

bot = None


async def setup(context):
    """Called once before updates arrive; one process runs one bot, so a module variable will do."""
    global bot  # noqa: PLW0603
    bot = context


@events.register(events.NewMessage(pattern=r"/start\b", incoming=True))
async def start(event):
    await event.respond("Hello! Send me a text, and I send it back; /count says how many it were.")
    raise events.StopPropagation


@events.register(events.NewMessage(pattern=r"/count\b", incoming=True))
async def count(event):
    heard = await bot.db.messages.count(event.chat_id)
    await event.respond(f"I have heard {heard} of your messages.")
    raise events.StopPropagation


@events.register(events.NewMessage(incoming=True, func=lambda event: event.is_private))
async def echo(event):
    if event.raw_text:
        # Before the answer: who is answered is counted, whatever breaks down in between.
        await bot.db.messages.record(event)
        await event.respond(bot.settings.get("prefix", "") + event.raw_text, parse_mode=None)
