"""The Python of the documentation, run as the bots that it says it is."""

from __future__ import annotations

from fleet import MakeFleet, until
from pages import pages, python_of

FLEET = """
telegram: {server: sandbox}
storage: {redis: off}
grants:
  - {from: [shop, ledger], to: [shop, ledger, storage], kinds: ["*"]}
bots:
  - {id: readme, handlers: readme.py}
  - {id: hello, handlers: hello.py}
  - {id: hooks, handlers: hooks.py}
  - {id: remembers, handlers: remembers.py}
  - {id: ledger, handlers: ledger.py}
  - {id: shop, handlers: shop.py}
  - {id: storage, handlers: storage.py}
"""
SHOP = """
from telethon import events
from dims import on

bot = None
asker = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(pattern="/buy", incoming=True))
async def buy(event):
    global asker
    asker = event.sender_id
    await bot.send("ledger", "order", {"item": "tea"})


@events.register(events.NewMessage(pattern="/total", incoming=True))
async def total(event):
    await event.respond(str(await bot.request("ledger", "total")))


@events.register(events.NewMessage(pattern="/again", incoming=True))
async def again(event):
    await bot.request_restart("somebody asked for it")


@on("booked")
async def booked(message):
    await bot.client.send_message(asker, f"booked: {message.body}")
"""
STORAGE = """
from dims import on


@on("places")
async def places(message):
    return 7
"""


def test_there_is_no_python_on_a_page_that_is_not_run() -> None:
    assert pages() == {
        "README.md": 1,
        "docs/messages.md": 1,
        # The others of this page run with a database in the tests of `bot.db`.
        "docs/storage.md": 6,
        "docs/writing-bots.md": 3,
    }


def test_bots_of_the_pages_do_what_the_pages_say(make_fleet: MakeFleet) -> None:
    hello, hooks, reload = python_of("docs/writing-bots.md")
    fleet = make_fleet(
        FLEET,
        files={
            "readme.py": python_of("README.md")[0],
            "hello.py": hello,
            "hooks.py": f"{hooks}\n\n{reload}",
            "remembers.py": python_of("docs/storage.md")[0],
            "ledger.py": python_of("docs/messages.md")[0],
            "shop.py": SHOP,
            "storage.py": STORAGE,
        },
    )
    fleet.start()
    assert fleet.say("readme", "hi") == ["hi"]
    assert fleet.say("hello", "/start") == ["Hello!"]
    assert fleet.say("hello", "hi") == ["hi"]
    assert fleet.say("remembers", "hi") == ["number 1"]
    assert fleet.say("remembers", "again") == ["number 2"]
    assert fleet.say("shop", "/buy") == ["booked: {'item': 'tea'}"]
    assert fleet.say("shop", "/total") == ["{'places': 7}"]
    before = fleet.unit("hooks")["incarnation"]
    fleet.dims("bot", "tell", "hooks", "reload")
    fleet.dims("bot", "stop", "hooks")
    assert fleet.unit("hooks")["incarnation"] == before

    before = fleet.unit("shop")["incarnation"]
    fleet.tell("shop", "/again")
    fleet.until_ready("shop", after=before)
    reasons = [event["reason"] for event in fleet.ask("explain", bot="shop")["events"]]
    assert any("somebody asked for it" in reason for reason in reasons), reasons
    until(lambda: fleet.say("shop", "/total") == ["{'places': 7}"], "it serves again")
