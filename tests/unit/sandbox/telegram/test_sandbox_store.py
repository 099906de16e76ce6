"""What the sandbox keeps on disk, and what it does after an end that was none."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from telethon.tl import types

from dims.errors import AlreadyRunningError
from dims.sandbox.mtproto import wire
from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.box import Draft
from dims.sandbox.telegram.keyring import Keyring
from dims.sandbox.telegram.world import World
from dims.sandbox.telegram.world_store import SKIP_AFTER_CRASH, WorldStore


def as_read(found: Any) -> Any:
    """As the server gets it: absent flags are False there and None in a client's object."""
    return wire.parse(bytes(found))


def loaded(store: WorldStore) -> tuple[World, Keyring]:
    world, keyring = World(store.secret(), store.messages_of), Keyring()
    store.load(world, keyring)
    return world, keyring


def filled(store: WorldStore) -> Bot:
    world, keyring = loaded(store)
    bot, ann = world.create_bot("echo"), world.create_persona("ann")
    store.save_persona(ann)
    store.save_bot(bot)
    markup = types.ReplyInlineMarkup(
        [
            types.KeyboardInlineButtonRow(
                [types.KeyboardInlineButton("A", types.InlineButtonTypeCallback(b"a"))]
            )
        ]
    )
    draft = Draft("héllo", (types.MessageEntityBold(0, 5),), as_read(markup), None, 77)
    change = world.post(bot, ann.id, draft, out=True, now_s=5)
    world.edit(bot, change.messages[0], draft, 6)
    store.save_later(bot, change.messages)
    key = keyring.make(bytes(range(256)))
    keyring.bind(key, bot.id)
    store.save_key(key)
    return bot


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    store = WorldStore(tmp_path / "s")
    bot = filled(store)
    store.close()
    again = WorldStore(tmp_path / "s")
    world, keyring = loaded(again)
    copy = world.bot_named("echo")
    assert world.box(copy) == bot.box
    assert (copy.pts, copy.token, copy.last_message_id) == (bot.pts, bot.token, 1)
    assert world.persona_named("ann") is not None
    assert [key.key for key in keyring.of(copy.id)] == [bytes(range(256))]
    again.close()


def test_a_forgotten_message_is_gone_from_the_disk(tmp_path: Path) -> None:
    store = WorldStore(tmp_path / "s")
    bot = filled(store)
    store.flush()
    assert bot.box is not None
    store.forget_later(bot, bot.box.forget_oldest(1))
    store.save_later(bot)
    store.flush()
    assert list(store.messages_of(bot.id)) == []
    store.close()


def test_after_a_crash_no_number_is_given_twice(tmp_path: Path) -> None:
    store = WorldStore(tmp_path / "s")
    bot = filled(store)
    store.flush()
    store._db.close()  # as a killed process leaves it: committed, but not marked clean
    again = WorldStore(tmp_path / "s")
    world, keyring = loaded(again)
    copy = world.bot_named("echo")
    assert copy.pts == bot.pts + SKIP_AFTER_CRASH
    assert copy.last_message_id == 1 + SKIP_AFTER_CRASH
    assert len(keyring.of(copy.id)) == 1
    again.close()


def test_what_was_not_flushed_is_lost_but_logins_are_not(tmp_path: Path) -> None:
    store = WorldStore(tmp_path / "s")
    filled(store)
    store._db.close()
    again = WorldStore(tmp_path / "s")
    world, keyring = loaded(again)
    copy = world.bot_named("echo")
    assert world.box(copy).messages == {}
    assert len(keyring.of(copy.id)) == 1
    again.close()


def test_two_sandboxes_cannot_share_a_file(tmp_path: Path) -> None:
    store = WorldStore(tmp_path / "s")
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
    with pytest.raises(AlreadyRunningError, match="another process uses"):
        WorldStore(tmp_path / "s")
    store.close()
