"""Up to which update everything is finished. Pure.

Updates arrive in order of pts but their handlers finish in any order. What is stored must be a pts
below which nothing is in hand: then a kill at any moment redelivers, and never loses.
"""

from __future__ import annotations

import heapq


class Watermark:
    """Follows the updates of one account."""

    def __init__(self, pts: int) -> None:
        self._highest = pts
        self._in_hand: list[tuple[int, int]] = []
        """Heap of (pts after, pts before) of what is in hand."""
        self._finished: set[int] = set()

    @property
    def pts(self) -> int:
        """Everything up to here is finished."""
        return self._in_hand[0][1] if self._in_hand else self._highest

    @property
    def in_hand(self) -> int:
        """Updates begun and not finished."""
        return len(self._in_hand) - len(self._finished)

    def begin(self, pts: int, pts_count: int = 1) -> None:
        """An update arrived that leads from `pts - pts_count` to `pts`.

        One that was begun already has no effect.
        """
        if (pts, pts - pts_count) not in self._in_hand:
            heapq.heappush(self._in_hand, (pts, pts - pts_count))
        self._highest = max(self._highest, pts)

    def finish(self, pts: int) -> None:
        """The handlers of an update ended, well or badly."""
        self._finished.add(pts)
        while self._in_hand and self._in_hand[0][0] in self._finished:
            self._finished.discard(heapq.heappop(self._in_hand)[0])
