"""One bot in the foreground of this very process, for `dims run`: no supervisor, no zygote."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from dims import logs
from dims.bot_worker.terms import read_terms
from dims.bot_worker.worker import Worker
from dims.errors import BotError


def run_in_foreground(wire: Mapping[str, Any]) -> None:
    """Runs until Ctrl-C or TERM. Raises BotError with the reason when the bot cannot go on."""
    terms = read_terms(wire)
    logs.dump_stacks_on_signal()
    logs.log_to_terminal(terms.bot, terms.secrets)
    failure = asyncio.run(_run(wire))
    if failure is not None:
        raise BotError(failure)


async def _run(wire: Mapping[str, Any]) -> str | None:
    worker = Worker(read_terms(wire), 1, None)
    worker.leave_on_signals()
    failure = await worker.run()
    return failure.reason if failure is not None else None
