"""Messages of the sandbox by example: what is kept, told, forgotten and delivered."""

from __future__ import annotations

from collections.abc import Iterable

from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.box import Box, ChatMessage, Difference, Draft, UserId
from dims.sandbox.telegram.world import BOX_LIMIT, World

ANN = UserId(5_000_000_001)
DRAFT = Draft("hi", entities=("bold",), markup="buttons", reply_to=7, random_id=99)


def never(_: UserId) -> Iterable[ChatMessage]:
    raise AssertionError("this box need not be read")


def town() -> tuple[World, Bot]:
    world = World(b"secret")
    return world, world.create_bot("echo")


def post(world: World, bot: Bot, text: str = "hi", *, out: bool = False) -> ChatMessage:
    return world.post(bot, ANN, Draft(text), out=out, now_s=0).messages[0]


def loaded(*messages: ChatMessage, pts: int, delivered_pts: int) -> tuple[World, Bot]:
    """A bot as it is read from disk."""
    world = World(b"secret", lambda _: messages)
    bot = Bot(UserId(5), "old", "old_bot", "5:x", pts=pts, delivered_pts=delivered_pts)
    world.add_bot(bot)
    return world, bot


def test_a_message_has_all_that_was_said() -> None:
    world, bot = town()
    first = post(world, bot)
    change = world.post(bot, ANN, DRAFT, out=True, now_s=12)
    (message,) = change.messages
    assert message == ChatMessage(
        id=first.id + 1,
        peer_id=ANN,
        out=True,
        date_s=12,
        text="hi",
        entities=("bold",),
        markup="buttons",
        reply_to=7,
        random_id=99,
        created_pts=bot.pts,
    )
    assert world.message(bot, message.id) is message
    assert world.message(bot, 999) is None
    assert world.box(bot).by_random_id == {99: message.id}


def test_an_edit_replaces_what_was_said_and_is_told_once() -> None:
    world, bot = town()
    message = post(world, bot)
    before = bot.pts
    world.edit(bot, message, Draft("one"), now_s=5)
    world.edit(bot, message, DRAFT, now_s=6)
    assert (message.text, message.entities, message.markup) == ("hi", ("bold",), "buttons")
    assert (message.edit_date_s, message.edited_pts) == (6, bot.pts)
    assert world.difference(bot, before, 10) == Difference(
        (), ((bot.pts, message),), (), bot.pts, is_final=True
    )
    assert len(world.box(bot).changes) == 2


def test_a_difference_tells_new_edited_and_deleted_apart() -> None:
    world, bot = town()
    begun = bot.pts
    new, edited, deleted = (post(world, bot, text) for text in ("new", "edited", "deleted"))
    world.edit(bot, edited, Draft("again"), now_s=1)
    world.delete(bot, [deleted])
    assert world.difference(bot, begun, 10) == Difference(
        (new, edited),
        ((edited.edited_pts, edited),),
        ((deleted.deleted_pts, deleted),),
        bot.pts,
        is_final=True,
    )


def test_a_difference_says_whether_there_is_more() -> None:
    world, bot = town()
    begun = bot.pts
    first, second = post(world, bot), post(world, bot)
    part = world.difference(bot, begun, 1)
    assert part == Difference((first,), (), (), first.created_pts, is_final=False)
    assert world.difference(bot, begun, 2) == Difference(
        (first, second), (), (), bot.pts, is_final=True
    )


def test_who_knows_everything_needs_no_box() -> None:
    world = World(b"secret", never)
    bot = Bot(UserId(5), "old", "old_bot", "5:x", pts=9, delivered_pts=9)
    world.add_bot(bot)
    nothing = Difference((), (), (), 9, is_final=True)
    assert world.difference(bot, 9, 10) == world.difference(bot, 10, 10) == nothing
    assert world.undelivered_count(bot) == 0


def test_a_loaded_box_knows_what_no_session_was_told() -> None:
    messages = [
        ChatMessage(1, ANN, out=False, date_s=0, text="told", created_pts=2),
        ChatMessage(2, ANN, out=False, date_s=0, text="waits", created_pts=3),
        ChatMessage(3, ANN, out=True, date_s=0, text="its own", created_pts=4),
    ]
    world, bot = loaded(*messages, pts=4, delivered_pts=2)
    assert world.undelivered_count(bot) == 1
    assert bot.undelivered == {3}


def test_what_was_told_up_to_some_point_is_so_far_delivered() -> None:
    world, bot = town()
    told = [post(world, bot).created_pts for _ in range(3)]
    post(world, bot, out=True)
    bot.undelivered.update(told)
    assert world.mark_delivered(bot, told[0])
    assert (bot.delivered_pts, bot.undelivered) == (told[0], {*told[1:]})
    assert not world.mark_delivered(bot, told[0] - 1)
    assert bot.delivered_pts == told[0]
    assert world.mark_delivered(bot, told[2])
    assert (bot.delivered_pts, bot.undelivered) == (bot.pts, set())


def test_what_was_pushed_one_by_one_is_delivered_with_the_last() -> None:
    world, bot = town()
    before = bot.delivered_pts
    first, second = post(world, bot).created_pts, post(world, bot).created_pts
    bot.undelivered.update({first, second})
    world.mark_pushed(bot, second)
    assert (bot.delivered_pts, bot.undelivered) == (before, {first})
    world.mark_pushed(bot, first)
    assert (bot.delivered_pts, bot.undelivered) == (bot.pts, set())


def test_a_box_over_its_limit_forgets_its_oldest_tenth() -> None:
    world, bot = town()
    box = world.box(bot)
    for number in range(1, BOX_LIMIT + 1):
        box.messages[number] = ChatMessage(number, ANN, out=False, date_s=0, text="")
    assert world.trim(bot) == []
    box.messages[BOX_LIMIT + 1] = ChatMessage(BOX_LIMIT + 1, ANN, out=False, date_s=0, text="")
    assert world.trim(bot) == list(range(1, BOX_LIMIT // 10 + 1))


def test_a_box_knows_how_far_back_it_reaches() -> None:
    box = Box()
    assert box.horizon_pts == 0
    for number in (1, 2):
        box.add(ChatMessage(number, ANN, False, 0, "", random_id=number, created_pts=number + 1))
    box.add(ChatMessage(3, ANN, False, 0, "", created_pts=4))
    assert (box.horizon_pts, box.by_random_id) == (0, {1: 1, 2: 2})
    assert box.forget_oldest(1) == [1]
    assert (box.horizon_pts, box.by_random_id) == (2, {2: 2})
    assert box.changes == [(3, 2), (4, 3)]
    assert box.forget_oldest(9) == [2, 3]
    assert (box.horizon_pts, box.by_random_id, box.changes) == (0, {}, [])
