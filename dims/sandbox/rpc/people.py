"""What personas do: write, edit, delete, press. They act through the control API only."""

from __future__ import annotations

import re
import secrets
from typing import Any

from telethon.tl import types

from dims.errors import UsageError
from dims.sandbox.rpc.messaging import TEXT_LIMIT
from dims.sandbox.telegram import views
from dims.sandbox.telegram.accounts import Bot, Persona
from dims.sandbox.telegram.box import ChatMessage, Draft
from dims.sandbox.telegram.hub import Hub, Query

_COMMAND = re.compile(r"(?<!\S)/[A-Za-z0-9_]{1,32}(@[A-Za-z0-9_]{3,32})?")
QUERY_LIMIT = 10_000
"""Presses that wait for an answer; the oldest are forgotten, as Telegram forgets them in time."""


class People:
    """All personas; raises UsageError for what Telegram's apps would not let a user do."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def persona(self, name: str) -> Persona:
        """The persona called `name`, made and stored if there is none."""
        found = self._hub.world.persona_named(name)
        if found is None:
            found = self._hub.world.create_persona(name)
            self._hub.store.save_persona(found)
        return found

    def known_persona(self, name: str) -> Persona:
        """The persona called `name`; raises UsageError if there is none."""
        found = self._hub.world.persona_named(name)
        if found is None:
            raise UsageError(f"no user {name!r} in the sandbox", hint="a first message makes one")
        return found

    def say(self, bot: Bot, persona: Persona, text: str, reply_to: int | None) -> ChatMessage:
        """Writes to the bot; slash commands are marked, as Telegram's server does."""
        if reply_to is not None and self._hub.world.message(bot, reply_to) is None:
            raise UsageError(f"no message {reply_to} to reply to")
        draft = Draft(_checked(text), _commands(text), None, reply_to)
        now_s = int(self._hub.clock())
        change = self._hub.world.post(bot, persona.id, draft, out=False, now_s=now_s)
        self._hub.publish(change)
        return change.messages[0]

    def edit(self, bot: Bot, message: ChatMessage, text: str) -> None:
        """Replaces the text of the persona's own message."""
        draft = Draft(_checked(text), _commands(text), message.markup)
        now_s = int(self._hub.clock())
        self._hub.publish(self._hub.world.edit(bot, message, draft, now_s))

    def delete(self, bot: Bot, message: ChatMessage) -> None:
        """Deletes a message for both sides."""
        self._hub.publish(self._hub.world.delete(bot, [message]))

    def find_button(self, message: ChatMessage, label: str | None, data: str | None) -> bytes:
        """The data of the callback button with this label or this data; raises UsageError."""
        buttons = [button for row in getattr(message.markup, "rows", ()) for button in row.buttons]
        for button in buttons:
            kind = getattr(button, "type", None)
            if not isinstance(kind, types.InlineButtonTypeCallback):
                continue
            shown = kind.data.decode("utf-8", "backslashreplace")
            if label in (None, button.text) and data in (None, shown) and (label or data):
                return bytes(kind.data)
        labels = ", ".join(repr(button.text) for button in buttons) or "none"
        raise UsageError(f"no such button under message {message.id}; it has: {labels}")

    def press(self, bot: Bot, message: ChatMessage, data: bytes) -> int:
        """Presses a callback button; returns the query id that the bot must answer.

        A bot that is not connected never learns of it: presses are no part of a difference.
        """
        query_id = secrets.randbits(63)
        queries = self._hub.queries
        queries[query_id] = Query(bot.id, message.peer_id)
        if len(queries) > QUERY_LIMIT:
            del queries[next(iter(queries))]
        self._hub.push(bot, lambda: self._query(bot, message, data, query_id))
        return query_id

    def _query(self, bot: Bot, message: ChatMessage, data: bytes, query_id: int) -> Any:
        update = types.UpdateBotCallbackQuery(
            query_id=query_id,
            user_id=message.peer_id,
            peer=types.PeerUser(message.peer_id),
            msg_id=message.id,
            chat_instance=self._hub.world.access_hash(message.peer_id, bot.id),
            data=data,
        )
        people = [message.peer_id, bot.id]
        return views.bundle(self._hub.world, bot, [update], people, self._hub.clock())


def _checked(text: str) -> str:
    if not text.strip():
        raise UsageError("a message needs a text")
    if len(text.encode("utf-16-le")) > 2 * TEXT_LIMIT:
        raise UsageError(f"a message may have {TEXT_LIMIT} characters")
    return text


def _commands(text: str) -> tuple[Any, ...]:
    return tuple(
        types.MessageEntityBotCommand(_units(text[: found.start()]), _units(found.group()))
        for found in _COMMAND.finditer(text)
    )


def _units(text: str) -> int:
    """Length in UTF-16 units, in which Telegram counts."""
    return len(text.encode("utf-16-le")) // 2
