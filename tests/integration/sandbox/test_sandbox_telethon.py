"""Unmodified Telethon clients against the real sandbox, over real sockets."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from telethon import Button, TelegramClient, errors, events
from telethon.network import ConnectionTcpAbridged, ConnectionTcpFull, ConnectionTcpIntermediate
from telethon.sessions import MemorySession
from telethon.tl import functions, types

from dims.errors import NotRunningError, ServiceError, UsageError
from dims.ipc.links.control_client import ControlClient
from dims.sandbox.mtproto import keys
from dims.sandbox.server import Sandbox

LIMIT_S = 10.0


async def until(fact: Callable[[], Any]) -> Any:
    """Waits for a fact, never for a duration."""
    async with asyncio.timeout(LIMIT_S):
        while not (found := fact()):  # noqa: ASYNC110 (the facts are in clients we do not own)
            await asyncio.sleep(0.005)
        return found


class Town:
    """A running sandbox and what tests do with it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.control = directory / "c.sock"
        self.sandbox = Sandbox(directory / "tg", control=self.control)

    async def ask(self, kind: str, /, **body: Any) -> dict[str, Any]:
        def request() -> dict[str, Any]:
            with ControlClient(self.control, timeout_s=LIMIT_S) as client:
                return client.request(kind, body)

        return await asyncio.to_thread(request)

    async def account(self, name: str = "echo") -> dict[str, Any]:
        status = await self.ask("status")
        return next(account for account in status["accounts"] if account["name"] == name)

    async def restart(self) -> None:
        await self.sandbox.close()
        self.sandbox = Sandbox(self.directory / "tg", control=self.control)
        await self.sandbox.start()

    def session(self) -> MemorySession:
        address = self.sandbox.address
        session = MemorySession()
        session.set_dc(address.dc_id, address.host, address.port)
        return session

    def client(self, session: MemorySession | None = None, **options: Any) -> TelegramClient:
        from telethon.crypto import rsa  # noqa: PLC0415

        key = Path(self.sandbox.address.public_key_file).read_text("ascii")
        rsa.add_key(key, old=False)
        defaults = {"flood_sleep_threshold": 0, "retry_delay": 0.05, "connection_retries": 3}
        return TelegramClient(session or self.session(), 1, "x", **(defaults | options))

    @asynccontextmanager
    async def bot(
        self, name: str = "echo", session: MemorySession | None = None, **options: Any
    ) -> AsyncIterator[TelegramClient]:
        """A signed-in client that echoes; `client.heard` is what it was told."""
        token = (await self.ask("bot.create", name=name))["token"]
        client = self.client(session, **options)
        client.heard = heard = []

        @client.on(events.NewMessage(incoming=True))
        async def on_message(event: Any) -> None:
            heard.append(event.raw_text)
            if not event.raw_text.startswith("quiet"):
                await event.reply(event.raw_text)

        try:
            async with asyncio.timeout(LIMIT_S):
                await client.start(bot_token=token)
            yield client
        finally:
            await client.disconnect()


@pytest.fixture(scope="module")
def key_pem() -> str:
    """One server key for all: making one takes 0.1 s."""
    return keys.generate().private_pem()


@pytest_asyncio.fixture
async def town(tmp_path: Path, key_pem: str) -> AsyncIterator[Town]:
    logging.getLogger("telethon").setLevel(logging.CRITICAL)
    (tmp_path / "tg").mkdir()
    keys.write_file(tmp_path / "tg" / "key.pem", key_pem, 0o600)
    town = Town(tmp_path)
    await town.sandbox.start()
    yield town
    await town.sandbox.close()


@pytest.mark.parametrize(
    "connection", [ConnectionTcpFull, ConnectionTcpAbridged, ConnectionTcpIntermediate]
)
async def test_a_bot_logs_in_and_echoes_over_every_transport(town: Town, connection: type) -> None:
    async with town.bot(connection=connection) as client:
        me = await client.get_me()
        assert (me.username, me.bot) == ("echo_bot", True)
        answer = await town.ask("send", bot="echo", user="ann", text="hello " * 200, quiet_s=0)
        assert [reply["text"] for reply in answer["replies"]] == [("hello " * 200).strip()] or (
            answer["replies"][0]["text"] == "hello " * 200
        )
        assert answer["replies"][0]["reply_to"] == answer["message"]["id"]


