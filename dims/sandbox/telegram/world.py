"""Who there is and what was said: bots, personas, messages, pts. Pure; knows no TL and no clock.

Each bot has one message box with its own message ids and one `pts`, as every Telegram account has
(https://core.telegram.org/api/updates). A persona has no box: it sees the bot's ids. Every change
raises `pts` by one per message, so a message's own numbers are enough to compute any difference.
"""

from __future__ import annotations

import base64
import hmac
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dims.errors import UsageError
from dims.sandbox.telegram.accounts import Bot, Persona
from dims.sandbox.telegram.box import Box, ChangeKind, ChatMessage, Difference, Draft, UserId

FIRST_BOT_ID = 7_000_000_001
FIRST_PERSONA_ID = 5_000_000_001
TOKEN_FORMAT = re.compile(r"[0-9]{5,16}:[A-Za-z0-9_-]{35}")
BOX_LIMIT = 20_000
"""Messages kept per bot, as a sandbox that runs for weeks must not grow for ever."""
NAME_FORMAT = re.compile(r"[^\x00-\x1f]{1,64}")


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a bot's pts: after it, pts is `pts`, and `pts_count` lower before."""

    bot: Bot
    kind: ChangeKind
    messages: tuple[ChatMessage, ...]
    pts: int
    pts_count: int


