"""Two processes that work with each other for one measurement, and what all of them send.

Forked from a parent that has everything imported and no event loop. Knows processes and time
limits; knows nothing of messages.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from measures import BenchmarkError, percentile

from dims.system.prctl import end_with_parent

BODY = {
    "order": 48213,
    "customer": "Ada Lovelace",
    "item": "blue enamel mug, 0.3 l",
    "price": 12.5,
    "express": True,
    "note": "ring twice",
}
"""What is sent: about 120 bytes of JSON."""

WITHIN_S = 60.0
"""Nothing that is measured once takes longer; what does is broken."""
US = 1e6

Figures = dict[str, list[float]]
"""What one turn of one contender found, by name of the figure."""
Ready = Callable[[], None]

_fork = multiprocessing.get_context("fork")
Queue = _fork.Queue


class Player:
    """A forked process that plays one part. Its result comes over a pipe.

    It keeps to the `number`-th core where `pinned`: whether the kernel happens to put a pair on one
    core or on two makes more of a difference than most of what is measured.
    """

    pinned = True

    def __init__(self, part: Callable[[Ready], Any], number: int = 0) -> None:
        cores = sorted(os.sched_getaffinity(0))
        on = {cores[number % len(cores)]} if self.pinned else set(cores)
        self._ear, mouth = _fork.Pipe(duplex=False)
        self._process = _fork.Process(target=_play, args=(part, mouth, on), daemon=True)
        self._process.start()
        mouth.close()

    def hear(self, until_s: float) -> Any:
        """The next thing it has to say; raises BenchmarkError when it failed or is late."""
        if not self._ear.poll(max(0.0, until_s - time.monotonic())):
            raise BenchmarkError("a process was not done in time")
        try:
            error, value = self._ear.recv()
        except EOFError:
            raise BenchmarkError("a process ended without a result") from None
        if error:
            raise BenchmarkError(f"a process failed:\n{error}")
        return value

    def end(self) -> None:
        """Ends it, whatever it does."""
        self._process.terminate()
        self._process.join(2.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()
        self._ear.close()


def pair(
    serve: Callable[[Ready], Any], drive: Callable[[], Any], *, serves_for_ever: bool = False
) -> tuple[Any, Any]:
    """Plays both parts; what they return. `serve` calls its argument when `drive` may begin.

    Raises BenchmarkError. Neither process is left.
    """
    until_s = time.monotonic() + WITHIN_S
    players = [Player(serve)]
    try:
        players[0].hear(until_s)
        players.append(Player(lambda _: drive(), 1))
        driven = players[1].hear(until_s)
        return (None if serves_for_ever else players[0].hear(until_s)), driven
    finally:
        for player in players:
            player.end()


def alone(part: Callable[[], Any]) -> Any:
    """What a function returns in a fresh process; raises BenchmarkError."""
    player = Player(lambda _: part())
    try:
        return player.hear(time.monotonic() + WITHIN_S)
    finally:
        player.end()


def latencies(seconds: Sequence[float]) -> Figures:
    """The figures of one turn: median and 99th percentile in microseconds."""
    return {"p50_us": [percentile(seconds, 0.5) * US], "p99_us": [percentile(seconds, 0.99) * US]}


def rate(count: int, began_s: float, ended_s: float) -> Figures:
    """The figure of one turn: messages per second."""
    return {"per_s": [count / (ended_s - began_s)]}


def _play(part: Callable[[Ready], Any], mouth: Connection, cores: set[int]) -> None:
    # The parent leaves in good order at TERM; its children just end.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    os.sched_setaffinity(0, cores)
    try:
        mouth.send(("", part(lambda: mouth.send(("", None)))))
    except Exception:
        mouth.send((traceback.format_exc(), None))
