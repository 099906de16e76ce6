"""The time and chance, handed in: whoever decides gets them from outside and reads no other.

Monotonic for durations, which never goes back; UTC for what is kept and read by others, which may.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """The time, monotonic and UTC in seconds, and chance: uniform in [0, 1)."""

    monotonic: Callable[[], float]
    utc: Callable[[], float]
    draw: Callable[[], float]


SYSTEM = Clock(time.monotonic, time.time, random.random)
"""The machine's own. Chosen where a process begins; everything else is handed one."""
