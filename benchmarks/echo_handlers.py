"""The handlers that every contender of the benchmarks runs: echo, written once."""

from telethon import events


@events.register(events.NewMessage(incoming=True))
async def echo(event):
    await event.respond(event.raw_text)
