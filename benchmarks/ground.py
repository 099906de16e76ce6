"""Where one measurement happens: a directory and a sandbox of its own, with bots logged in before.

A template is made once: a sandbox in which every bot has signed in, and each bot's session in the
form that each contender keeps. Every measurement starts from a fresh copy, so none inherits the
messages, the ports or the caches of another. All contenders use the same kind of server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measures import BenchmarkError, wait_until
from telethon import TelegramClient, functions
from telethon.crypto import rsa
from telethon.sessions import SQLiteSession

from dims.bot_worker.telegram.file_session import FileSession
from dims.cli.launch import scrubbed
from dims.ipc.links.control_client import ControlClient

HERE = Path(__file__).resolve().parent
ENVIRONMENT = scrubbed(os.environ)
"""Of every process of every contender: no PYTHONDONTWRITEBYTECODE, as in an installation."""
FIRST = "first"
"""The bot that is started with a contender's daemon; the fixed cost is told by it."""
FLOOD_SLICE = 50
"""Updates that arrive at once: a busy chat, not one burst of all."""


def bot_names(count: int) -> list[str]:
    """The bots besides `FIRST`."""
    return [f"bot-{number:03d}" for number in range(count)]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sandbox listens."""

    host: str
    port: int
    dc: int
    public_key_file: Path


class Sandbox:
    """A sandbox process and its control socket, counted for no contender."""

    def __init__(self, directory: Path) -> None:
        reading, writing = os.pipe()
        control = directory / "control.sock"
        argv = [sys.executable, "-m", "dims.sandbox", "--dir", str(directory)]
        argv += ["--control", str(control), "--ready-fd", str(writing), "--log-level", "ERROR"]
        self._process = subprocess.Popen(argv, env=ENVIRONMENT, pass_fds=(writing,))
        self.pid = self._process.pid
        os.close(writing)
        with os.fdopen(reading, "rb") as ready:
            said = ready.read()
        if not said:
            self._process.wait(10)
            raise BenchmarkError("the sandbox did not start")
        self._client = ControlClient(control, timeout_s=60.0)
        where = json.loads(said)
        self.address = Address(
            where["host"], where["port"], where["dc_id"], Path(where["public_key_file"])
        )

    def request(self, kind: str, **body: Any) -> dict[str, Any]:
        """One control request."""
        return self._client.request(kind, body)

    def accounts(self) -> dict[str, dict[str, Any]]:
        """What the sandbox knows of each bot, by name."""
        return {account["name"]: account for account in self.request("status")["accounts"]}

    def when_authorised(
        self, names: Iterable[str], since_s: float, within_s: float, every_s: float = 0.15
    ) -> dict[str, float]:
        """When each bot was last authorised, once all were after `since_s` (CLOCK_MONOTONIC).

        The sandbox notes the moment itself, so how often it is asked blurs nothing.
        """
        return when_authorised(self._client, list(names), since_s, within_s, every_s)

    def flood(self, names: list[str], updates: int, within_s: float) -> None:
        """Sends each bot `updates` messages in slices, and waits until each is answered."""
        before = self.accounts()
        answered = {name: before[name]["messages_out"] for name in names}
        until_s = time.monotonic() + within_s
        for begun in range(0, updates, FLOOD_SLICE):
            count = min(FLOOD_SLICE, updates - begun)
            for name in names:
                self.request("flood_updates", bot=name, user="alice", count=count)
                answered[name] += count

            def all_answered() -> bool:
                accounts = self.accounts()
                return all(accounts[name]["messages_out"] >= answered[name] for name in names)

            left_s = max(0.0, until_s - time.monotonic())
            wait_until(all_answered, left_s, 0.03, "answers to all updates")

    def close(self) -> None:
        """Ends the process."""
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)


def when_authorised(
    client: ControlClient, names: list[str], since_s: float, within_s: float, every_s: float
) -> dict[str, float]:
    """See `Sandbox.when_authorised`; for any sandbox."""
    found: dict[str, float] = {}

    def all_are() -> bool:
        for account in client.request("status")["accounts"]:
            at_s = account["authorised_at_s"]
            if at_s is not None and at_s >= since_s:
                found[account["name"]] = at_s
        return all(name in found for name in names)

    try:
        wait_until(all_are, within_s, every_s, "authorised")
    except BenchmarkError as error:
        late = [name for name in names if name not in found]
        raise BenchmarkError(f"{error}: {len(late)} of {len(names)}, {late[:3]}") from error
    return {name: found[name] for name in names}


@dataclass(frozen=True, slots=True)
class Template:
    """A directory to copy, and the bots' tokens by name."""

    directory: Path
    tokens: dict[str, str]