async def test_messages_keep_entities_buttons_and_markup(town: Town) -> None:
    async with town.bot() as client:
        await town.ask("send", bot="echo", user="ann", text="/start now", wait_s=0)
        await until(lambda: client.heard)
        buttons = [[Button.inline("Yes", b"y"), Button.url("Site", "https://example.org")]]
        await client.send_message("ann", "**bold** text", buttons=buttons)
        history = await town.ask("history", bot="echo", user="ann")
        first, last = history["messages"][0], history["messages"][-1]
        assert first["entities"] == [{"type": "BotCommand", "offset": 0, "length": 6}]
        assert last["entities"] == [{"type": "Bold", "offset": 0, "length": 4}]
        assert last["buttons"] == [
            [{"text": "Yes", "data": "y"}, {"text": "Site", "url": "https://example.org"}]
        ]
        fetched = await client.get_messages("ann", ids=last["id"])
        assert fetched.buttons[0][0].data == b"y"
        assert fetched.text == "**bold** text"


async def test_a_pressed_button_is_answered_and_its_message_edited(town: Town) -> None:
    async with town.bot() as client:

        @client.on(events.CallbackQuery)
        async def on_press(event: Any) -> None:
            await event.answer("thanks", alert=True)
            await event.edit(f"picked {event.data.decode()}")

        await town.ask("send", bot="echo", user="ann", text="quiet", wait_s=0)
        await until(lambda: client.heard)
        sent = await client.send_message("ann", "pick", buttons=[Button.inline("A", b"a")])
        answer = await town.ask(
            "press", bot="echo", user="ann", message_id=sent.id, button="A", quiet_s=0.1
        )
        assert (answer["answer"]["text"], answer["answer"]["alert"]) == ("thanks", True)
        assert [reply["text"] for reply in answer["replies"]] == ["picked a"]
        with pytest.raises(UsageError, match="it has: "):
            await town.ask("press", bot="echo", user="ann", message_id=sent.id, button="B")
        with pytest.raises(errors.QueryIdInvalidError):
            await client(functions.messages.SetBotCallbackAnswerRequest(1, 0))


async def test_edits_and_deletions_travel_both_ways(town: Town) -> None:
    async with town.bot() as client:
        edited: list[str] = []
        deleted: list[int] = []
        client.add_event_handler(lambda e: _append(edited, e.raw_text), events.MessageEdited)
        client.add_event_handler(lambda e: _append(deleted, *e.deleted_ids), events.MessageDeleted)
        sent = await town.ask("send", bot="echo", user="ann", text="one", quiet_s=0)
        mine, reply = sent["message"]["id"], sent["replies"][0]["id"]
        await town.ask("edit", bot="echo", user="ann", message_id=mine, text="two")
        await until(lambda: edited == ["two"])
        await town.ask("delete", bot="echo", user="ann", message_id=mine)
        await until(lambda: deleted == [mine])
        await client.edit_message("ann", reply, "three")
        await client.delete_messages("ann", [reply, 999])
        history = await town.ask("history", bot="echo", user="ann")
        assert history["messages"] == []
        with pytest.raises(errors.MessageIdInvalidError):
            await client.edit_message("ann", reply, "four")


async def _append(target: list[Any], *values: Any) -> None:
    target.extend(values)


