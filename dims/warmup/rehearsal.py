"""A worker's whole life, played in the zygote before anything is forked. Leaves nothing running.

CPython 3.11 rewrites code in place while it warms up (PEP 659), fills caches on first use, and so
copies pages in every worker that runs a path first. Played here, against a sandbox in this process
and a brain that only says welcome, that happens once and is shared by all. Nothing of it may stay:
no descriptor, no thread, no key that a worker would trust, no handler, no signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from telethon import TelegramClient
from telethon.crypto import rsa

from dims.bot_worker import worker
from dims.bot_worker.telegram.file_session import FileSession
from dims.ipc.links.channel import Channel, listen
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.sentences import written
from dims.ipc.words.fleet import WELCOME, Hello, Leave, MayServe, Will
from dims.ipc.words.terms import FreshSettings, Limits, MailTerms, TelegramAddress, WorkerTerms
from dims.sandbox.rpc.people import People
from dims.sandbox.server import Sandbox

_log = logging.getLogger(__name__)

LIVES = 4
"""Measured: fewer share less; more share nothing more and leave holes that workers fill."""
MESSAGES = 8
"""Per life; each is echoed."""
LIMIT_S = 20.0
_BOT = "rehearsal"
_HANDLERS = """
from telethon import events

@events.register(events.NewMessage(incoming=True, func=lambda event: event.is_private))
async def echo(event):
    await event.respond(event.raw_text)

@events.register(events.CallbackQuery())
async def pressed(event):
    await event.answer()

async def setup(bot):
    bot.log.info("plays")
"""


def rehearse() -> None:
    """Plays some lives; raises whatever goes wrong, for then no worker would run either."""
    with _nothing_stays(), tempfile.TemporaryDirectory(prefix="dims-") as directory:
        asyncio.run(_rehearse(Path(directory)))


async def _rehearse(directory: Path) -> None:
    (directory / "dims_rehearsal.py").write_text(_HANDLERS, encoding="utf-8")
    sandbox = Sandbox(directory)
    await sandbox.start()
    try:
        async with asyncio.timeout(LIMIT_S):
            for number in range(LIVES):
                await _life(directory, sandbox, number)
    except TimeoutError:
        # On a starved machine workers start colder than they could; better than never.
        _log.warning("the rehearsal was not done after %g s", LIMIT_S)
    finally:
        await sandbox.close()


async def _life(directory: Path, sandbox: Sandbox, number: int) -> None:
    """One worker from hello to leave. Its auth key is given: an exchange would take its time."""
    hub = sandbox.hub
    bot = hub.world.create_bot(_BOT)
    session = FileSession(directory / f"{_BOT}.session")
    if session.auth_key is None:
        raw = os.urandom(256)
        hub.keyring.bind(hub.keyring.make(raw), bot.id)
        session.give_key(sandbox.address.dc_id, raw)
    session.updates.close()
    brain = _Brain(_terms(directory, sandbox, bot.token))
    # An abstract name: the path of a temporary directory may be too long for a socket.
    path = f"\0dims-rehearsal-{os.getpid()}-{number}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    server = await listen(sock, brain.make)
    order = {"socket": path, "unit": _BOT, "incarnation": number}
    life = asyncio.ensure_future(worker.run_in_fleet(order, heeds_signals=False))
    await asyncio.wait((life, brain.ready), return_when=asyncio.FIRST_COMPLETED)
    if not life.done():
        people = People(hub)
        someone = people.persona("someone")
        with hub.listening(bot, someone.id) as events:
            for count in range(MESSAGES):
                people.say(bot, someone, f"message {count}", None)
                while not _is_reply((await events.get()).body):
                    continue
        brain.leave()
    code = await life
    server.close()
    if code != 0:
        raise RuntimeError(f"the rehearsal of a worker ended with {code}; its log says why")


def _is_reply(event: Mapping[str, Any]) -> bool:
    return event["event"] == "new" and bool(event["message"]["from"] == "bot")


class _Brain:
    """Says welcome, and later leave."""

    def __init__(self, terms: WorkerTerms) -> None:
        self._terms = terms
        self._channel: Channel | None = None
        self.ready = asyncio.get_running_loop().create_future()

    def make(self) -> Channel:
        return Channel(self._heard, lambda _channel, _why: None, name=Address("brain"))

    def leave(self) -> None:
        if self._channel is not None:
            self._channel.say(Leave.kind, {})

    def _heard(self, channel: Channel, message: Envelope) -> None:
        self._channel = channel
        if message.kind == Hello.kind:
            channel.say(WELCOME, written(self._terms))
        elif message.kind in (MayServe.kind, Will.kind) and not self.ready.done():
            self.ready.set_result(None)


def _terms(directory: Path, sandbox: Sandbox, token: str) -> WorkerTerms:
    where = sandbox.address
    key = Path(where.public_key_file).read_text(encoding="ascii")
    return WorkerTerms(
        bot=_BOT,
        token=token,
        api_id=1,
        api_hash=_BOT,
        server=TelegramAddress(where.host, where.port, where.dc_id, key),
        proxy=None,
        sandbox=True,
        handlers="dims_rehearsal.py",
        directory=directory,
        admins=(),
        own=FreshSettings({}, ()),
        limits=Limits(
            start_timeout_s=LIMIT_S,
            heartbeat_s=0.005,
            health_timeout_s=LIMIT_S,
            drain_timeout_s=LIMIT_S,
            flood_sleep_s=5,
            log_bytes=10**9,
            log_files=1,
            handlers_at_once=100,
            open_files=4096,
        ),
        mail=MailTerms(
            directory=directory / "mail",
            sockets=directory,
            waits_for_disk=False,
            mailbox_bytes=1_000_000,
            retry=RetryPolicy(1, 0.1, 0.1),
            request_timeout_s=LIMIT_S,
            handlers_at_once=1,
            grants=(),
        ),
        storage=None,
        session=directory / f"{_BOT}.session",
        lease=directory / f"{_BOT}.lease",
        log=directory / f"{_BOT}.log",
    )


@contextlib.contextmanager
def _nothing_stays() -> Iterator[None]:
    """Puts back whatever a worker changes in its process, and checks the descriptors."""
    before = _descriptors()
    path, modules = list(sys.path), set(sys.modules)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    streams = sys.stdout, sys.stderr
    keys = dict(rsa._server_keys)  # noqa: SLF001
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.handlers[:] = handlers
        sys.stdout, sys.stderr = streams
        root.setLevel(level)
        sys.path[:] = path
        # A bot's own module may have any name: none may be there before it.
        for name in set(sys.modules) - modules:
            if name.startswith("dims_rehearsal"):
                del sys.modules[name]
        # The private half is gone, but a worker trusts no key that it was not told to.
        rsa._server_keys.clear()  # noqa: SLF001 (Telethon can add keys, not drop them)
        rsa._server_keys.update(keys)  # noqa: SLF001
        # Telethon keeps the server's answer on the class; a worker has another server.
        TelegramClient._config = None  # noqa: SLF001 (there is no public way to forget it)
    left = _descriptors() - before
    if left:
        raise RuntimeError(f"the rehearsal left descriptors open: {sorted(left)}")


def _descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}
