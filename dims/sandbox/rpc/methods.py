"""Answers to RPC requests about accounts, users and update state; the table of all handlers.

Source: https://core.telegram.org/methods. Errors carry Telegram's own names. A handler gets the
call and returns the result; what it changes it publishes through the hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from telethon.tl import functions, types
from telethon.tl.tlobject import TLObject

from dims.sandbox.mtproto.wire import Result
from dims.sandbox.rpc import messaging
from dims.sandbox.rpc.call import Call, Signed
from dims.sandbox.rpc.requests import RpcFault
from dims.sandbox.telegram import views
from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.box import UserId

DIFFERENCE_LIMIT = 100
"""Changes in one slice of updates.getDifference."""
COMMAND = re.compile(r"[a-z0-9_]{1,32}")


def get_config(call: Call) -> Result:
    """help.getConfig: one data centre, the address we listen on."""
    address = call.server.address
    return types.Config(
        date=views.date(call.now_s),
        expires=views.date(call.now_s) + timedelta(hours=1),
        test_mode=False,
        this_dc=address.dc_id,
        dc_options=[types.DcOption(id=address.dc_id, ip_address=address.host, port=address.port)],
        dc_txt_domain_name="",
        message_length_max=messaging.TEXT_LIMIT,
        caption_length_max=1024,
        me_url_prefix="https://t.me/",
        webfile_dc_id=address.dc_id,
        **_CONFIG,
    )


def get_nearest_dc(call: Call) -> Result:
    """help.getNearestDc."""
    dc_id = call.server.address.dc_id
    return types.NearestDc(country="XX", this_dc=dc_id, nearest_dc=dc_id)


def import_bot_authorization(call: Call) -> Result:
    """auth.importBotAuthorization: signs the key in; durable before the answer."""
    bot = call.world.bot_with_token(call.request.bot_auth_token)
    if bot is None:
        raise RpcFault(400, "ACCESS_TOKEN_INVALID")
    call.hub.keyring.bind(call.key, bot.id)
    call.hub.store.save_key(call.key)
    tally = call.hub.tally(bot)
    tally.logins += 1
    tally.cold_logins += 1
    if not call.hub.act(call.link, call.key):
        raise call.duplicated()
    return types.auth.Authorization(user=views.bot_user(call.world, bot.id, bot))


def log_out(call: Signed) -> Result:
    """auth.logOut: the key lives on, signed in as nobody."""
    call.hub.keyring.bind(call.key, None)
    call.hub.store.save_key(call.key)
    return types.auth.LoggedOut()


def get_state(call: Signed) -> Result:
    """updates.getState: a client that asks takes all before as known."""
    _delivered(call, call.bot.pts)
    return views.state(call.bot.pts, call.now_s)


def get_difference(call: Signed) -> Result:
    """updates.getDifference, in slices."""
    pts = call.request.pts
    if pts < 1:
        raise RpcFault(400, "PERSISTENT_TIMESTAMP_EMPTY")
    if pts > call.bot.pts:
        raise RpcFault(400, "PERSISTENT_TIMESTAMP_INVALID")
    limit = min(DIFFERENCE_LIMIT, call.request.pts_limit or DIFFERENCE_LIMIT)
    found = call.world.difference(call.bot, pts, max(1, limit))
    if found is None:
        _delivered(call, call.bot.pts)
        return types.updates.DifferenceTooLong(call.bot.pts)
    _delivered(call, found.pts)
    if found.is_final and found.pts == pts:
        return types.updates.DifferenceEmpty(views.date(call.now_s), 1)
    return views.difference(call.world, call.bot, found, call.now_s)


def get_users(call: Signed) -> Result:
    """users.getUsers: those the bot may see; the others are left out."""
    found = [find_user(call, user) for user in call.request.id]
    return views.users(call.world, call.bot, [user_id for user_id in found if user_id is not None])


def get_full_user(call: Signed) -> Result:
    """users.getFullUser, with little in it."""
    user_id = find_user(call, call.request.id)
    if user_id is None:
        raise RpcFault(400, "USER_ID_INVALID")
    full = types.UserFull(
        id=user_id,
        settings=types.PeerSettings(),
        notify_settings=types.PeerNotifySettings(),
        common_chats_count=0,
    )
    return types.users.UserFull(full, [], views.users(call.world, call.bot, [user_id]))


def find_user(call: Signed, user: Any) -> UserId | None:
    """Whom an InputUser names, if this bot may see them.

    A bot may leave out the access hash (0) of a user who has talked to it.
    """
    if isinstance(user, types.InputUserSelf):
        return call.bot.id
    if not isinstance(user, types.InputUser):
        return None
    user_id = UserId(user.user_id)
    if user_id == call.bot.id:
        return user_id
    if user.access_hash == call.world.access_hash(call.bot.id, user_id):
        return user_id
    may = user.access_hash == 0 and call.world.has_seen(call.bot, user_id)
    return user_id if may else None


def resolve_username(call: Signed) -> Result:
    """contacts.resolveUsername."""
    username = call.request.username.lstrip("@")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{2,31}", username):
        raise RpcFault(400, "USERNAME_INVALID")
    user_id = call.world.resolve_username(username)
    if user_id is None:
        raise RpcFault(400, "USERNAME_NOT_OCCUPIED")
    people = views.users(call.world, call.bot, [user_id])
    return types.contacts.ResolvedPeer(types.PeerUser(user_id), [], people)


def set_bot_commands(call: Signed) -> Result:
    """bots.setBotCommands: durable before the answer."""
    commands = [(command.command, command.description) for command in call.request.commands]
    if len(commands) > 100:
        raise RpcFault(400, "BOT_COMMANDS_TOO_MUCH")
    for command, description in commands:
        if not COMMAND.fullmatch(command):
            raise RpcFault(400, "BOT_COMMAND_INVALID")
        if not 1 <= len(description) <= 256:
            raise RpcFault(400, "BOT_COMMAND_DESCRIPTION_INVALID")
    call.bot.commands[_scope(call)] = commands
    call.hub.store.save_bot(call.bot)
    return True


def get_bot_commands(call: Signed) -> Result:
    """bots.getBotCommands of exactly this scope and language."""
    return [types.BotCommand(*each) for each in call.bot.commands.get(_scope(call), ())]


def reset_bot_commands(call: Signed) -> Result:
    """bots.resetBotCommands of exactly this scope and language."""
    call.bot.commands.pop(_scope(call), None)
    call.hub.store.save_bot(call.bot)
    return True


def refuse_bot(_call: Signed) -> Result:
    """What only user accounts may ask."""
    raise RpcFault(400, "BOT_METHOD_INVALID")


def _delivered(call: Signed, pts: int) -> None:
    if call.world.mark_delivered(call.bot, pts):
        call.hub.save_later(call.bot)


def _scope(call: Signed) -> str:
    kind = type(call.request.scope).__name__.removeprefix("BotCommandScope").lower()
    return f"{kind}/{call.request.lang_code}"


_CONFIG: dict[str, int] = {
    "chat_size_max": 200,
    "megagroup_size_max": 200_000,
    "forwarded_count_max": 100,
    "online_update_period_ms": 210_000,
    "offline_blur_timeout_ms": 5_000,
    "offline_idle_timeout_ms": 30_000,
    "online_cloud_timeout_ms": 300_000,
    "notify_cloud_delay_ms": 30_000,
    "notify_default_delay_ms": 1_500,
    "push_chat_period_ms": 60_000,
    "push_chat_limit": 2,
    "edit_time_limit": 172_800,
    "revoke_time_limit": 2_147_483_647,
    "revoke_pm_time_limit": 2_147_483_647,
    "rating_e_decay": 2_419_200,
    "stickers_recent_limit": 200,
    "channels_read_media_period": 604_800,
    "call_receive_timeout_ms": 20_000,
    "call_ring_timeout_ms": 90_000,
    "call_connect_timeout_ms": 30_000,
    "call_packet_timeout_ms": 10_000,
}

OPEN: dict[type[TLObject], Callable[[Call], Result]] = {
    functions.help.GetConfigRequest: get_config,
    functions.help.GetNearestDcRequest: get_nearest_dc,
    functions.auth.ImportBotAuthorizationRequest: import_bot_authorization,
}
"""Requests that need no signed-in account."""

SIGNED: dict[type[TLObject], Callable[[Signed], Result]] = {
    functions.auth.LogOutRequest: log_out,
    functions.updates.GetStateRequest: get_state,
    functions.updates.GetDifferenceRequest: get_difference,
    functions.users.GetUsersRequest: get_users,
    functions.users.GetFullUserRequest: get_full_user,
    functions.contacts.ResolveUsernameRequest: resolve_username,
    functions.bots.SetBotCommandsRequest: set_bot_commands,
    functions.bots.GetBotCommandsRequest: get_bot_commands,
    functions.bots.ResetBotCommandsRequest: reset_bot_commands,
    functions.messages.SendMessageRequest: messaging.send_message,
    functions.messages.EditMessageRequest: messaging.edit_message,
    functions.messages.DeleteMessagesRequest: messaging.delete_messages,
    functions.messages.GetMessagesRequest: messaging.get_messages,
    functions.messages.SetTypingRequest: messaging.set_typing,
    functions.messages.SetBotCallbackAnswerRequest: messaging.set_bot_callback_answer,
    **dict.fromkeys(
        (
            functions.messages.GetDialogsRequest,
            functions.messages.GetPeerDialogsRequest,
            functions.messages.GetPinnedDialogsRequest,
            functions.messages.GetHistoryRequest,
            functions.messages.SearchRequest,
            functions.messages.SearchGlobalRequest,
            functions.messages.ReadHistoryRequest,
            functions.messages.DeleteHistoryRequest,
            functions.messages.GetBotCallbackAnswerRequest,
            functions.messages.GetInlineBotResultsRequest,
            functions.messages.GetScheduledHistoryRequest,
            functions.contacts.GetContactsRequest,
            functions.contacts.SearchRequest,
            functions.contacts.ImportContactsRequest,
            functions.contacts.AddContactRequest,
            functions.account.UpdateStatusRequest,
            functions.account.GetAuthorizationsRequest,
            functions.account.UpdateProfileRequest,
            functions.channels.JoinChannelRequest,
            functions.channels.CreateChannelRequest,
            functions.messages.CreateChatRequest,
        ),
        refuse_bot,
    ),
}
"""Requests of a signed-in bot."""


def answer(call: Call, bot: Bot | None) -> Result:
    """The result of any request; raises RpcFault."""
    open_handler = OPEN.get(type(call.request))
    if open_handler is not None:
        return open_handler(call)
    handler = SIGNED.get(type(call.request))
    if bot is None:
        raise RpcFault(401, "AUTH_KEY_UNREGISTERED")
    if handler is None:
        call.hub.unknown[call.name] += 1
        raise RpcFault(400, "METHOD_INVALID")
    return handler(call.sign(bot))
