"""Starts a task's first step at once instead of in the next turn of the event loop.

A turn costs about 8 us of a request that takes 40. Python 3.12 can do this by itself; for 3.11 the
step that the loop has just queued is taken back and run. The task is the current one meanwhile,
as always, so handlers notice nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

_CAN_BE_EAGER = sys.version_info >= (3, 12)


def start_now(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """A task in a context of its own that has run to its first wait, or to its end. For callbacks:
    within another task, and on loops that do not show their queue, it starts in the next turn."""
    context = Context()
    if asyncio.current_task(loop) is not None:
        return loop.create_task(work, context=context)
    if _CAN_BE_EAGER:
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)  # type: ignore[call-arg]
    task = loop.create_task(work, context=context)
    ready = getattr(loop, "_ready", None)
    if ready:
        # Nothing can have come behind it: the loop's own thread is here.
        ready.pop()._run()  # noqa: SLF001 (see above: 3.11 has no other way)
    return task
