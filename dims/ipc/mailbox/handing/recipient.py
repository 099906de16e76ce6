"""Whose mail it is: what deliveries ask of the recipient, and how its handlers end. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from dims.errors import DimsError, RefusedError, RemoteError
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.wire.envelope import Envelope

MOST_REASON_CHARS = 10_000


class Office(Protocol):
    """What the recipient does with messages."""

    def knows(self, kind: str) -> bool:
        """Whether there is a handler for messages of this kind."""

    def permits(self, sender: str, kind: str) -> bool:
        """Whether this sender may send that here."""

    def may_send(self, recipient: str, kind: str) -> None:
        """Raises RefusedError when the recipient of this mailbox may not send that."""

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """Runs the handler; its result is the body of a reply where one is wanted. May raise
        anything; `Undeliverable` when another try cannot help."""

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        """Puts a durable message into another mailbox; raises a DimsError."""


class Undeliverable(RefusedError):  # noqa: N818 (a verdict on a message, not a fault of ours)
    """No handler will ever take this message: no second try."""


async def run_handler(office: Office, delivery: Delivery) -> Mapping[str, Any] | None:
    """What the handler returns; raises what it raises.

    A handler may end as cancelled though nobody cancelled it, because something that it awaited
    was: it has failed then, as any other, or those who wait behind it would do so for ever.
    """
    try:
        return await office.handle(delivery)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("the handler awaited something that was cancelled") from error
    finally:
        delivery.is_over = True


def remote(error: Exception) -> DimsError:
    """What the asker is told of an error: ours as it is, a handler's own by name."""
    return error if isinstance(error, DimsError) else RemoteError(reason_of(error))


def reason_of(error: Exception) -> str:
    """Why a handler failed, for operators."""
    text = str(error) if isinstance(error, Undeliverable) else f"{type(error).__name__}: {error}"
    # Without half surrogate pairs, which neither SQLite nor JSON takes, and not without end.
    return text[:MOST_REASON_CHARS].encode("utf-8", "replace").decode()
