"""Who is connected to which account, and what is told to whom. Owns delivery, decides no rules."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from telethon.tl.tlobject import TLObject

from dims.errors import StateError
from dims.sandbox.drills import NOTHING, FaultTable, Moment, Verdict, decide
from dims.sandbox.telegram import views
from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.box import ChangeKind, ChatMessage, UserId
from dims.sandbox.telegram.keyring import AuthKey, Keyring
from dims.sandbox.telegram.world import Change, World
from dims.sandbox.telegram.world_store import WorldStore

RETRY_DELAY_S = 1.0
"""How long after a failed commit the next one is tried."""
FLUSH_DELAY_S = 0.03
"""How long messages gather before they are committed."""


_log = logging.getLogger(__name__)


class ClientLink(Protocol):
    """One client connection, as the hub sees it."""

    key: AuthKey | None
    is_acting: bool
    wants_updates: bool

    def push(self, body: bytes) -> None:
        """Sends an Updates object soon."""

    def cut(self) -> None:
        """Closes at once, without a word."""

    def is_peer_gone(self) -> bool:
        """Whether the client has closed its end, even if we did not read that yet."""


@dataclass(slots=True)
class Tally:
    """What happened to one account since the sandbox started."""

    logins: int = 0
    cold_logins: int = 0
    duplicated: int = 0
    messages_in: int = 0
    messages_out: int = 0
    peak_connections: int = 0
    authorised_at_s: float | None = None
    """When a connection first acted as this account, the last time; CLOCK_MONOTONIC."""


@dataclass(frozen=True, slots=True)
class HubEvent:
    """Something a person looking at the chat would notice; `body` is JSON."""

    bot_id: UserId
    user_id: UserId
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """A button press that waits for the bot's answer."""

    bot_id: UserId
    user_id: UserId


@dataclass(slots=True)
class Hub:
    """The meeting point of connections, control API and store."""

    world: World
    keyring: Keyring
    store: WorldStore
    clock: Callable[[], float]
    links: set[ClientLink] = field(default_factory=set)
    acting: dict[bytes, set[ClientLink]] = field(default_factory=dict)
    tallies: dict[UserId, Tally] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    faults: FaultTable = ()
    on_faults: Callable[[], None] = lambda: None
    queries: dict[int, Query] = field(default_factory=dict)
    _listeners: dict[tuple[UserId, UserId], set[asyncio.Queue[HubEvent]]] = field(
        default_factory=dict
    )
    _flush_timer: asyncio.TimerHandle | None = None

    # --- faults ---

    def verdict(self, moment: Moment, bot: Bot | None, request: str | None = None) -> Verdict:
        """What goes wrong here; uses the fault up if it has a count."""
        if not self.faults:
            return NOTHING
        now_s = asyncio.get_running_loop().time()
        found, self.faults = decide(
            self.faults, moment, None if bot is None else bot.name, request, now_s
        )
        return found

    def set_faults(self, table: FaultTable) -> None:
        """Replaces the faults in force."""
        self.faults = table
        self.on_faults()

    # --- connections ---

    def tally(self, bot: Bot) -> Tally:
        """The bot's counters."""
        return self.tallies.setdefault(bot.id, Tally())

    def act(self, link: ClientLink, key: AuthKey) -> bool:
        """Notes that `link` acts with `key`; False if another open connection does so too."""
        if self._living(key, link):
            return False
        self.acting[key.id] = {link}
        link.is_acting = True
        if key.account_id is not None:
            tally = self.tallies.setdefault(key.account_id, Tally())
            tally.authorised_at_s = asyncio.get_running_loop().time()
            keys = self.keyring.of(key.account_id)
            living = 1 + sum(len(self._living(each, link)) for each in keys)
            tally.peak_connections = max(tally.peak_connections, living)
        return True

    def _living(self, key: AuthKey, but: ClientLink) -> set[ClientLink]:
        """Other connections that act with a key and whose clients have not closed their end."""
        others = self.acting.get(key.id, set()) - {but}
        gone = {other for other in others if other.is_peer_gone()}
        for other in gone:
            other.cut()
            self.acting[key.id].discard(other)
        return others - gone

    def leave(self, link: ClientLink) -> None:
        """Forgets a closed connection."""
        self.links.discard(link)
        if link.key is not None:
            others = self.acting.get(link.key.id)
            if others is not None:
                others.discard(link)
                if not others:
                    del self.acting[link.key.id]

    def links_of(self, bot: Bot) -> list[ClientLink]:
        """The connections signed in as this bot."""
        return [
            link for link in self.links if link.key is not None and link.key.account_id == bot.id
        ]

    # --- news ---

    def publish(self, change: Change, origin: ClientLink | None = None) -> None:
        """Stores a change, pushes it to all sessions but `origin`, and tells who is looking on."""
        bot = change.bot
        if not change.messages:
            return
        self.save_later(bot, change.messages)
        self.store.forget_later(bot, self.world.trim(bot))
        if origin is None:
            bot.undelivered.add(change.pts)
        self._count(change)
        if self.push(bot, lambda: views.updates(self.world, change, self.clock()), origin):
            self.world.mark_pushed(bot, change.pts)
        for message in change.messages:
            self.tell(bot, message.peer_id, str(change.kind), message=views.message_json(message))

    def push(
        self, bot: Bot, make: Callable[[], TLObject], origin: ClientLink | None = None
    ) -> bool:
        """Sends Updates to the bot's sessions that want them; whether there was one."""
        targets = [
            link
            for key in self.keyring.of(bot.id)
            if not key.is_duplicated
            for link in self.acting.get(key.id, ())
            if link is not origin and link.wants_updates
        ]
        if not targets or self.verdict(Moment.PUSH, bot).drop:
            return False
        body = bytes(make())
        for link in targets:
            link.push(body)
        return True

    def tell(self, bot: Bot, user_id: UserId, event: str, **details: Any) -> None:
        """Shows something to those who look at this chat through the control API."""
        for queue in self._listeners.get((bot.id, user_id), ()):
            queue.put_nowait(HubEvent(bot.id, user_id, {"event": event, **details}))

    @contextmanager
    def listening(self, bot: Bot, user_id: UserId) -> Iterator[asyncio.Queue[HubEvent]]:
        """A queue of all that happens in one chat from now on."""
        queue: asyncio.Queue[HubEvent] = asyncio.Queue()
        queues = self._listeners.setdefault((bot.id, user_id), set())
        queues.add(queue)
        try:
            yield queue
        finally:
            queues.discard(queue)
            if not queues:
                self._listeners.pop((bot.id, user_id), None)

    # --- storing ---

    def save_later(self, bot: Bot, messages: tuple[ChatMessage, ...] = ()) -> None:
        """Stores a bot and messages of it within `FLUSH_DELAY_S`."""
        self.store.save_later(bot, messages)
        if self._flush_timer is None:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(FLUSH_DELAY_S, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        try:
            self.store.flush()
        except StateError as error:
            _log.error("%s; trying again", error)
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(RETRY_DELAY_S, self._flush)

    # --- helpers ---

    def _count(self, change: Change) -> None:
        if change.kind is ChangeKind.NEW:
            tally = self.tally(change.bot)
            if change.messages[0].out:
                tally.messages_out += 1
            else:
                tally.messages_in += 1
