"""What all threads and tasks of this process are doing, as text. Knows no log and no operator.

Frames show file, line and source, never the values of variables: those may be secrets.
"""

from __future__ import annotations

import asyncio
import itertools
import linecache
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

FRAMES_LIMIT = 100
"""Per stack, the innermost."""
_STEPS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def stacks(limit_bytes: int) -> str:
    """First the threads, then the tasks of the running loop; at most `limit_bytes` in UTF-8.

    What does not fit is left out from the end, and the last line says so.
    """
    threads = sys._current_frames()  # noqa: SLF001 (documented as it is)
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    shown = itertools.chain(_threads(threads), map(_task, tasks))
    try:
        return joined(shown, len(threads) + len(tasks), limit_bytes)
    finally:
        # A worker's memory is counted in megabytes: it need not keep the source of Telethon.
        linecache.clearcache()


def joined(parts: Iterable[str], count: int, limit_bytes: int) -> str:
    """The `count` parts, of which none is made any more once the limit is reached.

    The last line says how many are left out, if any.
    """
    room_bytes = limit_bytes - len(_left_out(count))
    taken: list[str] = []
    for part in parts:
        room_bytes -= len(part.encode("utf-8", "replace"))
        if room_bytes < 0:
            return "".join(taken) + _left_out(count - len(taken))
        taken.append(part)
    return "".join(taken)


def frames_of(coroutine: Any) -> Iterator[FrameType]:
    """The frames of a suspended coroutine, outermost first, down to what it waits for.

    `asyncio.Task.get_stack` gives the first of them only.
    """
    while coroutine is not None:
        for frame_name, next_name in _STEPS:
            if hasattr(coroutine, frame_name):
                frame = getattr(coroutine, frame_name)
                if frame is not None:
                    yield frame
                coroutine = getattr(coroutine, next_name)
                break
        else:
            return


def _threads(frames: Mapping[int, FrameType]) -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in frames.items():
        called = names.get(ident, "unknown to Python")
        innermost_first = (one for one, _ in traceback.walk_stack(frame))
        yield _shown(f"thread {called}", reversed(list(innermost_first)))


def _task(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    what = getattr(coroutine, "__qualname__", type(coroutine).__name__)
    return _shown(f"task {task.get_name()}: {what}", frames_of(coroutine))


def _shown(head: str, frames: Iterable[FrameType]) -> str:
    pairs = ((frame, frame.f_lineno) for frame in frames)
    summary = traceback.StackSummary.extract(pairs, limit=-FRAMES_LIMIT)
    return f"{head}\n{''.join(summary.format())}\n"


def _left_out(count: int) -> str:
    return f"({count} more are left out)\n"
