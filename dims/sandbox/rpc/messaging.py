"""RPC handlers for messages in private chats: send, edit, delete, fetch, typing, callback answers.

Source of limits and errors: https://core.telegram.org/method/messages.sendMessage and its kin.
"""

from __future__ import annotations

from typing import Any

from telethon.tl import types

from dims.sandbox.mtproto.wire import Result
from dims.sandbox.rpc.call import Signed
from dims.sandbox.rpc.requests import RpcFault
from dims.sandbox.telegram import views
from dims.sandbox.telegram.box import ChatMessage, Draft, UserId

TEXT_LIMIT = 4096
"""UTF-16 units in a message."""
BUTTON_DATA_LIMIT_BYTES = 64
ENTITY_LIMIT = 100
GET_LIMIT = 100


def send_message(call: Signed) -> Result:
    """messages.sendMessage.

    A repeated random_id posts nothing and answers the first message once more with pts_count 0, as
    Telegram does (github.com/hydrogram/hydrogram/issues/70); with another chat or text it is an
    error 500 RANDOM_ID_DUPLICATE.
    """
    request = call.request
    peer_id = _peer(call, request.peer)
    draft = _draft(request)
    box = call.world.box(call.bot)
    earlier = box.by_random_id.get(request.random_id)
    if earlier is not None:
        return _repeat(call, box.messages[earlier], peer_id, draft)
    if draft.reply_to is not None and call.world.message(call.bot, draft.reply_to) is None:
        draft = Draft(draft.text, draft.entities, draft.markup, None, draft.random_id)
    change = call.world.post(call.bot, peer_id, draft, out=True, now_s=int(call.now_s))
    call.hub.publish(change, call.link)
    return types.UpdateShortSentMessage(
        id=change.messages[0].id,
        pts=change.pts,
        pts_count=1,
        date=views.date(call.now_s),
        out=True,
        entities=list(draft.entities) or None,
    )


def edit_message(call: Signed) -> Result:
    """messages.editMessage; a missing text keeps the old one."""
    request = call.request
    peer_id = _peer(call, request.peer)
    message = call.world.message(call.bot, request.id)
    if message is None or message.peer_id != peer_id:
        raise RpcFault(400, "MESSAGE_ID_INVALID")
    if not message.out:
        raise RpcFault(403, "MESSAGE_AUTHOR_REQUIRED")
    draft = _draft(request, message)
    if _same(message, draft):
        raise RpcFault(400, "MESSAGE_NOT_MODIFIED")
    change = call.world.edit(call.bot, message, draft, int(call.now_s))
    call.hub.publish(change, call.link)
    return views.updates(call.world, change, call.now_s)


def delete_messages(call: Signed) -> Result:
    """messages.deleteMessages; ids that do not exist are passed over in silence."""
    found = (call.world.message(call.bot, message_id) for message_id in call.request.id)
    change = call.world.delete(call.bot, [message for message in found if message is not None])
    call.hub.publish(change, call.link)
    return types.messages.AffectedMessages(change.pts, change.pts_count)


def get_messages(call: Signed) -> Result:
    """messages.getMessages; a missing one is a MessageEmpty."""
    if len(call.request.id) > GET_LIMIT:
        raise RpcFault(400, "LIMIT_INVALID")
    found: list[Any] = []
    peers: list[UserId] = []
    for wanted in call.request.id:
        message = _wanted(call, wanted)
        if message is None:
            found.append(types.MessageEmpty(id=getattr(wanted, "id", 0)))
        else:
            found.append(views.message(call.bot, message))
            peers.append(message.peer_id)
    people = views.users(call.world, call.bot, [*peers, call.bot.id] if peers else [])
    return types.messages.Messages(found, [], [], people)


def set_typing(call: Signed) -> Result:
    """messages.setTyping."""
    peer_id = _peer(call, call.request.peer)
    action = type(call.request.action).__name__.removeprefix("SendMessage").removesuffix("Action")
    call.hub.tell(call.bot, peer_id, "typing", action=action.lower())
    return True