class World:
    """All accounts; `secret` makes tokens and access hashes, `load` reads a box from disk once."""

    def __init__(
        self, secret: bytes, load: Callable[[UserId], Iterable[ChatMessage]] = lambda _: ()
    ) -> None:
        self._secret = secret
        self._load = load
        self._hashes: dict[tuple[UserId, UserId], int] = {}
        self.bots: dict[UserId, Bot] = {}
        self.personas: dict[UserId, Persona] = {}
        self._bots_by_name: dict[str, Bot] = {}
        self._bots_by_token: dict[str, Bot] = {}
        self._personas_by_name: dict[str, Persona] = {}
        self._by_username: dict[str, UserId] = {}

    # --- accounts ---

    def add_bot(self, bot: Bot) -> None:
        """Takes a loaded bot in."""
        self.bots[bot.id] = bot
        self._bots_by_name[bot.name] = bot
        self._bots_by_token[bot.token] = bot
        self._by_username[bot.username.lower()] = bot.id

    def add_persona(self, persona: Persona) -> None:
        """Takes a loaded persona in."""
        self.personas[persona.id] = persona
        self._personas_by_name[persona.name] = persona
        if persona.username is not None:
            self._by_username.setdefault(persona.username.lower(), persona.id)

    def create_bot(self, name: str, token: str | None = None) -> Bot:
        """The bot called `name`, made if there is none; a given token becomes its token.

        Raises UsageError when the name or the token is not valid or belongs to another bot.
        """
        _check_name(name)
        bot = self._bots_by_name.get(name)
        if token is None:
            return bot or self._new_bot(name, self._free_bot_id(), None)
        if not TOKEN_FORMAT.fullmatch(token):
            raise UsageError(
                "not a bot token", hint="a token looks like 7000000001:35 letters, digits, - or _"
            )
        owner = self._bots_by_token.get(token)
        if owner is not None and owner.name != name:
            raise UsageError(f"this token belongs to bot {owner.name!r}")
        if bot is None:
            user_id = UserId(int(token.split(":", 1)[0]))
            if user_id in self.bots or user_id in self.personas:
                raise UsageError(f"the id {user_id} of this token belongs to another account")
            return self._new_bot(name, user_id, token)
        if bot.token != token:
            self._set_token(bot, token)
        return bot

    def revoke_token(self, bot: Bot) -> None:
        """Gives the bot a new token; the old one is unknown from now on."""
        bot.token_generation += 1
        self._set_token(bot, self._make_token(bot.id, bot.token_generation))

    def bot_named(self, name: str) -> Bot:
        """The bot called `name`; raises UsageError."""
        try:
            return self._bots_by_name[name]
        except KeyError:
            raise UsageError(f"no bot {name!r} in the sandbox", hint="create it first") from None

    def bot_with_token(self, token: str) -> Bot | None:
        """The bot that `token` belongs to."""
        return self._bots_by_token.get(token)

    def persona_named(self, name: str) -> Persona | None:
        """The persona called `name`."""
        return self._personas_by_name.get(name)

    def create_persona(self, name: str) -> Persona:
        """The persona called `name`, made if there is none; raises UsageError on a bad name."""
        found = self._personas_by_name.get(name)
        if found is not None:
            return found
        _check_name(name)
        slug = _slug(name)
        username = None if len(slug) < 4 or slug in self._by_username else slug
        persona = Persona(
            UserId(max(self.personas, default=UserId(FIRST_PERSONA_ID - 1)) + 1), name, username
        )
        self.add_persona(persona)
        return persona

    def resolve_username(self, username: str) -> UserId | None:
        """Whose username it is, whatever the case."""
        return self._by_username.get(username.lower())

    def access_hash(self, viewer: UserId, viewed: UserId) -> int:
        """The number by which `viewer` may name `viewed`; the same for ever, signed 64 bits."""
        found = self._hashes.get((viewer, viewed))
        if found is None:
            digest = hmac.digest(self._secret, b"hash %d %d" % (viewer, viewed), "sha256")
            found = int.from_bytes(digest[:8], "little", signed=True) or 1
            self._hashes[viewer, viewed] = found
        return found

    def has_seen(self, bot: Bot, user_id: UserId) -> bool:
        """Whether this persona has ever talked to the bot."""
        return user_id in self.box(bot).peers

    # --- messages ---

    def box(self, bot: Bot) -> Box:
        """The bot's messages, read from disk at the first call."""
        if bot.box is None:
            bot.box = Box()
            for message in self._load(bot.id):
                bot.box.add(message)
                if not message.out and message.created_pts > bot.delivered_pts:
                    bot.undelivered.add(message.created_pts)
        return bot.box

    def message(self, bot: Bot, message_id: int) -> ChatMessage | None:
        """The message, unless it was deleted."""
        found = self.box(bot).messages.get(message_id)
        return None if found is None or found.deleted_pts else found

    def history(self, bot: Bot, peer_id: UserId, limit: int) -> list[ChatMessage]:
        """The last `limit` messages of one chat that were not deleted, oldest first."""
        found: list[ChatMessage] = []
        for message in reversed(self.box(bot).messages.values()):
            if len(found) >= limit:
                break
            if message.peer_id == peer_id and not message.deleted_pts:
                found.append(message)
        return found[::-1]

    def post(self, bot: Bot, peer_id: UserId, draft: Draft, *, out: bool, now_s: int) -> Change:
        """A new message in the bot's chat with `peer_id`."""
        box = self.box(bot)
        bot.last_message_id += 1
        bot.pts += 1
        message = ChatMessage(
            id=bot.last_message_id,
            peer_id=peer_id,
            out=out,
            date_s=now_s,
            text=draft.text,
            entities=draft.entities,
            markup=draft.markup,
            reply_to=draft.reply_to,
            random_id=draft.random_id,
            created_pts=bot.pts,
        )
        box.add(message)
        return Change(bot, ChangeKind.NEW, (message,), bot.pts, 1)

    def edit(self, bot: Bot, message: ChatMessage, draft: Draft, now_s: int) -> Change:
        """Replaces text, entities and markup of a message."""
        bot.pts += 1
        message.text, message.entities, message.markup = draft.text, draft.entities, draft.markup
        message.edit_date_s = now_s
        self._supersede(bot, message.edited_pts, message.id)
        message.edited_pts = bot.pts
        self.box(bot).changes.append((bot.pts, message.id))
        return Change(bot, ChangeKind.EDIT, (message,), bot.pts, 1)

    def delete(self, bot: Bot, messages: Iterable[ChatMessage]) -> Change:
        """Deletes messages; those that were deleted before do not count."""
        gone: list[ChatMessage] = []
        for message in messages:
            if not message.deleted_pts:
                bot.pts += 1
                message.deleted_pts = bot.pts
                self.box(bot).changes.append((bot.pts, message.id))
                gone.append(message)
        return Change(bot, ChangeKind.DELETE, tuple(gone), bot.pts, len(gone))

    def trim(self, bot: Bot) -> list[int]:
        """Forgets the oldest tenth of a box that is over its limit; returns the ids."""
        box = self.box(bot)
        return box.forget_oldest(BOX_LIMIT // 10) if len(box.messages) > BOX_LIMIT else []

    def difference(self, bot: Bot, pts: int, limit: int) -> Difference | None:
        """The changes after `pts`, at most `limit` of them, each message in its present form.

        None if they are too long ago.
        """
        if pts >= bot.pts:
            return Difference((), (), (), bot.pts, is_final=True)
        box = self.box(bot)
        if pts < box.horizon_pts:
            return None
        start = bisect_right(box.changes, (pts, 1 << 62))
        part = box.changes[start : start + limit]
        is_final = start + limit >= len(box.changes)
        new: list[ChatMessage] = []
        edited: list[tuple[int, ChatMessage]] = []
        deleted: list[tuple[int, ChatMessage]] = []
        for at, message_id in part:
            message = box.messages[message_id]
            if at == message.deleted_pts:
                deleted.append((at, message))
            elif message.deleted_pts:
                continue
            elif at == message.created_pts:
                new.append(message)
            else:
                edited.append((at, message))
        end = bot.pts if is_final else part[-1][0]
        return Difference(tuple(new), tuple(edited), tuple(deleted), end, is_final)

    # --- delivery ---

    def undelivered_count(self, bot: Bot) -> int:
        """Incoming messages and changes that no session of the bot has been sent yet."""
        if bot.delivered_pts < bot.pts:
            self.box(bot)
        return len(bot.undelivered)

    def mark_delivered(self, bot: Bot, pts: int) -> bool:
        """Says that a session was told everything up to `pts`; whether that is news."""
        before = bot.delivered_pts
        bot.undelivered = {waiting for waiting in bot.undelivered if waiting > pts}
        bot.delivered_pts = max(before, pts) if bot.undelivered else bot.pts
        return bot.delivered_pts != before

    def mark_pushed(self, bot: Bot, pts: int) -> None:
        """Says that a session was sent the one change that ended at `pts`."""
        bot.undelivered.discard(pts)
        if not bot.undelivered:
            bot.delivered_pts = bot.pts

    # --- helpers ---

    def _supersede(self, bot: Bot, pts: int, message_id: int) -> None:
        # Of several edits only the last one is told, as it carries the present form.
        if pts:
            changes = self.box(bot).changes
            changes.pop(bisect_right(changes, (pts, message_id)) - 1)

    def _new_bot(self, name: str, user_id: UserId, token: str | None) -> Bot:
        bot = Bot(user_id, name, self._free_username(name), token or self._make_token(user_id, 0))
        bot.box = Box()
        self.add_bot(bot)
        return bot

    def _set_token(self, bot: Bot, token: str) -> None:
        self._bots_by_token.pop(bot.token, None)
        bot.token = token
        self._bots_by_token[token] = bot

    def _make_token(self, user_id: UserId, generation: int) -> str:
        digest = hmac.digest(self._secret, b"token %d %d" % (user_id, generation), "sha256")
        return f"{user_id}:{base64.urlsafe_b64encode(digest)[:35].decode('ascii')}"

    def _free_bot_id(self) -> UserId:
        user_id = FIRST_BOT_ID + len(self.bots)
        while user_id in self.bots or user_id in self.personas:
            user_id += 1
        return UserId(user_id)

    def _free_username(self, name: str) -> str:
        stem = _slug(name)[:24]
        stem = stem.removesuffix("_bot").removesuffix("bot").rstrip("_") or "x"
        username, number = f"{stem}_bot", 1
        while username in self._by_username:
            number += 1
            username = f"{stem}{number}_bot"
        return username


def _check_name(name: str) -> None:
    if not NAME_FORMAT.fullmatch(name) or not name.strip():
        raise UsageError(f"{name!r} is no name", hint="use 1 to 64 printable characters")


def _slug(name: str) -> str:
    """`name` as a username: small letters, digits and _, a letter first, at most 32."""
    return re.sub(r"[^a-z0-9_]+", "_", name.lower()).lstrip("0123456789_").rstrip("_")[:32]
