"""When the next attempt to connect may begin. Pure: knows no clock, no chance and no server.

While the server is not known to take connections there is one attempt at a time, and time between
two: fifty pools that all come back at once are the second outage.
"""

from __future__ import annotations

from dims.errors import DimsError

FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 2.0
REFUSED_DELAY_S = 1.0
"""After a refusal that only somebody's work can mend, such as a wrong password."""
_EXPONENT_LIMIT = 16


class Attempts:
    """What is remembered about the attempts of one pool."""

    def __init__(self) -> None:
        self.failures = 0
        """In a row; those that failed beside each other count as one."""
        self.reason: DimsError | None = None
        """Why the last attempt failed; None after a success."""
        self.not_before_s = 0.0
        self._is_refused = False
        self._is_trusted = False

    def may_begin(self, now_s: float, under_way: int) -> bool:
        """Whether one more attempt may begin beside those under way."""
        return self._is_trusted or (under_way == 0 and now_s >= self.not_before_s)

    def refusal(self, now_s: float) -> DimsError | None:
        """The reason why waiting is in vain for now."""
        return self.reason if self._is_refused and now_s < self.not_before_s else None

    def succeeded(self) -> None:
        """A connection was opened."""
        self.failures = 0
        self.reason = None
        self._is_trusted = True

    def lost(self) -> None:
        """A connection broke: the server may be gone."""
        self._is_trusted = False

    def failed(self, reason: DimsError, *, is_passing: bool, now_s: float, draw: float) -> None:
        """An attempt failed; `draw` is 0 to 1.

        Full jitter between the first delay and a ceiling that doubles ("Exponential Backoff and
        Jitter", AWS Architecture Blog, 2015).
        """
        if now_s >= self.not_before_s:
            self.failures += 1
        self.reason = reason
        self._is_refused = not is_passing
        self._is_trusted = False
        exponent = min(self.failures, _EXPONENT_LIMIT)
        ceiling_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0**exponent)
        jittered_s = FIRST_DELAY_S + draw * (ceiling_s - FIRST_DELAY_S)
        self.not_before_s = now_s + (jittered_s if is_passing else REFUSED_DELAY_S)