async def test_commands_can_be_set_read_and_reset(town: Town) -> None:
    async with town.bot() as client:
        scope = types.BotCommandScopeDefault()
        commands = [types.BotCommand("start", "begin")]
        assert await client(functions.bots.SetBotCommandsRequest(scope, "", commands))
        await town.restart()
        await until(client.is_connected)
        found = await client(functions.bots.GetBotCommandsRequest(scope, ""))
        assert [(each.command, each.description) for each in found] == [("start", "begin")]
        assert await client(functions.bots.ResetBotCommandsRequest(scope, ""))
        assert await client(functions.bots.GetBotCommandsRequest(scope, "")) == []
        with pytest.raises(errors.BotCommandInvalidError):
            await client(
                functions.bots.SetBotCommandsRequest(scope, "", [types.BotCommand("No!", "x")])
            )


async def test_telegrams_refusals_carry_telegrams_names(town: Town) -> None:
    async with town.bot() as client, town.bot("other"):
        await town.ask("send", bot="echo", user="ann", text="quiet", wait_s=0)
        await until(lambda: client.heard)
        for error, request in [
            (errors.MessageEmptyError, functions.messages.SendMessageRequest("ann", "  ")),
            (errors.MessageTooLongError, functions.messages.SendMessageRequest("ann", "x" * 4097)),
            (
                errors.PeerIdInvalidError,
                functions.messages.SendMessageRequest(types.InputPeerUser(5, 6), "x"),
            ),
            (errors.UserIsBotError, functions.messages.SendMessageRequest("other_bot", "x")),
            (
                errors.BotMethodInvalidError,
                functions.messages.GetHistoryRequest("ann", 0, None, 0, 9, 0, 0, 0),
            ),
            (errors.MethodInvalidError, functions.help.GetAppUpdateRequest("x")),
            (
                errors.UsernameNotOccupiedError,
                functions.contacts.ResolveUsernameRequest("nobody_here"),
            ),
        ]:
            with pytest.raises(error):
                await client(request)
        button = types.KeyboardInlineButton("x", types.InlineButtonTypeCallback(b"x" * 65))
        markup = types.ReplyInlineMarkup([types.KeyboardInlineButtonRow([button])])
        with pytest.raises(errors.ButtonDataInvalidError):
            await client(functions.messages.SendMessageRequest("ann", "x", reply_markup=markup))
        sent = await client.send_message("ann", "same")
        with pytest.raises(errors.MessageNotModifiedError):
            await client.edit_message("ann", sent.id, "same")
        with pytest.raises(ValueError, match="Could not find the input entity"):
            await client.get_input_entity(1234)
        status = await town.ask("status")
        assert status["unknown_requests"] == {"help.getAppUpdate": 1}


async def test_unknown_and_revoked_tokens_are_refused(town: Town) -> None:
    token = (await town.ask("bot.create", name="echo"))["token"]
    await town.ask("bot.revoke_token", name="echo")
    for wrong in (token, "1:x"):
        client = town.client()
        with pytest.raises(errors.AccessTokenInvalidError):
            await client.start(bot_token=wrong)
        await client.disconnect()


async def test_a_given_token_belongs_to_the_bot_it_was_given_to(town: Town) -> None:
    token = "6123456789:" + "a" * 35
    first = await town.ask("bot.create", name="mine", token=token)
    assert (first["user_id"], first["token"]) == (6123456789, token)
    assert await town.ask("bot.create", name="mine") == first
    with pytest.raises(UsageError, match="belongs to bot 'mine'"):
        await town.ask("bot.create", name="yours", token=token)


async def test_an_offline_bot_catches_up_in_slices_and_in_order(town: Town) -> None:
    session = town.session()
    async with town.bot(session=session) as client:
        await town.ask("send", bot="echo", user="ann", text="quiet 0", wait_s=0)
        await until(lambda: client.heard)
    await town.ask("flood_updates", bot="echo", user="ann", count=350, text="quiet")
    assert (await town.account())["updates_pending"] == 350
    async with town.bot(session=session, catch_up=True, sequential_updates=True) as client:
        await until(lambda: len(client.heard) >= 350)
        assert client.heard == [f"quiet {number}" for number in range(1, 351)]
    assert (await town.account())["updates_pending"] == 0
    assert (await town.ask("status"))["requests"]["updates.getDifference"] >= 4


