"""A queue in which urgent things go first and nothing starves. Pure: no clock, no I/O.

Each class is first in, first out. The most urgent class that has something goes next, but a class
whose head was passed over as often as its patience allows comes before all others. So the head of
a class is taken after at most `PATIENCE[priority] + 3` others, whatever comes meanwhile: three,
because the heads of the other classes may have lost patience at the same moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from dims.ipc.wire.envelope import Priority

T = TypeVar("T")

PATIENCE: Mapping[Priority, int] = {
    Priority.URGENT: 0,
    Priority.HIGH: 8,
    Priority.NORMAL: 16,
    Priority.LOW: 32,
}
"""How often a class's head may be passed over. Counted in things taken and not in seconds, so that
the bound holds however long each of them takes. Low gets at least one turn in 33: enough to end,
too little to be felt by what is urgent."""


class PriorityQueue(Generic[T]):
    """Things by priority; `len` is how many wait."""

    __slots__ = ("_classes", "_count", "_passed")

    def __init__(self) -> None:
        self._classes: tuple[deque[T], ...] = tuple(deque() for _ in Priority)
        self._passed = [0] * len(Priority)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """Everything that waits, by class and not by turn."""
        for waiting in self._classes:
            yield from waiting

    def push(self, priority: Priority, thing: T) -> None:
        """Adds a thing at the end of its class."""
        self._classes[priority].append(thing)
        self._count += 1

    def pop(self) -> T:
        """Takes the thing whose turn it is; raises IndexError when nothing waits."""
        if not self._count:
            raise IndexError("nothing waits")
        self._count -= 1
        chosen = self._next_class()
        for number, waiting in enumerate(self._classes):
            if waiting:
                self._passed[number] += 1
        self._passed[chosen] = 0
        return self._classes[chosen].popleft()

    def pop_urgent(self) -> T:
        """Takes the next urgent thing; raises IndexError when there is none."""
        thing = self._classes[Priority.URGENT].popleft()
        self._count -= 1
        return thing

    @property
    def has_urgent(self) -> bool:
        """Whether something urgent waits."""
        return bool(self._classes[Priority.URGENT])

    def clear(self) -> list[T]:
        """Takes everything at once, most urgent class first."""
        everything = list(self)
        for waiting in self._classes:
            waiting.clear()
        self._passed = [0] * len(Priority)
        self._count = 0
        return everything

    def _next_class(self) -> int:
        first, most_impatient, excess = -1, -1, 0
        for number, waiting in enumerate(self._classes):
            if not waiting:
                continue
            if first < 0:
                first = number
                continue
            over = self._passed[number] - PATIENCE[Priority(number)] + 1
            if over > excess:
                most_impatient, excess = number, over
        return most_impatient if most_impatient >= 0 else first
