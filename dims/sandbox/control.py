"""The sandbox's control API: requests on a Unix socket. Translates; the rules are elsewhere.

Every kind has one handler, found by its name in `Control.handlers`; bodies and answers are JSON.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from dims.errors import UsageError
from dims.ipc.wire.envelope import Envelope
from dims.sandbox import drills as faults
from dims.sandbox.drills import Blow, FaultKind
from dims.sandbox.rpc.call import ListenAddress
from dims.sandbox.rpc.people import People
from dims.sandbox.telegram import views
from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.box import ChatMessage
from dims.sandbox.telegram.hub import Hub, HubEvent, Tally
from dims.system.clock import SYSTEM
from dims.system.peer import Peer

Body = Mapping[str, Any]
Reply = dict[str, Any]

WAIT_S = 10.0
QUIET_S = 0.2
FLOOD_LIMIT = 100_000
HISTORY_LIMIT = 1_000


class Control:
    """Answers control requests; `stop` is set by "shutdown"."""

    def __init__(self, hub: Hub, address: ListenAddress, stop: asyncio.Event) -> None:
        self._hub = hub
        self._address = address
        self._stop = stop
        self._people = People(hub)
        self._fault_numbers = count(1)
        self._started_s = SYSTEM.monotonic()
        self._handlers: dict[str, Callable[[Body], Awaitable[Reply]]] = {
            "bot.create": self._create,
            "bot.revoke_token": self._revoke,
            "send": self._send,
            "edit": self._edit,
            "delete": self._delete,
            "press": self._press,
            "history": self._history,
            "fault.set": self._set_fault,
            "fault.list": self._list_faults,
            "fault.clear": self._clear_faults,
            "flood_updates": self._flood,
            "status": self._status,
            "shutdown": self._shutdown,
        }

    def handle(
        self, peer: Peer, request: Envelope
    ) -> Awaitable[Mapping[str, Any]] | AsyncIterator[Mapping[str, Any]]:
        """The answer to one request; raises UsageError on a kind or body that makes no sense."""
        del peer  # RequestServer has refused strangers already
        if request.kind == "follow":
            return self._follow(request.body)
        handler = self._handlers.get(request.kind)
        if handler is None:
            known = ", ".join([*self._handlers, "follow"])
            raise UsageError(f"unknown request {request.kind!r}", hint=f"one of: {known}")
        return handler(request.body)

    # --- bots ---

    async def _create(self, body: Body) -> Reply:
        bot = self._hub.world.create_bot(_text(body, "name"), _optional_text(body, "token"))
        self._hub.store.save_bot(bot)
        return _bot_json(bot)

    async def _revoke(self, body: Body) -> Reply:
        bot = self._bot(body, "name")
        self._hub.world.revoke_token(bot)
        self._hub.store.save_bot(bot)
        return _bot_json(bot)

    # --- acting as a persona ---

    async def _send(self, body: Body) -> Reply:
        bot, user = self._bot(body), _text(body, "user")
        text, reply_to = _text(body, "text"), _optional_int(body, "reply_to")
        persona = self._people.persona(user)
        with self._hub.listening(bot, persona.id) as queue:
            message = self._people.say(bot, persona, text, reply_to)
            events = await _gather(queue, body, stop=_is_from_bot)
        return {
            "message": views.message_json(message),
            "replies": _latest(events),
            "events": [event.body for event in events if not _is_own(event, message)],
        }

    async def _edit(self, body: Body) -> Reply:
        bot, message = self._own_message(body)
        self._people.edit(bot, message, _text(body, "text"))
        return {"message": views.message_json(message)}

    async def _delete(self, body: Body) -> Reply:
        bot, message = self._message_of(body)
        self._people.delete(bot, message)
        return {"deleted": [message.id]}

    async def _press(self, body: Body) -> Reply:
        bot, message = self._message_of(body)
        data = self._people.find_button(
            message, _optional_text(body, "button"), _optional_text(body, "data")
        )
        with self._hub.listening(bot, message.peer_id) as queue:
            query_id = str(self._people.press(bot, message, data))
            events = await _gather(
                queue, body, stop=lambda event: event.body.get("query_id") == query_id
            )
        answers = [each.body for each in events if each.body.get("query_id") == query_id]
        return {
            "answer": answers[0] if answers else None,
            "replies": _latest(events),
            "events": [event.body for event in events],
        }

    async def _history(self, body: Body) -> Reply:
        bot, user = self._bot(body), self._people.known_persona(_text(body, "user"))
        limit = min(HISTORY_LIMIT, _optional_int(body, "limit") or 50)
        found = self._hub.world.history(bot, user.id, limit)
        return {"messages": [views.message_json(message) for message in found]}

    async def _follow(self, body: Body) -> AsyncIterator[Reply]:
        bot = self._bot(body)
        persona = self._people.persona(_text(body, "user"))
        with self._hub.listening(bot, persona.id) as queue:
            yield {"event": "following", "bot": bot.name, "user": persona.name}
            while True:
                yield (await queue.get()).body

    async def _flood(self, body: Body) -> Reply:
        bot, persona = self._bot(body), self._people.persona(_text(body, "user"))
        number = _optional_int(body, "count") or 1
        if not 1 <= number <= FLOOD_LIMIT:
            raise UsageError(f"'count' must be 1 to {FLOOD_LIMIT}")
        text = _optional_text(body, "text") or "message"
        first = last = 0
        for index in range(number):
            last = self._people.say(bot, persona, f"{text} {index + 1}", None).id
            first = first or last
            if index % 50 == 49:
                await asyncio.sleep(0)
        return {"sent": number, "first_id": first, "last_id": last}

    # --- faults ---

    async def _set_fault(self, body: Body) -> Reply:
        now_s = asyncio.get_running_loop().time()
        kind = body.get("kind")
        bots = self._bots(body)
        if kind in tuple(Blow):
            return {"struck": sum(self._strike(Blow(kind), bot) for bot in bots)}
        if kind == FaultKind.CUT:
            cut = [link for bot in bots for link in self._hub.links_of(bot)]
            if body.get("bot") is None:
                cut = list(self._hub.links)
            for link in cut:
                link.cut()
            if body.get("duration_s") is None and body.get("count") is None:
                return {"struck": len(cut)}
        fault = faults.parse(next(self._fault_numbers), body, now_s)
        self._hub.set_faults((*self._hub.faults, fault))
        return faults.describe(fault, now_s)

    async def _list_faults(self, _body: Body) -> Reply:
        now_s = asyncio.get_running_loop().time()
        live = [
            fault for fault in self._hub.faults if fault.until_s is None or now_s < fault.until_s
        ]
        return {"faults": [faults.describe(fault, now_s) for fault in live]}

    async def _clear_faults(self, body: Body) -> Reply:
        number, bot = _optional_int(body, "id"), _optional_text(body, "bot")
        kind = _optional_text(body, "kind")
        kept = tuple(
            fault
            for fault in self._hub.faults
            if not (
                (number is None or fault.number == number)
                and (bot is None or fault.bot == bot)
                and (kind is None or fault.kind == kind)
            )
        )
        cleared = len(self._hub.faults) - len(kept)
        self._hub.set_faults(kept)
        return {"cleared": cleared}

    def _strike(self, blow: Blow, bot: Bot) -> int:
        keys = self._hub.keyring.of(bot.id)
        for key in keys:
            if blow is Blow.KEY_DESTROYED:
                self._hub.keyring.destroy(key)
                self._hub.store.remove_key(key)
            else:
                self._hub.keyring.bind(key, None)
                self._hub.store.save_key(key)
        return len(keys)

    # --- the server itself ---

    async def _status(self, _body: Body) -> Reply:
        world = self._hub.world
        connections = Counter(
            link.key.account_id for link in self._hub.links if link.key is not None
        )
        return {
            "address": self._address.to_json(),
            "uptime_s": round(SYSTEM.monotonic() - self._started_s, 3),
            "connections": len(self._hub.links),
            "personas": [persona.name for persona in world.personas.values()],
            "accounts": [
                self._account_json(bot, connections[bot.id]) for bot in world.bots.values()
            ],
            "requests": dict(self._hub.requests),
            "unknown_requests": dict(self._hub.unknown),
            "faults": len(self._hub.faults),
        }

    def _account_json(self, bot: Bot, connections: int) -> Reply:
        tally = self._hub.tallies.get(bot.id, Tally())
        return {
            "name": bot.name,
            "username": bot.username,
            "user_id": bot.id,
            "connections": connections,
            "peak_connections": tally.peak_connections,
            "logins": tally.logins,
            "cold_logins": tally.cold_logins,
            "auth_keys": len(self._hub.keyring.of(bot.id)),
            "duplicated": tally.duplicated,
            "authorised_at_s": tally.authorised_at_s,
            "updates_pending": self._hub.world.undelivered_count(bot),
            "messages_in": tally.messages_in,
            "messages_out": tally.messages_out,
            "pts": bot.pts,
        }

    async def _shutdown(self, _body: Body) -> Reply:
        asyncio.get_running_loop().call_soon(self._stop.set)
        return {"stopping": True}

    # --- helpers ---

    def _bot(self, body: Body, key: str = "bot") -> Bot:
        return self._hub.world.bot_named(_text(body, key))

    def _bots(self, body: Body) -> list[Bot]:
        return list(self._hub.world.bots.values()) if body.get("bot") is None else [self._bot(body)]

    def _message_of(self, body: Body) -> tuple[Bot, ChatMessage]:
        bot, persona = self._bot(body), self._people.known_persona(_text(body, "user"))
        message_id = _optional_int(body, "message_id")
        message = self._hub.world.message(bot, message_id or 0)
        if message is None or message.peer_id != persona.id:
            raise UsageError(f"no message {message_id} between {persona.name!r} and {bot.name!r}")
        return bot, message

    def _own_message(self, body: Body) -> tuple[Bot, ChatMessage]:
        bot, message = self._message_of(body)
        if message.out:
            raise UsageError("a user can edit only what the user wrote")
        return bot, message


async def _gather(
    queue: asyncio.Queue[HubEvent], body: Body, stop: Callable[[HubEvent], bool]
) -> list[HubEvent]:
    """Events until one that `stop` accepts and then a quiet moment, or until the time is up."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + _seconds(body, "wait_s", WAIT_S)
    quiet_s = _seconds(body, "quiet_s", QUIET_S)
    events: list[HubEvent] = []
    found = False
    while True:
        limit_s = end_s - loop.time()
        if limit_s <= 0:
            return events
        try:
            async with asyncio.timeout(min(limit_s, quiet_s) if found else limit_s):
                event = await queue.get()
        except TimeoutError:
            return events
        events.append(event)
        found = found or stop(event)


