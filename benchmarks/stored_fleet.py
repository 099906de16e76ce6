"""A fleet with a database and people who talk to its bots, and what became of each message.

Each bot stores a message and counts it in one transaction, and answers after the commit: the
answer is the acknowledgement. It says who served it and when, so nothing has to be sampled. Knows
nothing of what is killed meanwhile.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fleet import Fleet

from dims.errors import DimsError, NotRunningError, TimedOutError
from dims.ipc.links.control_client import ControlClient

HANDLERS = '''\
"""Stores and counts each message in one transaction, and answers once it is committed."""

import os
import time

from telethon import events

from dims.storage.connections import connecting

COUNT = """
INSERT INTO dims.bot_settings (bot_id, key, value) VALUES ($1, 'heard', '1')
ON CONFLICT (bot_id, key) DO UPDATE SET value = to_jsonb((bot_settings.value)::int + 1)
"""
bot = None
attempts = None
connect = connecting.connect


async def counted(address, **options):
    """Each attempt to connect leaves a line: when it began and ended, and how."""
    began_s = time.monotonic()
    outcome = "failed"
    try:
        connection = await connect(address, **options)
        outcome = "opened"
        return connection
    finally:
        os.write(attempts, f"{began_s} {time.monotonic()} {outcome}\\n".encode())


async def setup(context):
    global bot, attempts
    bot = context
    path = os.path.join(bot.settings["attempts"], bot.id)
    attempts = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    connecting.connect = counted


@events.register(events.NewMessage(incoming=True))
async def record(event):
    began_s = time.monotonic()
    async with bot.tx() as tx:
        got_s = time.monotonic()
        await tx.settings.get("heard")
        if await tx.messages.record(event):
            await tx.execute(COUNT, bot.id)
        server = tx.connection.get_server_pid()
    said = f"{event.raw_text} {os.getpid()} {server} {began_s} {got_s} {time.monotonic()}"
    await event.respond(said, parse_mode=None)
'''
PAGE = 400
"""Messages per person: the sandbox shows the newest 1,000 of a chat, answers included."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An acknowledged message; times are CLOCK_MONOTONIC."""

    bot: str
    user: str
    message_id: int
    """Of the message that is answered."""
    worker: int
    server: int
    """Pid of the server's process that committed it."""
    began_s: float
    got_s: float
    """When it had a connection, with a transaction begun on it."""
    committed_s: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a bot to connect to the database."""

    bot: str
    began_s: float
    ended_s: float
    is_open: bool


class StoredFleet(Fleet):
    """A fleet of equal bots; `storage` is that section of bots.yaml."""

    def __init__(
        self,
        directory: Path,
        bots: int,
        storage: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.bots = [f"bot-{number:03d}" for number in range(bots)]
        self.attempts_directory = directory.resolve() / "attempts"
        content = {
            "telegram": {"server": "sandbox"},
            "storage": {"redis": "off", **storage},
            "defaults": {"settings": {"attempts": str(self.attempts_directory)}},
            "bots": [{"id": name, "handlers": "handlers.py"} for name in self.bots],
        }
        super().__init__(directory, None, {"handlers.py": HANDLERS}, environment)
        self.write("bots.yaml", json.dumps(content))
        self.attempts_directory.mkdir(mode=0o700)

    def failures(self) -> Counter[str]:
        """Why handlers failed, by the kind of the error, from the bots' logs."""
        found: Counter[str] = Counter()
        for bot in self.bots:
            for line in self.log(bot).splitlines():
                if line.startswith("{") and '"error": "Traceback' in line:
                    lines = json.loads(line)["error"].strip().splitlines()
                    last = next(said for said in reversed(lines) if not said.startswith("hint: "))
                    found[last.partition(":")[0].rpartition(".")[2]] += 1
        return found

    def attempts(self) -> list[Attempt]:
        """All attempts to connect so far, in order of their beginning."""
        found = []
        for path in self.attempts_directory.iterdir():
            for line in path.read_text().splitlines():
                began, ended, outcome = line.split()
                found.append(Attempt(path.name, float(began), float(ended), outcome == "opened"))
        return sorted(found, key=lambda one: one.began_s)

    def answers(self, users: list[str]) -> list[Answer]:
        """All that was acknowledged to these people."""
        found = []
        with ControlClient(self.layout.sandbox_socket, timeout_s=60.0) as sandbox:
            for user in users:
                for bot in self.bots:
                    try:
                        body = {"bot": bot, "user": user, "limit": 1_000}
                        history = sandbox.request("history", body)["messages"]
                    except DimsError:
                        continue  # they never spoke
                    ids = {m["text"]: m["id"] for m in history if m["from"] != "bot"}
                    found += [
                        _answer(bot, user, message["text"], ids)
                        for message in history
                        if message["from"] == "bot"
                    ]
        return found