async def test_a_repeated_random_id_posts_once_and_answers_the_first_message(town: Town) -> None:
    async with town.bot() as client:
        await town.ask("send", bot="echo", user="ann", text="quiet", wait_s=0)
        await until(lambda: client.heard)
        ann = await client.get_input_entity("ann")
        first = await client(functions.messages.SendMessageRequest(ann, "once", random_id=77))
        await town.restart()
        again = await client(functions.messages.SendMessageRequest(ann, "once", random_id=77))
        assert again.updates[0].id == first.id
        assert (again.updates[1].pts, again.updates[1].pts_count) == (first.pts, 0)
        history = await town.ask("history", bot="echo", user="ann")
        assert [message["text"] for message in history["messages"]] == ["quiet", "once"]


async def test_sessions_outlive_a_restart_of_the_sandbox(town: Town) -> None:
    session = town.session()
    async with town.bot(session=session):
        port = town.sandbox.address.port
    await town.restart()
    assert town.sandbox.address.port == port
    async with town.bot(session=session):
        answer = await town.ask("send", bot="echo", user="ann", text="still here", quiet_s=0)
        assert answer["replies"][0]["text"] == "still here"
    account = await town.account()
    assert (account["logins"], account["cold_logins"]) == (1, 0)


async def test_one_key_on_two_connections_kills_the_key_for_both(town: Town) -> None:
    async with town.bot() as first:
        thief = town.session()
        thief.auth_key = first.session.auth_key
        second = town.client(thief)
        with pytest.raises(errors.AuthKeyDuplicatedError):
            await second.connect()
        await second.disconnect()
        with pytest.raises(errors.AuthKeyDuplicatedError):
            await first.get_me()
        assert (await town.account())["duplicated"] == 1
    third = town.client(thief)
    with pytest.raises(errors.AuthKeyDuplicatedError):
        await third.connect()
    await third.disconnect()


async def test_a_reconnecting_client_is_no_duplicate(town: Town) -> None:
    async with town.bot() as client:
        for _ in range(5):
            await town.ask("fault.set", kind="cut", bot="echo")
            assert await client.get_me() is not None
        session = client.session
    for _ in range(5):
        async with town.bot(session=session) as client:
            pass
    account = await town.account()
    assert (account["duplicated"], account["peak_connections"]) == (0, 1)


async def test_other_sessions_of_a_bot_are_told_what_one_sends(town: Town) -> None:
    async with town.bot() as first, town.bot() as second:
        outgoing: list[str] = []
        second.add_event_handler(
            lambda e: _append(outgoing, e.raw_text), events.NewMessage(outgoing=True)
        )
        await town.ask("send", bot="echo", user="ann", text="quiet", wait_s=0)
        await until(lambda: first.heard and second.heard)
        await first.send_message("ann", "from the first")
        await until(lambda: outgoing == ["from the first"])
    assert (await town.account())["peak_connections"] == 2


async def test_a_logged_out_key_is_signed_in_as_nobody(town: Town) -> None:
    async with town.bot() as client:
        session = client.session
        assert await client.log_out()
    again = town.client(session)
    await again.connect()
    assert await again.get_me() is None
    await again.disconnect()
    assert (await town.account())["auth_keys"] == 0


async def test_a_key_the_server_never_saw_is_minus_404(town: Town) -> None:
    from telethon.crypto import AuthKey  # noqa: PLC0415

    session = town.session()
    session.auth_key = AuthKey(bytes(range(256)))
    client = town.client(session)
    with pytest.raises(errors.AuthKeyNotFound):
        await client.connect()
    await client.disconnect()


async def test_flood_wait_hits_the_named_request_so_many_times(town: Town) -> None:
    await town.ask("bot.create", name="echo")
    name = "auth.importBotAuthorization"
    await town.ask("fault.set", kind="flood_wait", seconds=3600, request=name, bot="echo", count=1)
    with pytest.raises(errors.FloodWaitError) as caught:
        async with town.bot():
            pass
    assert caught.value.seconds == 3600
    async with town.bot():
        assert (await town.ask("fault.list"))["faults"] == []


