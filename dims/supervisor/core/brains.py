"""Whether, and when, a keeper starts its brain again. Pure and total."""

from __future__ import annotations

from dataclasses import dataclass, replace

DELAYS_S = (0.0, 0.2, 1.0, 5.0)
"""Waits before the brain is started again, from the first end in a row on."""
LONGEST_DELAY_S = DELAYS_S[-1]
STABLE_S = 30.0
"""A brain that lived so long has made good for those before it."""
TRIES_TO_STOP = 2
"""After so many ends in a row a fleet that is to stop is stopped without a brain."""


@dataclass(frozen=True, slots=True)
class Brains:
    """What a keeper remembers of its brains."""

    tries: int = 0
    """Ends in a row, each soon after its start."""
    was_up: bool = False
    """Whether any of them ever served."""


@dataclass(frozen=True, slots=True)
class StartAgain:
    """Start a brain after `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Every brain would leave so, and none has started anything: leave with its code."""


@dataclass(frozen=True, slots=True)
class EndAll:
    """End all processes of the fleet without a brain."""


Answer = StartAgain | GiveUp | EndAll


def after_end(
    brains: Brains, lived_s: float, *, is_permanent: bool, is_stopping: bool
) -> tuple[Brains, Answer]:
    """What follows when a brain has ended after `lived_s` seconds.

    `is_permanent`: its exit code says that another one would leave so again, which is believed only
    of a brain that never served. `is_stopping`: the fleet is to stop.
    """
    if is_permanent and not brains.was_up:
        return brains, GiveUp()
    tries = 0 if lived_s > STABLE_S else brains.tries
    if is_stopping and tries >= TRIES_TO_STOP:
        return brains, EndAll()
    delay_s = DELAYS_S[min(tries, len(DELAYS_S) - 1)]
    return replace(brains, tries=tries + 1), StartAgain(delay_s)
