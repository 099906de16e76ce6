"""What follows when a handler fails: another try after a while, or the dead-letter box. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`attempts` tries in all; pauses double from `first_s` up to `max_s`, in seconds."""

    attempts: int
    first_s: float
    max_s: float

    def pause_s(self, failures: int, draw: float) -> float | None:
        """How long to wait after that many failures, or None when it was the last try.

        `draw`, uniform in [0, 1), makes it between half and all of the pause, so that what failed
        together does not come back together.
        """
        if failures >= self.attempts:
            return None
        full_s = min(self.max_s, self.first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
        return full_s * (0.5 + draw / 2)
