"""How often something happens: a count per second over the last minute. Pure."""

from __future__ import annotations

SPAN_S = 60


class Meter:
    """Times are seconds on any clock that only goes forward."""

    __slots__ = ("_began_s", "_buckets", "_last_s")

    def __init__(self, now_s: float) -> None:
        self._buckets = [0] * SPAN_S
        self._began_s = now_s
        self._last_s = int(now_s)

    def add(self, now_s: float) -> None:
        """It happened."""
        second = int(now_s)
        if second != self._last_s:
            self._forward(second)
        self._buckets[self._last_s % SPAN_S] += 1

    def per_s(self, now_s: float) -> float:
        """The mean rate over the last minute, or since the beginning if that is later."""
        self._forward(int(now_s))
        return sum(self._buckets) / min(SPAN_S, max(1.0, now_s - self._began_s))

    def _forward(self, second: int) -> None:
        for passed in range(self._last_s + 1, min(second, self._last_s + SPAN_S) + 1):
            self._buckets[passed % SPAN_S] = 0
        self._last_s = max(self._last_s, second)
