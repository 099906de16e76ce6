"""Event loops with a clock of their own: it jumps to the next timer, or is set ahead by hand."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Jumping(selectors.SelectSelector):
    """Never waits; who would have to wait for ever is told so."""

    now_s = 1000.0
    turns = 0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.turns += 1
        events = super().select(0)
        if timeout is None and not events:
            raise AssertionError("everybody waits and no timer is set")
        if not events:
            self.now_s += max(0.0, timeout or 0.0)
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time is its own."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    @property
    def turns(self) -> int:
        """How often it has woken up."""
        return self._jumping.turns


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be set ahead: what waits for its time has it then."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """As asyncio.run, in virtual time; what is left running is an error."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_alone(main))


async def _alone(main: Coroutine[Any, Any, T]) -> T:
    result = await main
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left
    return result
