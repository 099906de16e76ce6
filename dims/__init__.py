"""DIMS runs fleets of Telegram bots: one supervised Telethon worker process per bot."""

__version__ = "0.1.0"
