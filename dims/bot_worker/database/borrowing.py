"""How many database connections this worker may have: its own share, and what it has borrowed.

The counterpart of `dims.supervisor.core.budget`. Pure: knows numbers; refuses clocks,
channels and databases.
"""

from __future__ import annotations

from collections.abc import Callable

from dims.ipc.words.fleet import ConnectionsHeld, ConnectionsLent

RENEWS_AFTER = 1 / 3
"""Part of a loan's time after which it is renewed: two attempts may fail."""

Tell = Callable[[ConnectionsHeld], None]
Allow = Callable[[int], None]


class Borrower:
    """`tell` takes a report for the brain; `allow` hears how many connections may be open."""

    def __init__(self, share: int, tell: Tell, allow: Allow) -> None:
        self._share = share
        self._tell = tell
        self._allow = allow
        self._granted = 0
        self._seen = 0
        self._until_s = 0.0
        self._renewed_s = 0.0
        self._holds = 0
        self._wants = 0
        self._asked = (0, 0)
        """What was wanted when more was asked for last, and after which word."""
        self._owes = False
        """The last word has not been answered: with what it brought in use, or closed."""
        allow(share)

    @property
    def granted(self) -> int:
        """How many it has borrowed, or may."""
        return self._granted

    def changed(self, connections: int, wanted: int) -> None:
        """So many connections are open, opening or closing, and so many are in use or waited for.

        Called with every change, so it says nothing but what the brain has to know: that more are
        wanted than granted, or that something is given back.
        """
        self._holds = max(0, connections - self._share)
        self._wants = max(0, wanted - self._share)
        self._settle()

    def heard(self, word: ConnectionsLent, now_s: float) -> None:
        """The brain's word."""
        if word.number <= self._seen:
            return
        self._until_s = now_s + word.loan_s
        self._renewed_s = now_s + word.loan_s * RENEWS_AFTER
        self._owes = True
        self._seen, self._granted = word.number, max(0, word.lent)
        self._allow(self._share + self._granted)
        self._settle()

    def tick(self, now_s: float) -> None:
        """To be called every few seconds: renews what is borrowed, and gives it up when no brain
        has renewed it."""
        if not self._granted and not self._wants:
            return
        if self._granted and now_s >= self._until_s:
            self._granted = 0
            self._allow(self._share)
        if now_s >= self._renewed_s:
            self._report(renews=True)

    def rejoined(self) -> None:
        """Another brain is there: until it hears what this worker holds, it must fear the worst."""
        self._report(renews=True)

    def _settle(self) -> None:
        needed = max(self._holds, self._wants)
        if needed < self._granted:
            # No longer ours from now on: the report must stay true while it is on its way.
            self._granted = needed
            self._allow(self._share + needed)
            self._report()
        elif self._can_answer() or self._must_ask():
            self._report()

    def _can_answer(self) -> bool:
        return self._owes and self._holds <= self._granted

    def _must_ask(self) -> bool:
        return self._wants > self._granted and self._asked != (self._wants, self._seen)

    def _report(self, *, renews: bool = False) -> None:
        self._asked = (self._wants, self._seen)
        self._owes = self._owes and self._holds > self._granted
        self._tell(ConnectionsHeld(self._holds, self._wants, self._seen, renews))
