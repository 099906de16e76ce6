"""Shop: takes orders in the chat and hands them to the bot `ledger`, which books each exactly once.

/buy tea sends a durable message, and answers when the ledger says it is booked; /total asks the
ledger and waits for its reply. The ledger may be down, restarting or killed meanwhile.
"""

from telethon import events

from dims import on

bot = None


async def setup(context):
    """Called once before updates arrive."""
    global bot  # noqa: PLW0603
    bot = context


@events.register(events.NewMessage(pattern=r"/buy (\w+)", incoming=True))
async def buy(event):
    item = event.pattern_match.group(1)
    await bot.send("ledger", "order", {"item": item, "customer": event.sender_id})


@events.register(events.NewMessage(pattern=r"/total\b", incoming=True))
async def total(event):
    booked = await bot.request("ledger", "total")
    lines = [f"{item}: {count}" for item, count in booked.items()]
    await event.respond("\n".join(lines) or "nothing yet")


@on("booked")
async def booked(message):
    """The ledger's answer comes whenever it comes: by mail, to whichever process runs then."""
    await bot.client.send_message(message.body["customer"], f"Booked: {message.body['text']}")
