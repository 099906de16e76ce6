"""Message ids that sort by time. Reads the clock and the system's randomness, nothing else."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    # Not at run time: envelopes need the fast codec, and the processes that must start at once
    # make ids too.
    from dims.ipc.wire.envelope import MessageId

_DIGITS = 20
_POOL_BYTES = 4_000


class _Pool:
    """Random digits for some hundred ids: asking the system for each costs as much as the rest."""

    __slots__ = ("digits", "position")

    def __init__(self) -> None:
        self.digits = ""
        self.position = 0

    def take(self) -> str:
        start = self.position
        if start >= len(self.digits):
            self.digits = os.urandom(_POOL_BYTES).hex()
            start = 0
        self.position = start + _DIGITS
        return self.digits[start : self.position]

    def forget(self) -> None:
        """A forked child must not make the ids that its parent makes."""
        self.digits = ""
        self.position = 0


_pool = _Pool()
os.register_at_fork(after_in_child=_pool.forget)


def new_id() -> MessageId:
    """32 hex digits: 48 bits of milliseconds since 1970, then 80 random bits (as UUIDv7 does)."""
    return cast("MessageId", f"{time.time_ns() // 1_000_000:012x}{_pool.take()}")
