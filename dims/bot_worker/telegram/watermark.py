"""Up to which update everything is finished. Pure.

Updates arrive in order of pts but their handlers finish in any order. What is stored must be a pts
below which nothing is in hand: then a kill at any moment redelivers, and never loses.
"""

from __future__ import annotations

import heapq
from typing import NewType

Ticket = NewType("Ticket", int)
"""One update in hand."""


class Watermark:
    """Follows the updates of one account; `highest` is the pts after all that ever arrived."""

    def __init__(self, pts: int) -> None:
        self.highest = pts
        self._tickets = 0
        self._in_hand: list[tuple[int, Ticket]] = []
        """Heap of (pts before the update, its ticket)."""
        self._finished: set[Ticket] = set()
        self._own: list[tuple[int, int]] = []
        """Heap of (pts before, pts after) of what this account did itself, past a gap."""

    @property
    def pts(self) -> int:
        """Everything up to here is finished."""
        return self._in_hand[0][0] if self._in_hand else self.highest

    @property
    def in_hand(self) -> int:
        """Updates begun and not finished."""
        return len(self._in_hand) - len(self._finished)

    def begin(self, before: int, after: int) -> Ticket:
        """An update arrived that leads from pts `before` to pts `after`."""
        self._tickets += 1
        ticket = Ticket(self._tickets)
        heapq.heappush(self._in_hand, (before, ticket))
        self.highest = max(self.highest, after)
        self._absorb_own()
        return ticket

    def own(self, before: int, after: int) -> None:
        """The account itself did something that leads from `before` to `after`; it is finished.

        It counts only once everything up to `before` has arrived: the answer to a request may
        overtake an update that is not dispatched yet, and that one must not be skipped.
        """
        heapq.heappush(self._own, (before, after))
        self._absorb_own()

    def _absorb_own(self) -> None:
        while self._own and self._own[0][0] <= self.highest:
            self.highest = max(self.highest, heapq.heappop(self._own)[1])

    def finish(self, ticket: Ticket) -> None:
        """The handlers of an update ended, well or badly; called once for each ticket."""
        self._finished.add(ticket)
        while self._in_hand and self._in_hand[0][1] in self._finished:
            self._finished.discard(heapq.heappop(self._in_hand)[1])
