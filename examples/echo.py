"""Echo: answers every private message with the same text.

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
    await event.respond("Hello! Send me a text, and I send it back.")
    raise events.StopPropagation


@events.register(events.NewMessage(incoming=True, func=lambda event: event.is_private))
async def echo(event):
    if event.raw_text:
        await event.respond(bot.settings.get("prefix", "") + event.raw_text, parse_mode=None)