async def test_a_silent_server_answers_nothing_until_the_fault_is_cleared(town: Town) -> None:
    async with town.bot() as client:
        fault = await town.ask("fault.set", kind="silence", bot="echo")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get_me(), 0.1)
        assert (await town.ask("fault.list"))["faults"] == [fault]
        await town.ask("fault.clear", id=fault["id"])
        assert await client.get_me() is not None


async def test_a_cut_that_lasts_refuses_connections_until_it_ends(town: Town) -> None:
    async with town.bot(connection_retries=2) as client:
        session = client.session
        await town.ask("fault.set", kind="cut", duration_s=60)
        with pytest.raises(ConnectionError):
            await client.disconnected
        await town.ask("fault.clear")
    async with town.bot(session=session) as client:
        assert await client.get_me() is not None


async def test_an_outage_ends_by_itself_when_its_time_is_over(town: Town) -> None:
    async with town.bot(connection_retries=100, retry_delay=0.02) as client:
        await town.ask("fault.set", kind="cut", duration_s=0.2)
        async with asyncio.timeout(LIMIT_S):
            assert await client.get_me() is not None


async def test_a_cut_of_one_bot_leaves_the_others_alone(town: Town) -> None:
    async with town.bot(connection_retries=100) as client, town.bot("other") as other:
        await town.ask("fault.set", kind="cut", bot="echo", duration_s=0.5)
        assert await other.get_me() is not None
        async with asyncio.timeout(LIMIT_S):
            assert await client.get_me() is not None
        assert other.is_connected()


async def test_withheld_updates_wait_in_the_difference(town: Town) -> None:
    async with town.bot() as client:
        await town.ask("fault.set", kind="withhold_updates", bot="echo")
        await town.ask("send", bot="echo", user="ann", text="quiet please", wait_s=0)
        assert await client.get_me() is not None
        assert client.heard == []
        assert (await town.account())["updates_pending"] == 1
        await town.ask("fault.clear", bot="echo")
        await client.catch_up()
        await until(lambda: client.heard == ["quiet please"])
        assert (await town.account())["updates_pending"] == 0


async def test_latency_delays_answers(town: Town) -> None:
    async with town.bot() as client:
        await town.ask("fault.set", kind="latency", seconds=0.15, bot="echo")
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        await client.get_me()
        assert loop.time() - before_s >= 0.15


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("session_revoked", errors.AuthKeyUnregisteredError),
        ("deactivated", errors.UserDeactivatedError),
    ],
)
async def test_a_lost_account_shows_in_the_next_request(
    town: Town, kind: str, error: type[Exception]
) -> None:
    async with town.bot() as client:
        await town.ask("fault.set", kind=kind, bot="echo")
        with pytest.raises(error):
            await client(functions.updates.GetStateRequest())
        assert await client.get_me() is None


async def test_a_destroyed_key_ends_the_client(town: Town) -> None:
    async with town.bot() as client:
        assert (await town.ask("fault.set", kind="key_destroyed", bot="echo"))["struck"] == 1
        with pytest.raises((errors.AuthKeyNotFound, asyncio.CancelledError)):
            await client.get_me()
        with pytest.raises(errors.AuthKeyNotFound):
            await client.disconnected


async def test_an_expired_token_is_told_at_login(town: Town) -> None:
    await town.ask("fault.set", kind="token_expired")
    with pytest.raises(errors.AccessTokenExpiredError):
        async with town.bot():
            pass


