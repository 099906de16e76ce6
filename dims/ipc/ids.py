"""Message ids that sort by time. Reads the clock and the system's randomness, nothing else."""

from __future__ import annotations

import hashlib
import os
import time

from dims.ipc.envelope import MessageId


def new_id() -> MessageId:
    """32 hex digits: 48 bits of milliseconds since 1970, then 80 random bits (as UUIDv7 does)."""
    return MessageId(f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}")


def derived_id(cause: MessageId, number: int) -> MessageId:
    """The id of the `number`-th message that the handling of `cause` makes: the same every time,
    so that a handling that is done again makes no second message. Sorts with its cause."""
    digest = hashlib.blake2s(f"{cause}/{number}".encode(), digest_size=10).hexdigest()
    return MessageId(f"{cause[:12]:0<12}{digest}")
