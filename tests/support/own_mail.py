"""One bot's mail without its worker, and a brain that knows of nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from post import LIMIT_S
from usual import RETRY

from dims.bot_worker.mail.mail import Mail
from dims.errors import NotRunningError
from dims.ipc.grants import Grant
from dims.ipc.links.membership import Membership
from dims.ipc.words.fleet import Introduce
from dims.ipc.words.terms import MailTerms
from dims.system.clock import SYSTEM


class Bond:
    """A brain that knows of nobody who runs."""

    asked = 0

    async def request(self, sentence: Introduce, _timeout_s: float) -> Mapping[str, Any]:
        self.asked += 1
        raise NotRunningError(f"{sentence.to} is stopped")


@asynccontextmanager
async def mail(directory: Path, bond: Bond | None = None) -> AsyncIterator[Mail]:
    """The mail of `me`, which may write to `other`; not started yet."""
    (directory / "mail").mkdir(exist_ok=True)
    terms = MailTerms(
        directory=directory / "mail",
        sockets=directory,
        waits_for_disk=False,
        mailbox_bytes=10**6,
        retry=replace(RETRY, attempts=1),
        request_timeout_s=3_600.0,
        handlers_at_once=4,
        grants=(Grant(("me",), ("other",), ("*",)),),
    )
    one = Mail("me", terms, 1, cast("Membership", bond), SYSTEM)
    try:
        async with asyncio.timeout(LIMIT_S):
            yield one
    finally:
        await one.close()


async def send(one: Mail, to: str, kind: str, body: Any = None, *, durable: bool = False) -> str:
    return await one.send(to, kind, body, priority="normal", durable=durable, expires_in_s=None)


async def request(one: Mail, kind: str, body: Any = None) -> Any:
    return await one.request(
        "me", kind, body, timeout_s=None, priority="normal", durable=False, model=None
    )