async def test_a_follower_sees_the_whole_conversation(town: Town) -> None:
    async with town.bot() as client:
        seen: list[dict[str, Any]] = []

        def follow() -> None:
            with ControlClient(town.control, timeout_s=LIMIT_S) as control:
                for event in control.stream("follow", {"bot": "echo", "user": "ann"}):
                    seen.append(event)
                    if event["event"] == "delete":
                        return

        follower = asyncio.create_task(asyncio.to_thread(follow))
        await until(lambda: seen)
        sent = await town.ask("send", bot="echo", user="ann", text="hi", quiet_s=0)
        await client(functions.messages.SetTypingRequest("ann", types.SendMessageTypingAction()))
        await client.edit_message("ann", sent["replies"][0]["id"], "hello")
        await client.delete_messages("ann", [sent["replies"][0]["id"]])
        await follower
        kinds = [event["event"] for event in seen]
        assert kinds == ["following", "new", "new", "typing", "edit", "delete"]


async def test_the_control_api_refuses_nonsense_with_one_clear_line(town: Town) -> None:
    nonsense: list[tuple[str, dict[str, Any], str]] = [
        ("dance", {}, "unknown request"),
        ("send", {"bot": "nobody", "user": "ann", "text": "x"}, "no bot 'nobody'"),
        ("bot.create", {"name": ""}, "'name' must be"),
        ("bot.create", {"name": "x", "token": "short"}, "not a bot token"),
        ("fault.set", {"kind": "plague"}, "unknown fault"),
        ("fault.set", {"kind": "flood_wait", "seconds": -1}, "'seconds' must be"),
        ("history", {"bot": 5, "user": "ann"}, "'bot' must be"),
    ]
    for kind, body, words in nonsense:
        with pytest.raises(UsageError, match=words):
            await town.ask(kind, **body)


async def test_a_port_in_use_and_a_directory_in_use_are_refused(town: Town, tmp_path: Path) -> None:
    port = town.sandbox.address.port
    other = Sandbox(tmp_path / "other", port=port)
    with pytest.raises(ServiceError, match=f"port {port}"):
        await other.start()
    with pytest.raises(ServiceError, match="another process listens"):
        await Sandbox(tmp_path / "third", control=town.control).start()


async def test_the_small_requests_of_a_client_are_answered(town: Town) -> None:
    async with town.bot() as client:
        pong = await client(functions.PingRequest(5))
        assert pong.ping_id == 5
        salts = await client(functions.GetFutureSaltsRequest(3))
        assert len(salts.salts) == 3
        full = await client(functions.users.GetFullUserRequest("me"))
        assert full.full_user.id == full.users[0].id == (await client.get_me()).id
        nearest = await client(functions.help.GetNearestDcRequest())
        assert nearest.this_dc == town.sandbox.address.dc_id
        with pytest.raises(errors.PersistentTimestampInvalidError):
            await client(functions.updates.GetDifferenceRequest(10**6, None, 0))


async def test_a_client_without_updates_is_sent_none(town: Town) -> None:
    async with town.bot(receive_updates=False) as client:
        await town.ask("send", bot="echo", user="ann", text="quiet", wait_s=0)
        assert await client.get_me() is not None
        assert client.heard == []
        assert (await town.account())["updates_pending"] == 1


async def test_a_former_port_that_is_taken_is_left_to_others(town: Town) -> None:
    port = town.sandbox.address.port
    await town.sandbox.close()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        await town.restart()
    assert town.sandbox.address.port != port
    async with town.bot() as client:
        assert await client.get_me() is not None


async def test_garbage_costs_the_client_its_connection_and_nothing_else(town: Town) -> None:
    address = (town.sandbox.address.host, town.sandbox.address.port)
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xef\x05" + b"x" * 20, b"\xee" * 4 + b"\xff" * 8):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(garbage)
        async with asyncio.timeout(LIMIT_S):
            try:
                assert await reader.read(100) in (b"", b"\x01" + b"\x6c\xfe\xff\xff")
            except ConnectionResetError:
                writer.transport.abort()
        writer.close()
    async with town.bot() as client:
        assert await client.get_me() is not None


async def test_closing_removes_the_control_socket_and_frees_the_port(town: Town) -> None:
    port = town.sandbox.address.port
    await town.sandbox.close()
    assert not town.control.exists()
    with pytest.raises(NotRunningError):
        await town.ask("status")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