def _is_from_bot(event: HubEvent) -> bool:
    return bool(event.body["event"] in ("new", "edit") and event.body["message"]["from"] == "bot")


def _is_own(event: HubEvent, message: ChatMessage) -> bool:
    shown = event.body.get("message")
    return shown is not None and shown["id"] == message.id and event.body["event"] == "new"


def _latest(events: list[HubEvent]) -> list[Reply]:
    """The bot's messages in these events, each once, in its last form, without deleted ones."""
    shown: dict[int, Reply] = {}
    for event in events:
        message = event.body.get("message")
        if message is None or message["from"] != "bot":
            continue
        if event.body["event"] == "delete":
            shown.pop(message["id"], None)
        else:
            shown[message["id"]] = message
    return list(shown.values())


def _bot_json(bot: Bot) -> Reply:
    return {"name": bot.name, "username": bot.username, "user_id": bot.id, "token": bot.token}


def _text(body: Body, key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{key!r} must be a non-empty text")
    return value


def _optional_text(body: Body, key: str) -> str | None:
    return None if body.get(key) is None else _text(body, key)


def _optional_int(body: Body, key: str) -> int | None:
    value = body.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{key!r} must be a whole number")
    return value


def _seconds(body: Body, key: str, default: float) -> float:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 86_400:
        raise UsageError(f"{key!r} must be a number of seconds, 0 to 86400")
    return float(value)