class Talk:
    """People who talk to bots: `rates` says how many messages a second each bot gets."""

    def __init__(self, fleet: StoredFleet, rates: Mapping[str, float]) -> None:
        self._fleet = fleet
        self._rates = rates
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._counts = dict.fromkeys(rates, 0)
        self.said: dict[tuple[str, str], int] = {}
        """The number of messages by bot and person."""
        self.said_at_s: dict[tuple[str, str, int], float] = {}
        """When a message was said, by bot, person and number in the chat."""

    def __enter__(self) -> Talk:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join(30)

    @property
    def users(self) -> list[str]:
        """All who spoke."""
        return sorted({user for _, user in self.said})

    @property
    def total(self) -> int:
        """How many messages were said."""
        return len(self.said_at_s)

    def _talk(self) -> None:
        began_s = time.monotonic()
        # Not all at once: each begins at its own moment of its own interval.
        due_s = {
            bot: began_s + number / len(self._rates) / rate
            for number, (bot, rate) in enumerate(self._rates.items())
        }
        with ControlClient(self._fleet.layout.sandbox_socket, timeout_s=30.0) as sandbox:
            while not self._ended.is_set():
                now_s = time.monotonic()
                for bot, at_s in due_s.items():
                    if at_s <= now_s:
                        self._say(sandbox, bot)
                        due_s[bot] = max(at_s + 1 / self._rates[bot], now_s - 1.0)
                self._ended.wait(max(0.0, min(min(due_s.values()) - time.monotonic(), 0.05)))

    def _say(self, sandbox: ControlClient, bot: str) -> None:
        number = self._counts[bot]
        user = f"user{number // PAGE}"
        at_s = time.monotonic()
        body = {"bot": bot, "user": user, "text": f"m{number}", "wait_s": 0}
        try:
            message = sandbox.request("send", body)["message"]
        except (NotRunningError, TimedOutError) as error:
            print(f"the sandbox did not take a message: {error}", file=sys.stderr)
            return
        self._counts[bot] += 1
        self.said[bot, user] = self.said.get((bot, user), 0) + 1
        self.said_at_s[bot, user, int(message["id"])] = at_s


def busiest(attempts: list[Attempt]) -> tuple[int, int]:
    """The most attempts that were under way at the same time, and the most that began within one
    second."""
    marks = sorted([(one.began_s, 1) for one in attempts] + [(one.ended_s, -1) for one in attempts])
    at_once = most = 0
    for _, step in marks:
        at_once += step
        most = max(most, at_once)
    begun = sorted(one.began_s for one in attempts)
    first = dense = 0
    for last, at_s in enumerate(begun):
        while at_s - begun[first] > 1.0:
            first += 1
        dense = max(dense, last - first + 1)
    return most, dense


def _answer(bot: str, user: str, text: str, ids: Mapping[str, int]) -> Answer:
    question, worker, server, *times = text.split()
    return Answer(bot, user, ids[question], int(worker), int(server), *map(float, times))


def settled(fleet: StoredFleet, talk: Talk) -> list[Answer]:
    """The answers, once all are there or no more come."""
    found = fleet.answers(talk.users)
    while len(found) < talk.total:
        time.sleep(1.0)
        more = fleet.answers(talk.users)
        if len(more) == len(found):
            break
        found = more
    return found


def say(text: str) -> None:
    """One line of progress, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
