"""The model of accounts and messages: whatever happens, a difference tells it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dims.errors import UsageError
from dims.sandbox.telegram.accounts import Bot, Persona
from dims.sandbox.telegram.box import Box, ChatMessage, Draft
from dims.sandbox.telegram.world import Change, World

steps = st.lists(
    st.tuples(st.sampled_from(["post", "edit", "delete"]), st.integers(0, 30), st.integers(1, 4)),
    max_size=40,
)


def town() -> tuple[World, Bot, Persona]:
    world = World(b"secret")
    return world, world.create_bot("echo"), world.create_persona("ann")


def play(world: World, bot: Bot, ann: Persona, step: tuple[str, int, int]) -> Change | None:
    action, pick, width = step
    living = [each for each in world.box(bot).messages.values() if not each.deleted_pts]
    if action == "post" or not living:
        return world.post(bot, ann.id, Draft(f"text {pick}"), out=pick % 2 == 0, now_s=pick)
    start = pick % len(living)
    if action == "edit":
        return world.edit(bot, living[start], Draft(f"edit {bot.pts}"), now_s=pick)
    return world.delete(bot, living[start : start + width])


class Client:
    """What somebody knows who only asks for differences."""

    def __init__(self, pts: int, known: dict[int, str]) -> None:
        self.pts = pts
        self.known = dict(known)

    def catch_up(self, world: World, bot: Bot, limit: int) -> None:
        while True:
            found = world.difference(bot, self.pts, limit)
            assert found is not None
            assert found.pts > self.pts or found.is_final
            for message in found.new:
                self.known[message.id] = message.text
            for _, message in found.edited:
                self.known[message.id] = message.text
            for _, message in found.deleted:
                self.known.pop(message.id, None)
            self.pts = found.pts
            if found.is_final:
                return


def living(box: Box) -> dict[int, str]:
    return {each.id: each.text for each in box.messages.values() if not each.deleted_pts}


@given(before=steps, after=steps, limit=st.integers(1, 7))
def test_a_client_that_catches_up_knows_what_the_box_holds(
    before: list[tuple[str, int, int]], after: list[tuple[str, int, int]], limit: int
) -> None:
    world, bot, ann = town()
    for step in before:
        play(world, bot, ann, step)
    client = Client(bot.pts, living(world.box(bot)))
    for step in after:
        play(world, bot, ann, step)
    client.catch_up(world, bot, limit)
    assert client.known == living(world.box(bot))
    assert client.pts == bot.pts


@given(played=steps)
def test_each_change_starts_where_the_last_one_ended(played: list[tuple[str, int, int]]) -> None:
    world, bot, ann = town()
    at = bot.pts
    for step in played:
        change = play(world, bot, ann, step)
        assert change is not None
        assert change.pts - change.pts_count == at
        assert change.pts_count == len(change.messages)
        at = bot.pts


@given(played=steps, limit=st.integers(1, 7))
def test_a_loaded_box_answers_as_the_one_that_was_stored(
    played: list[tuple[str, int, int]], limit: int
) -> None:
    world, bot, ann = town()
    for step in played:
        play(world, bot, ann, step)
    stored: list[ChatMessage] = list(world.box(bot).messages.values())
    again = World(b"secret", lambda _: stored)
    copy = Bot(bot.id, bot.name, bot.username, bot.token, pts=bot.pts)
    again.add_bot(copy)
    first, second = Client(1, {}), Client(1, {})
    first.catch_up(world, bot, limit)
    second.catch_up(again, copy, limit)
    assert first.known == second.known


def test_what_a_box_has_forgotten_is_no_difference_any_more() -> None:
    world, bot, ann = town()
    for number in range(10):
        world.post(bot, ann.id, Draft(str(number), random_id=number), out=False, now_s=0)
    world.edit(bot, world.box(bot).messages[2], Draft("edited"), 0)
    assert world.trim(bot) == []
    assert world.box(bot).forget_oldest(4) == [1, 2, 3, 4]
    assert world.difference(bot, 4, 100) is None
    client = Client(5, {})
    client.catch_up(world, bot, 3)
    assert client.known == living(world.box(bot)) == {n: str(n - 1) for n in range(5, 11)}
    assert client.pts == bot.pts


def test_a_deleted_message_cannot_be_deleted_again() -> None:
    world, bot, ann = town()
    (message,) = world.post(bot, ann.id, Draft("x"), out=False, now_s=0).messages
    assert world.delete(bot, [message]).pts_count == 1
    assert world.delete(bot, [message]).pts_count == 0
    assert world.message(bot, message.id) is None


def test_creating_a_bot_twice_gives_the_same_bot() -> None:
    world = World(b"secret")
    assert world.create_bot("echo") is world.create_bot("echo")
    assert world.create_bot("echo").username == "echo_bot"
    assert world.create_bot("Echo!").username == "echo2_bot"


def test_a_revoked_token_is_unknown_and_the_new_one_is_known() -> None:
    world, bot, _ = town()
    old = bot.token
    world.revoke_token(bot)
    assert world.bot_with_token(old) is None
    assert world.bot_with_token(bot.token) is bot
    assert bot.token not in repr(bot)


def test_access_hashes_belong_to_one_viewer() -> None:
    world, bot, ann = town()
    other = world.create_bot("other")
    assert world.access_hash(bot.id, ann.id) != world.access_hash(other.id, ann.id)
    assert world.access_hash(bot.id, ann.id) == World(b"secret").access_hash(bot.id, ann.id)


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\nb"])
def test_a_name_must_be_one(name: str) -> None:
    with pytest.raises(UsageError, match="is no name"):
        World(b"").create_bot(name)


def test_a_chat_is_its_last_messages_in_order() -> None:
    world, bot, ann = town()
    bert = world.create_persona("bert")
    said = [
        world.post(bot, who.id, Draft(f"{n}"), out=False, now_s=0).messages[0]
        for n, who in enumerate((ann, bert, ann, ann, bert, ann))
    ]
    world.delete(bot, [said[3]])
    assert [each.text for each in world.history(bot, ann.id, 10)] == ["0", "2", "5"]
    assert [each.text for each in world.history(bot, ann.id, 2)] == ["2", "5"]
    assert world.history(bot, ann.id, 0) == []


def test_a_bot_has_seen_who_wrote_to_it() -> None:
    world, bot, ann = town()
    assert not world.has_seen(bot, ann.id)
    world.post(bot, ann.id, Draft("hi"), out=False, now_s=0)
    assert world.has_seen(bot, ann.id)


def test_a_username_is_found_whatever_its_case() -> None:
    world, bot, _ = town()
    anna = world.create_persona("Anna")
    assert world.resolve_username("ECHO_bot") == bot.id
    assert world.resolve_username("aNNa") == anna.id
    assert world.resolve_username("nobody") is None


def test_pending_updates_are_those_no_session_was_told() -> None:
    world, bot, ann = town()
    for number in range(3):
        change = world.post(bot, ann.id, Draft(str(number)), out=False, now_s=0)
        bot.undelivered.add(change.pts)
    assert world.undelivered_count(bot) == 3
    world.mark_pushed(bot, 3)
    assert world.undelivered_count(bot) == 2
    assert world.mark_delivered(bot, 2)
    assert world.undelivered_count(bot) == 1
    world.mark_delivered(bot, bot.pts)
    assert world.undelivered_count(bot) == 0
