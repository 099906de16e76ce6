"""Buttons: a menu whose buttons change the message they belong to.

The count travels in the button itself, so it survives a restart without any storage.
"""

from telethon import Button, events, functions, types

COMMANDS = [types.BotCommand("start", "Show the menu")]


async def setup(bot):
    """Called once before updates arrive: fills the menu beside Telegram's input field."""
    await bot.client(
        functions.bots.SetBotCommandsRequest(
            scope=types.BotCommandScopeDefault(), lang_code="", commands=COMMANDS
        )
    )


def menu(count):
    return [
        [Button.inline("-1", f"count:{count - 1}"), Button.inline("+1", f"count:{count + 1}")],
        [Button.inline("Delete", "delete")],
    ]


@events.register(events.NewMessage(pattern=r"/start\b", incoming=True))
async def start(event):
    await event.respond("Count: 0", buttons=menu(0))


@events.register(events.CallbackQuery(pattern=rb"count:(-?\d{1,9})$"))
async def count(event):
    number = int(event.pattern_match.group(1))
    await event.answer(f"Now {number}")
    await event.edit(f"Count: {number}", buttons=menu(number))


@events.register(events.CallbackQuery(data=b"delete"))
async def delete(event):
    await event.answer("Deleted")
    await event.delete()