class Ground:
    """A copy of a template with a running sandbox. Use as a context manager."""

    def __init__(self, template: Template, directory: Path) -> None:
        shutil.copytree(template.directory, directory)
        self.directory = directory
        self.tokens = template.tokens
        self.sandbox = Sandbox(directory / "sandbox")

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def address(self) -> Address:
        """Of the sandbox."""
        return self.sandbox.address

    def plain_session(self, name: str) -> Path:
        """Telethon's SQLite session of a bot, without the suffix, as scripts give it."""
        return self.directory / "plain" / name

    def write_config(self, names: Iterable[str], more: dict[str, Any] | None = None) -> Path:
        """A bots.yaml (JSON is YAML) with these bots and the extra sections."""
        where = self.address
        server = {
            "host": where.host,
            "port": where.port,
            "dc": where.dc,
            "public_key_file": str(where.public_key_file),
        }
        bots = [
            {"id": name, "token": self.tokens[name], "handlers": "echo_handlers.py"}
            for name in names
        ]
        return write_config(self.directory, {"telegram": {"server": server}, "bots": bots}, more)


def know_server(address: Address) -> None:
    """Telethon takes the sandbox for Telegram from now on, in this process and its children."""
    rsa.add_key(address.public_key_file.read_text(encoding="ascii"), old=False)


def write_config(directory: Path, content: dict[str, Any], more: dict[str, Any] | None) -> Path:
    """bots.yaml and its handlers file in `directory`; without a database unless `more` has one, as
    the peers have none."""
    content = {"storage": {"database": "off", "redis": "off"}} | content
    shutil.copy(HERE / "echo_handlers.py", directory)
    path = directory / "bots.yaml"
    path.write_text(json.dumps(content | (more or {}), indent=1), encoding="utf-8")
    path.chmod(0o600)
    return path


def make_template(directory: Path, count: int, *, signed_in: bool = True) -> Template:
    """Logs `FIRST` and `count` bots in once, with a fresh key each (0.2 s a bot); without
    `signed_in` they have accounts and no sessions."""
    directory.mkdir()
    for name in ("sandbox", "plain", ".dims", ".dims/sessions"):
        (directory / name).mkdir(mode=0o700)
    sandbox = Sandbox(directory / "sandbox")
    try:
        names = [FIRST, *bot_names(count)]
        tokens = {name: sandbox.request("bot.create", name=name)["token"] for name in names}
        if signed_in:
            know_server(sandbox.address)
            asyncio.run(_log_in_all(directory, sandbox.address, tokens))
    finally:
        sandbox.close()
    # A copy listens wherever there is a free port.
    (directory / "sandbox" / "address.json").unlink()
    return Template(directory, tokens)


async def _log_in_all(directory: Path, address: Address, tokens: dict[str, str]) -> None:
    # A key exchange that has to be repeated (1 in 256) is no news.
    logging.getLogger("telethon").setLevel(logging.ERROR)
    slots = asyncio.Semaphore(4)

    async def log_in(name: str, token: str) -> None:
        async with slots, asyncio.timeout(60):
            await _log_in(directory, address, name, token)

    await asyncio.gather(*(log_in(name, token) for name, token in tokens.items()))


async def _log_in(directory: Path, address: Address, name: str, token: str) -> None:
    """One login, stored as DIMS stores it and as Telethon does."""
    session = FileSession(directory / ".dims" / "sessions" / f"{name}.session")
    session.aim(address.dc, address.host, address.port)
    client = TelegramClient(session, 1, "benchmark")
    await client.start(bot_token=token)
    me = await client.get_me()
    state = await client(functions.updates.GetStateRequest())
    session.updates.write(state.pts, state.qts, int(state.date.timestamp()), state.seq)
    session.save()
    await client.disconnect()
    session.updates.close()
    plain = SQLiteSession(str(directory / "plain" / name))
    plain.set_dc(address.dc, address.host, address.port)
    plain.auth_key = session.auth_key
    plain.process_entities([me])
    plain.set_update_state(0, state)
    plain.save()
    plain.close()
