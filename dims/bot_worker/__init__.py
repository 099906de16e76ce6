"""One bot in one process: Telethon client, session, handlers, health."""
