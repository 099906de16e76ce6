"""The model as others see it: as TL objects for clients, as JSON for the control API."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from telethon.tl import types
from telethon.tl.tlobject import TLObject

from dims.sandbox.telegram.accounts import Bot, Persona
from dims.sandbox.telegram.box import ChangeKind, ChatMessage, Difference, UserId
from dims.sandbox.telegram.world import Change, World


def date(seconds: float) -> datetime:
    """Unix time as Telethon wants it."""
    return datetime.fromtimestamp(int(seconds), UTC)


def bot_user(world: World, viewer: UserId, bot: Bot) -> types.User:
    """A bot as `viewer` sees it."""
    return types.User(
        id=bot.id,
        is_self=viewer == bot.id,
        bot=True,
        bot_nochats=True,
        bot_info_version=1,
        access_hash=world.access_hash(viewer, bot.id),
        first_name=bot.name,
        username=bot.username,
    )


def persona_user(world: World, viewer: UserId, persona: Persona) -> types.User:
    """A persona as `viewer` sees it."""
    return types.User(
        id=persona.id,
        access_hash=world.access_hash(viewer, persona.id),
        first_name=persona.name,
        username=persona.username,
        lang_code="en",
    )


def users(world: World, bot: Bot, user_ids: Iterable[UserId]) -> list[TLObject]:
    """The accounts of these ids, each once, as the bot sees them; unknown ids are left out."""
    found: list[TLObject] = []
    for user_id in dict.fromkeys(user_ids):
        if user_id in world.personas:
            found.append(persona_user(world, bot.id, world.personas[user_id]))
        elif user_id in world.bots:
            found.append(bot_user(world, bot.id, world.bots[user_id]))
    return found


def message(bot: Bot, found: ChatMessage) -> types.Message:
    """A message as the bot sees it. `from_id` is absent in private chats, as in Telegram."""
    return types.Message(
        id=found.id,
        peer_id=types.PeerUser(found.peer_id),
        from_id=types.PeerUser(bot.id) if found.out else None,
        out=found.out,
        date=date(found.date_s),
        message=found.text,
        entities=list(found.entities) or None,
        reply_markup=found.markup,
        reply_to=None
        if found.reply_to is None
        else types.MessageReplyHeader(reply_to_msg_id=found.reply_to),
        edit_date=None if found.edit_date_s is None else date(found.edit_date_s),
    )


def update(change: Change) -> TLObject:
    """A change as one update."""
    match change.kind:
        case ChangeKind.NEW:
            new = message(change.bot, change.messages[0])
            return types.UpdateNewMessage(new, change.pts, change.pts_count)
        case ChangeKind.EDIT:
            edited = message(change.bot, change.messages[0])
            return types.UpdateEditMessage(edited, change.pts, change.pts_count)
        case ChangeKind.DELETE:
            ids = [gone.id for gone in change.messages]
            return types.UpdateDeleteMessages(ids, change.pts, change.pts_count)


def updates(world: World, change: Change, now_s: float) -> types.Updates:
    """A change as it is pushed or answered: with the users it names. seq 0 means "unordered"."""
    peers = [] if change.kind is ChangeKind.DELETE else [change.messages[0].peer_id, change.bot.id]
    return bundle(world, change.bot, [update(change)], peers, now_s)


def bundle(
    world: World, bot: Bot, parts: list[TLObject], peers: Iterable[UserId], now_s: float
) -> types.Updates:
    """Any updates with the users they name."""
    return types.Updates(parts, users(world, bot, peers), [], date(now_s), 0)


def state(pts: int, now_s: float) -> types.updates.State:
    """An update state at `pts`."""
    return types.updates.State(pts=pts, qts=0, date=date(now_s), seq=1, unread_count=0)


def difference(world: World, bot: Bot, found: Difference, now_s: float) -> TLObject:
    """updates.Difference, or a slice of it."""
    new = [message(bot, each) for each in found.new]
    others: list[TLObject] = [
        types.UpdateEditMessage(message(bot, each), pts, 1) for pts, each in found.edited
    ]
    others += [types.UpdateDeleteMessages([each.id], pts, 1) for pts, each in found.deleted]
    peers = [each.peer_id for each in found.new] + [each.peer_id for _, each in found.edited]
    people = users(world, bot, [*peers, bot.id] if peers else [])
    at = state(found.pts, now_s)
    if found.is_final:
        return types.updates.Difference(new, [], others, [], people, at)
    return types.updates.DifferenceSlice(new, [], others, [], people, at)


def message_json(found: ChatMessage) -> dict[str, Any]:
    """A message for the control API."""
    return {
        "id": found.id,
        "from": "bot" if found.out else "user",
        "text": found.text,
        "date_s": found.date_s,
        "edit_date_s": found.edit_date_s,
        "reply_to": found.reply_to,
        "entities": [_entity_json(entity) for entity in found.entities],
        "buttons": buttons_json(found.markup),
        "inline": isinstance(found.markup, types.ReplyInlineMarkup),
    }


def buttons_json(markup: Any) -> list[list[dict[str, Any]]]:
    """Rows of buttons; `data` is text, with bytes that are no UTF-8 as \\xNN."""
    return [[_button_json(button) for button in row.buttons] for row in getattr(markup, "rows", [])]


def _button_json(button: Any) -> dict[str, Any]:
    kind = getattr(button, "type", None)
    shown: dict[str, Any] = {"text": button.text}
    if isinstance(kind, types.InlineButtonTypeCallback):
        shown["data"] = kind.data.decode("utf-8", "backslashreplace")
    elif isinstance(kind, types.InlineButtonTypeUrl):
        shown["url"] = kind.url
    return shown


def _entity_json(entity: Any) -> dict[str, Any]:
    shown = {
        key: value
        for key, value in entity.to_dict().items()
        if isinstance(value, str | int) and key != "_"
    }
    return {"type": type(entity).__name__.removeprefix("MessageEntity"), **shown}
