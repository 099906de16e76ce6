"""The repositories of `bot.db` on a real server, and two bots that see nothing of each other."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from storage_site import StorageSite, database_of, storage_site
from telethon import events, types

from dims.errors import DimsError, StateError, UsageError
from dims.storage.bot import repositories
from dims.storage.bot.database import Database
from dims.storage.bot.repositories import chats, personas, users
from dims.storage.bot.repositories.chats import ChatKind
from dims.storage.bot.repositories.events import Level
from dims.storage.bot.repositories.messages import Message, NewMessage
from dims.storage.bot.repositories.users import User

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def site() -> Iterator[StorageSite]:
    with storage_site() as made:
        yield made


@pytest.fixture
async def db(site: StorageSite) -> AsyncIterator[Database]:
    async with database_of(site) as database:
        yield database


@pytest.fixture
async def other(site: StorageSite) -> AsyncIterator[Database]:
    async with database_of(site) as database:
        yield database


@pytest.fixture
async def admin(site: StorageSite) -> AsyncIterator[asyncpg.Connection]:
    connection = await site.admin()
    yield connection
    await connection.close()


# As Telethon's objects, as far as they are read.


def person(user_id: int, **more: Any) -> SimpleNamespace:
    told = {
        "username": None,
        "first_name": "Ada",
        "last_name": None,
        "lang_code": "en",
        "bot": False,
    }
    return SimpleNamespace(id=user_id, **{**told, **more})


def said(chat_id: int, number: int, text: str = "hi", **more: Any) -> SimpleNamespace:
    told = {
        "sender_id": 7, "out": False, "media": None, "file": None, "reply_to_msg_id": None,
        "date": NOW, "edit_date": None,
    }  # fmt: skip
    return SimpleNamespace(chat_id=chat_id, id=number, message=text, **{**told, **more})


def event(message: SimpleNamespace, **more: Any) -> SimpleNamespace:
    told = {"sender": None, "chat": None, "sender_id": message.sender_id, "is_group": False}
    return SimpleNamespace(message=message, chat_id=message.chat_id, **{**told, **more})


# Users


async def test_a_user_is_saved_and_only_what_is_given_changes(db: Database) -> None:
    assert await db.users.get(7) is None
    new = await db.users.save(7, username="Ada", first_name="Ada", data={"a": 1})
    again = await db.users.save(7, last_name="L", data={"b": [None, "ü"]})
    assert (again.username, again.first_name, again.last_name) == ("Ada", "Ada", "L")
    assert again.data == {"a": 1, "b": [None, "ü"]}
    assert again.first_seen_at == new.first_seen_at < again.last_seen_at
    assert again.first_seen_at.tzinfo is not None
    assert await db.users.get(7) == again
    assert await db.users.find("@aDA") == again
    assert await db.users.find("nobody") is None
    assert (await db.users.save(7, username=None)).username is None
    assert await db.users.count() == 1
    assert await db.users.delete(7)
    assert not await db.users.delete(7)


async def test_who_is_behind_an_event_is_seen(db: Database) -> None:
    message = said(7, 1)
    assert await db.users.seen(event(message)) == 7
    assert await db.users.seen(event(message, sender=person(7, username="ada"))) == 7
    assert await db.users.seen(
        person(8, first_name=None, usernames=[SimpleNamespace(username="b")])
    )
    assert await db.users.seen(event(said(-5, 1, sender_id=-5))) is None
    ada, bob = await db.users.get(7), await db.users.find("b")
    assert (ada and ada.username, ada and ada.language) == ("ada", "en")
    assert (bob and bob.user_id, bob and bob.first_name) == (8, "")


async def test_being_seen_again_writes_only_what_is_new(
    db: Database, admin: asyncpg.Connection
) -> None:
    for _ in range(3):
        await db.users.seen(person(7))
    await db.users.seen(person(7, first_name="A\x00da L."))
    await db.users.seen(person(7, first_name="Ada L.", lang_code=None))
    count = "SELECT count(*) FROM dims.audit_log WHERE bot_id = $1 AND table_name = 'users'"
    assert await admin.fetchval(count, db.bot_id) == 1
    user = await db.users.get(7)
    assert (user and user.first_name, user and user.language) == ("Ada L.", "en")
    ago = "UPDATE dims.users SET last_seen_at = now() - interval '2 minutes' WHERE bot_id = $1"
    await admin.execute(ago, db.bot_id)
    await db.users.seen(person(7, first_name="Ada L."))
    seen = await db.users.get(7)
    assert user is not None
    assert seen is not None
    assert seen.last_seen_at >= user.last_seen_at


# Chats


async def test_a_chat_is_saved_and_is_what_its_id_says(db: Database) -> None:
    kinds = [(await db.chats.save(number)).kind for number in (5, -5, -1_000_000_000_005)]
    assert kinds == [ChatKind.PRIVATE, ChatKind.GROUP, ChatKind.SUPERGROUP]
    await db.chats.save(-5, kind="supergroup", title="x")
    kept = await db.chats.save(-5, data={"a": 1})
    assert (kept.kind, kept.title, kept.data) == (ChatKind.SUPERGROUP, "x", {"a": 1})
    assert await db.chats.get(-5) == kept
    assert await db.chats.count() == 3
    assert (await db.chats.recent(1))[0] == kept
    assert await db.chats.delete(-5)
    assert await db.chats.get(-5) is None
    with pytest.raises(UsageError, match="cave"):
        await db.chats.save(1, kind="cave")


async def test_chats_are_seen_in_events_and_as_they_are(db: Database) -> None:
    group = SimpleNamespace(id=5, title="five", left=False)
    channel = SimpleNamespace(id=6, title="six", username="six", broadcast=True, megagroup=False)
    supergroup = SimpleNamespace(id=7, title="seven", username=None, broadcast=False)
    seen = [await db.chats.seen(source) for source in (group, channel, supergroup, person(8))]
    assert seen == [-5, -1_000_000_000_006, -1_000_000_000_007, 8]
    assert await db.chats.seen(event(said(-1_000_000_000_009, 1), is_group=False))
    assert await db.chats.seen(event(said(-5, 1), chat=group)) == -5
    assert await db.chats.seen(SimpleNamespace(chat_id=None)) is None
    assert {chat.chat_id: chat.kind.value for chat in await db.chats.recent()} == {
        -5: "group",
        -1_000_000_000_006: "channel",
        -1_000_000_000_007: "supergroup",
        8: "private",
        -1_000_000_000_009: "channel",
    }


# Messages


async def test_a_message_that_comes_twice_is_stored_once(db: Database) -> None:
    photo = type("MessageMediaPhoto", (), {})()
    file = SimpleNamespace(mime_type="image/jpeg", size=5, name=None)
    message = said(7, 1, "h\x00i", media=photo, file=file, reply_to_msg_id=4)
    assert await db.messages.record(event(message))
    assert not await db.messages.record(event(message))
    assert not await db.messages.record(message)
    stored = await db.messages.get(7, 1)
    assert stored == Message(
        7, 1, None, 7, False, "hi", {"kind": "photo", "mime_type": "image/jpeg", "size": 5}, 4, NOW,
        None, None,
    )  # fmt: skip
    with pytest.raises(UsageError, match="SimpleNamespace has no message"):
        await db.messages.record(person(7))


async def test_messages_are_paged_from_the_last_one(db: Database) -> None:
    many = [
        NewMessage(chat_id=1, message_id=n, text=str(n), sent_at=NOW + timedelta(seconds=n // 2))
        for n in range(25)
    ]
    assert await db.messages.add_many(many) == 25
    assert await db.messages.add_many(many[:3]) == 0
    assert await db.messages.add_many([]) == 0
    assert await db.messages.count(1) == await db.messages.count() == 25
    assert await db.messages.count(2) == 0
    seen: list[int] = []
    before = None
    while page := await db.messages.recent(1, 10, before=before):
        seen += [message.message_id for message in page]
        before = page[-1]
    assert seen == list(range(24, -1, -1))


async def test_many_messages_carry_all_they_have(db: Database) -> None:
    thread = uuid4()
    media: dict[str, Any] = {"kind": "x", "list": [1, "\"'{},\\", None]}
    moment = datetime(2031, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=5)))
    rows = [
        NewMessage(
            chat_id=1,
            message_id=1,
            text="a,b{}\"'\\",
            media=media,
            conversation_id=thread,
            sent_at=moment,
        ),
        NewMessage(chat_id=1, message_id=2, sender_id=5, is_outgoing=True, reply_to_id=1),
    ]
    assert await db.messages.add_many(rows) == 2
    first, second = await db.messages.get(1, 1), await db.messages.get(1, 2)
    assert first is not None
    assert second is not None
    assert (first.text, first.media, first.conversation_id) == ("a,b{}\"'\\", media, thread)
    assert first.sent_at == moment
    assert (second.sender_id, second.is_outgoing, second.media) == (5, True, None)
    assert await db.messages.of_conversation(thread) == [first]
    with pytest.raises(UsageError):
        await db.messages.add_many(rows * 5_001)
    with pytest.raises(UsageError, match="time zone"):
        await db.messages.add(NewMessage(chat_id=1, message_id=3, sent_at=datetime(2026, 1, 1)))  # noqa: DTZ001


@pytest.mark.parametrize("inside", [False, True])
async def test_of_very_many_messages_only_new_ones_are_stored(db: Database, inside: bool) -> None:
    many = [NewMessage(chat_id=1, message_id=n) for n in range(1_000)]

    async def store() -> None:
        assert await db.messages.add_many(many[:500]) == 500
        assert await db.messages.add_many(many) == 500
        assert await db.messages.add_many([*many, many[0]]) == 0
        assert await db.messages.count() == 1_000

    if not inside:
        return await store()
    async with db.tx():
        await store()
    return None


async def test_edits_and_deletions_are_taken_once_and_in_order(db: Database) -> None:
    await db.messages.record(said(7, 1))
    edited = said(7, 1, "new", edit_date=NOW + timedelta(minutes=2))
    assert await db.messages.edited(event(edited))
    assert not await db.messages.edited(event(edited))
    assert not await db.messages.edited(said(7, 1, "old", edit_date=NOW + timedelta(minutes=1)))
    assert await db.messages.deleted(7, [1, 2]) == 1
    assert await db.messages.deleted(7, [1]) == 0
    stored = await db.messages.get(7, 1)
    assert stored is not None
    assert stored.text == "new"
    assert stored.deleted_at is not None
    assert await db.messages.erase(7, 1)
    assert not await db.messages.erase(7, 1)


async def test_what_telethon_makes_is_read(db: Database) -> None:
    ada = types.User(id=7, first_name="Ada", username="ada", lang_code="de", bot=False)
    photo = types.ChatPhotoEmpty()
    channel = types.Channel(id=6, title="six", photo=photo, date=NOW, broadcast=True)
    group = types.Chat(id=5, title="g", photo=photo, participants_count=2, date=NOW, version=1)
    message = types.Message(
        id=1, peer_id=types.PeerUser(7), message="hi", date=NOW, out=False,
        media=types.MessageMediaGeo(types.GeoPoint(1.0, 2.0, 0)),
        reply_to=types.MessageReplyHeader(reply_to_msg_id=3),
    )  # fmt: skip
    new = events.NewMessage.Event(message)
    assert await db.users.seen(new) == await db.users.seen(ada) == 7
    assert [await db.chats.seen(one) for one in (new, ada, channel, group)] == [
        7, 7, -1_000_000_000_006, -5
    ]  # fmt: skip
    assert await db.messages.record(new)
    assert not await db.messages.record(message)
    assert await db.messages.get(7, 1) == Message(
        7, 1, None, 7, False, "hi", {"kind": "geo"}, 3, NOW, None, None
    )
    query = types.UpdateBotCallbackQuery(1, 7, types.PeerUser(7), 1, 1)
    pressed = events.CallbackQuery.Event(query, query.peer, query.msg_id)
    assert await db.users.seen(pressed) == await db.chats.seen(pressed) == 7
    with pytest.raises(UsageError, match="has no message"):
        await db.messages.record(pressed)


# Conversations, settings, personas, events, me


async def test_a_conversation_goes_from_open_to_closed(db: Database) -> None:
    one = await db.conversations.open(5, user_id=7, state={"step": 1})
    two = await db.conversations.open(5, user_id=8, persona="p")
    assert await db.conversations.current(5) == two
    assert await db.conversations.current(5, 7) == one
    changed = await db.conversations.update_state(one.conversation_id, {"name": "x"})
    assert changed is not None
    assert changed.state == {"step": 1, "name": "x"}
    replaced = await db.conversations.update_state(one.conversation_id, {}, replace=True)
    assert replaced is not None
    assert replaced.state == {}
    assert await db.conversations.close(one.conversation_id)
    assert not await db.conversations.close(one.conversation_id)
    assert await db.conversations.update_state(one.conversation_id, {"late": 1}) is None
    assert await db.conversations.current(5, 7) is None
    closed = await db.conversations.get(one.conversation_id)
    assert closed is not None
    assert (closed.status, closed.ended_at is None) == ("closed", False)
    assert len(await db.conversations.recent(5)) == 2
    assert await db.conversations.delete(one.conversation_id)


async def test_settings_are_like_a_dictionary(db: Database) -> None:
    nothing = object()
    assert await db.settings.get("a", nothing) is nothing
    values: list[Any] = [1, "x", None, [1, {"b": True}], {}, False]
    for value in values:
        await db.settings.set("a", value)
        assert await db.settings.get("a", nothing) == value
    await db.settings.set("key", "S3CRET", secret=True)
    await db.settings.set("key", "S3CRET2")
    assert await db.settings.all() == {"a": False}
    assert await db.settings.all(secrets=True) == {"a": False, "key": "S3CRET2"}
    described = await db.settings.describe("key")
    assert described is not None
    assert described.is_secret
    assert "S3CRET" not in repr(described)
    assert await db.settings.delete("a")
    assert not await db.settings.delete("a")
    with pytest.raises(UsageError, match="'a' is no JSON"):
        await db.settings.set("a", {1, 2})
    with pytest.raises(UsageError, match="NUL"):
        await db.settings.set("a", "x\x00")


async def test_no_secret_and_no_unchanged_setting_is_audited(
    db: Database, admin: asyncpg.Connection
) -> None:
    await db.settings.set("key", "S3CRET", secret=True)
    await db.settings.set("key", "S3CRET")
    rows = await admin.fetch("SELECT * FROM dims.audit_log WHERE bot_id = $1", db.bot_id)
    assert [row["action"] for row in rows if row["table_name"] == "bot_settings"] == ["insert"]
    assert "S3CRET" not in str([dict(row) for row in rows])


async def test_one_persona_is_active(db: Database) -> None:
    await db.personas.save("b", prompt="be", settings={"t": 1})
    await db.personas.save("a")
    assert await db.personas.active() is None
    for name in ("a", "b", "b", "a", "b"):
        assert (await db.personas.activate(name)).name == name
        active = await db.personas.active()
        assert active is not None
        assert active.name == name
    with pytest.raises(UsageError, match="no persona 'c'"):
        await db.personas.activate("c")
    kept = await db.personas.save("b", prompt="bee")
    assert (kept.is_active, kept.settings) == (True, {"t": 1})
    assert [persona.name for persona in await db.personas.list()] == ["a", "b"]
    assert await db.personas.deactivate()
    assert not await db.personas.deactivate()
    assert await db.personas.delete("a")
    assert await db.personas.get("a") is None


async def test_events_are_counted(site: StorageSite) -> None:
    async with database_of(site, correlation=lambda: "c1") as db:
        await db.events.add("joined", {"n": 1}, user_id=7)
        await db.events.add("failed", {"error": "x"}, level=Level.ERROR, chat_id=5)
        await db.events.add("joined")
        assert await db.events.count("joined") == 2
        assert await db.events.count("joined", datetime.now(UTC) + timedelta(hours=1)) == 0
        last, first = await db.events.recent("joined")
        assert (first.data, first.user_id, first.correlation_id) == ({"n": 1}, 7, "c1")
        assert [event_.kind for event_ in await db.events.recent(limit=2)] == ["joined", "failed"]
        assert last.level == "info"
        with pytest.raises(UsageError, match="loud"):
            await db.events.add("x", level="loud")


async def test_a_bot_knows_itself(db: Database, admin: asyncpg.Connection) -> None:
    assert (await db.me.get()).telegram_id is None
    me = await db.me.update(telegram_id=42, name="Bot")
    assert await db.me.update(name="Bot") == me == await db.me.get()
    assert (me.telegram_id, me.username, me.name) == (42, None, "Bot")
    await admin.execute("DELETE FROM dims.bots WHERE bot_id = $1", db.bot_id)
    with pytest.raises(StateError, match="not registered"):
        await db.me.update(name="Bot")


# All of them


@pytest.mark.parametrize("limit", [0, -1, 1_001])
async def test_every_limit_is_bounded(db: Database, limit: int) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: db.users.recent(limit),
        lambda: db.chats.recent(limit),
        lambda: db.messages.recent(1, limit),
        lambda: db.messages.of_conversation(uuid4(), limit),
        lambda: db.conversations.recent(1, limit),
        lambda: db.personas.list(limit),
        lambda: db.events.recent("x", limit),
    ]
    for ask in asks:
        with pytest.raises(UsageError, match="limit"):
            await ask()


def statements() -> Iterator[str]:
    """All SQL there is in the repositories: constants, and what is put together from columns."""
    verbs = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH ")
    for module in pkgutil.iter_modules(repositories.__path__, f"{repositories.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, str) and value.startswith(verbs):
                yield value
    names = {
        users.saving: ("username", "first_name", "last_name", "language", "is_bot", "has_blocked",
                       "data"),
        chats.saving: ("kind", "title", "username", "has_left", "data"),
        personas.saving: ("prompt", "settings"),
    }  # fmt: skip
    for saving, columns in names.items():
        for count in range(len(columns) + 1):
            for chosen in combinations(columns, count):
                yield saving(chosen)


async def test_every_statement_fits_the_schema(db: Database) -> None:
    listed = list(statements())
    assert len(listed) > 200
    async with db.tx() as tx:
        for sql in listed:
            prepared = await tx.connection.prepare(sql)
            kinds = [kind.name for kind in prepared.get_parameters()]
            assert "unknown" not in kinds, sql


async def test_a_point_read_looks_at_one_row_of_one_partition(db: Database) -> None:
    await db.users.save(1)
    async with db.tx() as tx:
        await tx.connection.execute("PREPARE hot (text, bigint) AS " + users._GET)
        for _ in range(7):
            # From the sixth time on the plan is a generic one.
            assert len(await tx.fetch(f"EXPLAIN ANALYZE EXECUTE hot ('{db.bot_id}', 1)")) > 0
        rows = await tx.fetch(
            f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) EXECUTE hot ('{db.bot_id}', 1)"
        )
        await tx.connection.execute("DEALLOCATE hot")
    plan = "\n".join(row[0] for row in rows)
    assert plan.count("Scan") - plan.count("never executed") == 1, plan


async def fill(db: Database) -> None:
    """Something in each table."""
    await db.users.save(1, username="same", first_name=f"of {db.bot_id}")
    await db.chats.save(1, title=f"of {db.bot_id}")
    await db.conversations.open(1, state={"of": db.bot_id})
    await db.messages.add(NewMessage(chat_id=1, message_id=1, text=f"of {db.bot_id}"))
    await db.settings.set("same", db.bot_id)
    await db.personas.save("same", prompt=f"of {db.bot_id}")
    await db.personas.activate("same")
    await db.events.add("same", {"of": db.bot_id})
    await db.me.update(name=f"of {db.bot_id}")


async def everything(db: Database) -> list[Any]:
    """All that the repositories show."""
    current = await db.conversations.current(1)
    return [
        await db.users.get(1), await db.users.find("same"), await db.users.recent(),
        await db.users.count(), await db.chats.get(1), await db.chats.recent(),
        await db.chats.count(), current, await db.conversations.recent(1),
        await db.messages.get(1, 1), await db.messages.recent(1), await db.messages.count(),
        await db.messages.count(1), await db.settings.get("same"), await db.settings.all(),
        await db.personas.get("same"), await db.personas.active(), await db.personas.list(),
        await db.events.recent(), await db.events.count("same"), await db.me.get(),
    ]  # fmt: skip


async def test_two_bots_with_the_same_keys_see_and_change_their_own(
    db: Database, other: Database
) -> None:
    await fill(db)
    before = await everything(db)
    assert "None" not in [repr(one) for one in before]
    await fill(other)
    theirs = repr(await everything(other))
    assert db.bot_id not in theirs.replace(other.bot_id, "")
    conversation = await db.conversations.current(1)
    assert conversation is not None
    thread = conversation.conversation_id
    assert await other.conversations.get(thread) is None
    assert await other.conversations.update_state(thread, {"of": "thief"}) is None
    assert not await other.conversations.close(thread)
    assert not await other.conversations.delete(thread)
    assert await other.users.delete(1)
    assert await other.chats.delete(1)
    assert await other.messages.deleted(1, [1]) == 1
    assert await other.messages.erase(1, 1)
    assert await other.settings.delete("same")
    assert await other.personas.deactivate()
    assert await other.personas.delete("same")
    assert await everything(db) == before


async def test_a_repository_told_another_bot_gets_and_gives_nothing(
    db: Database, other: Database
) -> None:
    """As if the binding of the bot had a fault: the policy still holds."""
    await fill(db)
    for repository in (other.users, other.chats, other.messages, other.settings, other.personas):
        repository._bot_id = db.bot_id
    assert await other.users.get(1) is None
    assert await other.users.recent() == []
    assert await other.messages.recent(1) == []
    assert await other.settings.all() == {}
    assert not await other.chats.delete(1)
    for write in (
        lambda: other.users.save(1, first_name="thief"),
        lambda: other.messages.add(NewMessage(chat_id=2, message_id=2)),
        lambda: other.messages.add_many([NewMessage(chat_id=2, message_id=2)]),
        lambda: other.settings.set("same", "thief"),
    ):
        with pytest.raises(DimsError, match="another bot"):
            await write()


async def test_a_row_of_another_bot_would_not_be_shown(db: Database) -> None:
    """As if the policy had a hole."""
    await db.users.save(1)
    row = await db.fetchrow(users._GET.replace("SELECT bot_id", "SELECT 'bot0'"), db.bot_id, 1)
    with pytest.raises(StateError, match="another bot"):
        db.users._own(row)
    assert isinstance(db.users._own(await db.fetchrow(users._GET, db.bot_id, 1)), User)