def set_bot_callback_answer(call: Signed) -> Result:
    """messages.setBotCallbackAnswer; each press can be answered once."""
    query = call.hub.queries.pop(call.request.query_id, None)
    if query is None or query.bot_id != call.bot.id:
        raise RpcFault(400, "QUERY_ID_INVALID")
    request = call.request
    if len(request.message or "") > 200:
        raise RpcFault(400, "MESSAGE_TOO_LONG")
    call.hub.tell(
        call.bot,
        query.user_id,
        "callback_answer",
        query_id=str(request.query_id),
        text=request.message,
        alert=bool(request.alert),
        url=request.url,
    )
    return True


def _peer(call: Signed, peer: Any) -> UserId:
    if not isinstance(peer, types.InputPeerUser):
        raise RpcFault(400, "PEER_ID_INVALID")
    user_id = UserId(peer.user_id)
    if user_id in call.world.bots:
        raise RpcFault(400, "USER_IS_BOT")
    named = peer.access_hash in (0, call.world.access_hash(call.bot.id, user_id))
    # A bot can answer only those who wrote first.
    if not named or not call.world.has_seen(call.bot, user_id):
        raise RpcFault(400, "PEER_ID_INVALID")
    return user_id


def _draft(request: Any, old: ChatMessage | None = None) -> Draft:
    text = request.message
    entities = tuple(map(_kept_entity, request.entities or ()))
    if old is not None and text is None:
        text, entities = old.text, old.entities
    if not text.strip():
        raise RpcFault(400, "MESSAGE_EMPTY")
    if len(text) > TEXT_LIMIT or len(text.encode("utf-16-le")) > 2 * TEXT_LIMIT:
        raise RpcFault(400, "MESSAGE_TOO_LONG")
    if len(entities) > ENTITY_LIMIT:
        raise RpcFault(400, "ENTITIES_TOO_LONG")
    _check_markup(request.reply_markup)
    reply = getattr(request, "reply_to", None)
    return Draft(
        text=text,
        entities=entities,
        markup=request.reply_markup,
        reply_to=getattr(reply, "reply_to_msg_id", None),
        random_id=getattr(request, "random_id", None),
    )


def _kept_entity(entity: Any) -> Any:
    if isinstance(entity, types.InputMessageEntityMentionName):
        user_id = getattr(entity.user_id, "user_id", 0)
        return types.MessageEntityMentionName(entity.offset, entity.length, user_id)
    return entity


def _check_markup(markup: Any) -> None:
    if markup is None:
        return
    for row in getattr(markup, "rows", ()):
        for button in row.buttons:
            if not button.text:
                raise RpcFault(400, "BUTTON_TEXT_INVALID")
            kind = getattr(button, "type", None)
            if isinstance(kind, types.InlineButtonTypeCallback) and not (
                0 < len(kind.data) <= BUTTON_DATA_LIMIT_BYTES
            ):
                raise RpcFault(400, "BUTTON_DATA_INVALID")
            if isinstance(kind, types.InlineButtonTypeUrl) and ":" not in kind.url:
                raise RpcFault(400, "BUTTON_URL_INVALID")


def _same(message: ChatMessage, draft: Draft) -> bool:
    return (
        message.text == draft.text
        and message.markup == draft.markup
        and message.entities == draft.entities
    )


def _repeat(call: Signed, message: ChatMessage, peer_id: UserId, draft: Draft) -> Result:
    if message.peer_id != peer_id or (message.text != draft.text and not message.edited_pts):
        raise RpcFault(500, "RANDOM_ID_DUPLICATE")
    parts = [
        types.UpdateMessageID(id=message.id, random_id=message.random_id),
        types.UpdateNewMessage(views.message(call.bot, message), message.created_pts, 0),
    ]
    return views.bundle(call.world, call.bot, parts, [peer_id, call.bot.id], call.now_s)


def _wanted(call: Signed, wanted: Any) -> ChatMessage | None:
    message = call.world.message(call.bot, getattr(wanted, "id", 0))
    if isinstance(wanted, types.InputMessageReplyTo) and message is not None:
        return call.world.message(call.bot, message.reply_to or 0)
    return message
