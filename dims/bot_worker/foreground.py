"""One bot in the foreground of this very process, for `dims run`: no supervisor, no zygote."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from dims import logs
from dims.bot_worker.worker import Worker
from dims.errors import BotError
from dims.ipc.words.terms import StorageTerms, WorkerTerms

StorageOf = AbstractAsyncContextManager[StorageTerms | None]


def run_in_foreground(terms: WorkerTerms, storage: StorageOf) -> None:
    """Runs until Ctrl-C or TERM, with the storage terms that `storage` brings for as long.

    Raises BotError with the reason when the bot cannot go on, and what `storage` raises.
    """
    logs.dump_stacks_on_signal()
    failure = asyncio.run(_run(terms, storage))
    if failure is not None:
        raise BotError(failure)


async def _run(terms: WorkerTerms, storage: StorageOf) -> str | None:
    async with storage as found:
        terms = replace(terms, storage=found)
        logs.log_to_terminal(terms.bot, terms.secrets)
        worker = Worker(terms, 1, None)
        worker.leave_on_signals()
        failure = await worker.run()
        return failure.reason if failure is not None else None
