"""The Telethon client of a bot: built, aimed, signed in under a deadline. No sandbox branch.

A bot in the sandbox differs in address and server key only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

from telethon import TelegramClient, functions
from telethon.crypto import rsa

from dims.bot_worker.telegram.diagnosis import Failure, WorkerFailedError
from dims.bot_worker.telegram.file_session import FileSession
from dims.ipc.words.failures import FailureClass
from dims.ipc.words.terms import WorkerTerms


def build_client(terms: WorkerTerms, session: FileSession) -> TelegramClient:
    """An unconnected client. Raises WorkerFailedError for a proxy that would be ignored."""
    if terms.server.public_key is not None:
        rsa.add_key(terms.server.public_key, old=False)
    session.aim(terms.server.dc, terms.server.host, terms.server.port)
    return TelegramClient(
        session,
        terms.api_id,
        terms.api_hash,
        proxy=_proxy(terms.proxy),
        catch_up=True,
        # Low: a long silent sleep looks like a hung bot. Longer waits raise and are reported.
        flood_sleep_threshold=terms.limits.flood_sleep_s,
        device_model="DIMS",
        raise_last_call_error=True,
        connection_retries=5,
    )


async def sign_in(client: TelegramClient, terms: WorkerTerms) -> Any:
    """Connects and logs in, all within the start deadline; returns the bot's own User.

    Telethon has no time limit on handshake or requests, so the deadline is ours; after a failure
    the client must be disconnected. Raises TimeoutError and whatever Telethon raises.
    """
    try:
        async with asyncio.timeout(terms.limits.start_timeout_s):
            await client.connect()
            me = await _unless_lost(client, _log_in(client, terms.token))
    except (ConnectionError, asyncio.CancelledError) as error:
        # Telethon's update loop may meet a revoked session first: it hangs up under the login,
        # whose requests then end as cancelled.
        hidden = _hidden_error(client)
        if hidden is None:
            raise
        raise hidden from error
    if me is None:
        raise WorkerFailedError(Failure(FailureClass.FENCED, "Telegram ended the session at login"))
    return me


async def _log_in(client: TelegramClient, token: str) -> Any:
    me = await client.get_me()
    if me is None:
        await client.sign_in(bot_token=token)
        me = await client.get_me()
    return me


async def _unless_lost(client: TelegramClient, requests: Coroutine[Any, Any, Any]) -> Any:
    """What the requests give, or the error for which Telethon hung up meanwhile.

    It answers or cancels what it has sent, and forgets what it was about to send.
    """
    work = asyncio.ensure_future(requests)
    lost = asyncio.ensure_future(until_disconnected(client))
    try:
        await asyncio.wait((work, lost), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            # Without an error it hangs up in order to call another data centre.
            lost.result()
        return await work
    finally:
        work.cancel()
        lost.cancel()
        await asyncio.gather(work, lost, return_exceptions=True)


async def until_disconnected(client: TelegramClient) -> None:
    """Returns when Telethon has given the connection up, or raises why."""
    await client.disconnected
    hidden = _hidden_error(client)
    if hidden is not None:
        raise hidden


async def check_health(client: TelegramClient, timeout_s: float) -> None:
    """One request that only a signed-in client gets answered.

    Raises TimeoutError, or what Telethon raises: auth errors hide everywhere else.
    """
    async with asyncio.timeout(timeout_s):
        await client(functions.updates.GetStateRequest())


def _hidden_error(client: TelegramClient) -> Exception | None:
    """Why Telethon's update loop hung up; it tells that nowhere else."""
    error: Exception | None = client._updates_error  # noqa: SLF001 (see above)
    return error


def _proxy(url: str | None) -> tuple[Any, ...] | None:
    """Telethon's form of a proxy URL."""
    if url is None:
        return None
    try:
        import python_socks  # noqa: F401, PLC0415 (without it Telethon connects directly, silently)
    except ImportError as error:
        reason = "a proxy is configured, but python-socks is missing: pip install python-socks"
        raise WorkerFailedError(Failure(FailureClass.NEEDS_OPERATOR, reason)) from error
    parts = urlsplit(url)
    return (parts.scheme, parts.hostname, parts.port, True, parts.username, parts.password)
