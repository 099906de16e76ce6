"""Admin: lets the people under `admins` in bots.yaml see how the bot is, and restart it.

/status tells how long this process runs and how much memory is its own; /restart asks the
supervisor for a new process.
"""

from functools import wraps

from telethon import events

bot = None


async def setup(context):
    """Called once before updates arrive."""
    global bot  # noqa: PLW0603
    bot = context
    bot.log.info("admins: %d", len(bot.admins))


async def is_admin(event):
    """Admins are numeric user ids, which stay, or @usernames, which people can change."""
    if event.sender_id in bot.admins:
        return True
    sender = await event.get_sender()
    username = getattr(sender, "username", None)
    named = {admin.lower() for admin in bot.admins if isinstance(admin, str)}
    return username is not None and f"@{username.lower()}" in named


def for_admins(handler):
    """Others get a polite no."""

    @wraps(handler)
    async def guarded(event):
        if await is_admin(event):
            await handler(event)
        else:
            bot.log.warning("refused %s to user %s", event.raw_text.split()[0], event.sender_id)
            await event.respond("Sorry, only this bot's admins can do that.")

    return guarded


@events.register(events.NewMessage(pattern=r"/status\b", incoming=True))
@for_admins
async def status(event):
    now = bot.status()
    own_mb = (now["unshared_bytes"] or 0) / 1_000_000  # None where the system does not tell
    await event.respond(
        f"{bot.id}: up {now['uptime_s']:.0f} s, incarnation {now['incarnation']}, "
        f"{own_mb:.1f} MB of its own"
    )


@events.register(events.NewMessage(pattern=r"/restart\b", incoming=True))
@for_admins
async def restart(event):
    await event.respond("Restarting. Back in a moment.")
    await bot.request_restart(f"user {event.sender_id} asked for it")


@events.register(events.NewMessage(pattern=r"/start\b", incoming=True))
async def start(event):
    await event.respond("I can /status and /restart, for my admins.")
