"""Ids of messages that follow from another: the same whenever they are made. Pure."""

from __future__ import annotations

import hashlib

from dims.ipc.wire.envelope import MessageId


def derived_id(cause: MessageId, number: int) -> MessageId:
    """The id of the `number`-th message that the handling of `cause` makes: the same every time,
    so that a handling that is done again makes no second message. Sorts with its cause."""
    digest = hashlib.blake2s(f"{cause}/{number}".encode(), digest_size=10).hexdigest()
    return MessageId(f"{cause[:12]:0<12}{digest}")
