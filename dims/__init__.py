"""DIMS runs fleets of Telegram bots: one supervised Telethon worker process per bot."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["on"]


def __getattr__(name: str) -> Any:
    # For the authors of bots; imported when used, because every command imports this package.
    if name == "on":
        from dims.bot_worker.mail.authoring import on  # noqa: PLC0415

        return on
    raise AttributeError(f"module 'dims' has no attribute {name!r}")
