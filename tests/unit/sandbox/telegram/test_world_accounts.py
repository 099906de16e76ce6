"""Accounts of the sandbox: names, tokens, ids and hashes."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from dims.errors import UsageError
from dims.sandbox.telegram.accounts import Bot, Persona
from dims.sandbox.telegram.box import ChatMessage, UserId
from dims.sandbox.telegram.world import FIRST_BOT_ID, FIRST_PERSONA_ID, World

TOKEN = "123456:" + 35 * "a"
OTHER = "123457:" + 35 * "b"


def never(_: UserId) -> Iterable[ChatMessage]:
    raise AssertionError("this box need not be read")


def refusal(world: World, name: str, token: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        world.create_bot(name, token)
    return caught.value


def test_a_token_that_is_given_is_the_bots_and_names_its_id() -> None:
    world = World(b"secret", never)
    bot = world.create_bot("echo", TOKEN)
    assert (bot.id, bot.token) == (123456, TOKEN)
    assert world.bot_with_token(TOKEN) is world.bot_named("echo") is bot
    assert world.create_bot("echo", TOKEN) is bot
    assert world.create_bot("echo") is bot
    assert world.box(bot).messages == {}


def test_another_token_replaces_the_former() -> None:
    world = World(b"secret")
    bot = world.create_bot("echo", TOKEN)
    assert world.create_bot("echo", OTHER) is bot
    assert (bot.id, bot.token) == (123456, OTHER)
    assert world.bot_with_token(TOKEN) is None
    assert world.bot_with_token(OTHER) is bot


def test_a_token_of_another_bot_or_account_is_refused() -> None:
    world = World(b"secret")
    first = world.create_bot("first", TOKEN)
    anna = world.create_persona("anna")
    assert str(refusal(world, "echo", TOKEN)) == "this token belongs to bot 'first'"
    for user_id in (first.id, anna.id):
        token = f"{user_id}:{35 * 'c'}"
        assert f"the id {user_id} of this token" in str(refusal(world, "echo", token))


@pytest.mark.parametrize("token", ["", "echo", "1234:" + 35 * "a", "123456:" + 34 * "a"])
def test_what_is_no_token_is_refused_and_not_repeated(token: str) -> None:
    error = refusal(World(b"secret"), "echo", token)
    assert str(error) == "not a bot token"
    assert "35 letters" in error.hint


def test_a_loaded_bot_is_known_by_its_token() -> None:
    world = World(b"secret")
    bot = Bot(UserId(5), "old", "old_bot", TOKEN)
    world.add_bot(bot)
    assert world.bot_with_token(TOKEN) is bot


def test_bots_and_personas_get_ids_in_order() -> None:
    world = World(b"secret")
    bots = [world.create_bot(name).id for name in ("a", "b", "c")]
    people = [world.create_persona(name).id for name in ("anna", "bert", "cleo")]
    assert bots == [FIRST_BOT_ID, FIRST_BOT_ID + 1, FIRST_BOT_ID + 2]
    assert people == [FIRST_PERSONA_ID, FIRST_PERSONA_ID + 1, FIRST_PERSONA_ID + 2]


def test_an_id_that_is_taken_is_passed_over() -> None:
    world = World(b"secret")
    for taken in (FIRST_BOT_ID + 1, FIRST_BOT_ID + 2):
        world.create_bot(f"n{taken}", f"{taken}:{35 * 'a'}")
    world.add_persona(Persona(UserId(FIRST_BOT_ID + 3), "anna", None))
    assert world.create_bot("echo").id == FIRST_BOT_ID + 4


def test_an_unknown_bot_is_named() -> None:
    with pytest.raises(UsageError, match="no bot 'nobody'") as caught:
        World(b"secret").bot_named("nobody")
    assert caught.value.hint == "create it first"


def test_a_persona_is_made_once_and_must_have_a_name() -> None:
    world = World(b"secret")
    assert world.create_persona("anna") is world.create_persona("anna")
    assert world.persona_named("anna") is world.create_persona("anna")
    with pytest.raises(UsageError, match="is no name") as caught:
        world.create_persona("\n")
    assert caught.value.hint == "use 1 to 64 printable characters"


def test_a_username_has_four_letters_and_one_owner() -> None:
    world = World(b"secret")
    world.create_bot("x")
    names = ("anna", "Anna", "al", "X bot")
    found = [world.create_persona(name).username for name in names]
    assert found == ["anna", None, None, None]


@pytest.mark.parametrize(
    ("name", "username"),
    [
        ("Shop", "shop_bot"),
        ("shop_bot", "shop_bot"),
        ("shopbot", "shop_bot"),
        ("7 seas!", "seas_bot"),
        ("bot", "x_bot"),
        ("???", "x_bot"),
        ("a" * 40, "a" * 24 + "_bot"),
    ],
)
def test_a_bots_username_follows_from_its_name(name: str, username: str) -> None:
    assert World(b"secret").create_bot(name).username == username


def test_usernames_that_are_taken_are_numbered() -> None:
    world = World(b"secret")
    names = [world.create_bot(name).username for name in ("shop", "Shop", "SHOP")]
    assert names == ["shop_bot", "shop2_bot", "shop3_bot"]


def test_access_hashes_are_signed_numbers_of_64_bits() -> None:
    world = World(b"secret")
    hashes = [world.access_hash(UserId(1), UserId(n)) for n in range(64)]
    assert all(-(2**63) <= one < 2**63 and one for one in hashes)
    assert min(hashes) < 0 < max(hashes)
    assert [world.access_hash(UserId(1), UserId(n)) for n in range(64)] == hashes


def test_a_revoked_token_changes_every_time() -> None:
    world = World(b"secret")
    bot = world.create_bot("echo")
    seen = {bot.token}
    for _ in range(3):
        world.revoke_token(bot)
        seen.add(bot.token)
    assert len(seen) == 4
