"""Bots that send each other messages, as their authors and operators meet them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import REPOSITORY, Fleet, running, until

SHOP = ("shop.py", "ledger.py")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Fleet]:
    """The example of two bots, in a directory of its own."""
    directory = tmp_path / "fleet"
    directory.mkdir()
    for name in SHOP:
        shutil.copy(REPOSITORY / "examples" / name, directory)
    text = (REPOSITORY / "examples" / "shop.yaml").read_text("utf-8")
    with running(directory, text) as fleet:
        yield fleet


def mailbox(fleet: Fleet, bot: str) -> dict[str, Any]:
    answer: dict[str, Any]
    [answer] = fleet.dims("ipc", "status", bot, "--json").json["mailboxes"]
    return answer


def until_booked(fleet: Fleet, *, count: int) -> list[str]:
    """What the customer was told once the last order is booked."""
    last = f"Booked: tea number {count}"

    def told() -> list[str] | None:
        replies = fleet.replies("shop")
        return replies if last in replies else None

    return until(told, f"order {count} booked")


def test_an_order_is_booked_and_the_reply_to_a_request_comes_back(shop: Fleet) -> None:
    assert shop.say("shop", "/buy tea") == ["Booked: tea number 1"]
    assert shop.say("shop", "/buy tea") == ["Booked: tea number 2"]
    assert shop.say("shop", "/total") == ["tea: 2"]
    shown = shop.dims("ipc", "status").out
    assert [line.split()[0] for line in shown.splitlines()] == ["BOT", "ledger", "shop"]
    answer = mailbox(shop, "ledger")
    assert answer["live"]
    assert answer["messages"] == 0
    assert answer["counters"]["settled"] == 2
    assert answer["handled_per_s"] > 0
    assert answer["links"] == ["shop"]


def test_mail_waits_for_a_bot_that_is_stopped_and_is_seen_waiting(shop: Fleet) -> None:
    shop.dims("bot", "stop", "ledger")
    for _ in range(3):
        shop.tell("shop", "/buy tea")
    until(lambda: mailbox(shop, "ledger")["messages"] == 3, "three orders wait")
    waiting = mailbox(shop, "ledger")
    assert not waiting["live"]
    assert waiting["by_priority"]["normal"]["messages"] == 3
    assert 0 <= waiting["oldest_age_s"] < 60
    peeked = shop.dims("ipc", "peek", "ledger", "--limit", "2", "--json").json["messages"]
    assert [message["body"]["item"] for message in peeked] == ["tea", "tea"]
    assert "no reader" in shop.dims("ipc", "status").out
    shop.dims("bot", "start", "ledger")
    assert sorted(until_booked(shop, count=3)) == [f"Booked: tea number {n}" for n in (1, 2, 3)]


def test_bots_go_on_talking_while_keeper_and_brain_are_dead(shop: Fleet) -> None:
    assert shop.say("shop", "/buy tea") == ["Booked: tea number 1"]
    assert shop.say("shop", "/total") == ["tea: 1"]
    supervisor = shop.supervisor()
    shop.kill(supervisor["keeper_pid"])
    shop.kill(supervisor["pid"])
    assert shop.say("shop", "/buy tea") == ["Booked: tea number 2"]
    assert shop.say("shop", "/total") == ["tea: 2"]
    assert mailbox(shop, "ledger")["counters"]["settled"] == 2
    shop.dims("start")
    shop.until_ready()
    assert shop.say("shop", "/buy tea") == ["Booked: tea number 3"]


def test_no_order_is_lost_or_booked_twice_when_the_brain_is_killed(shop: Fleet) -> None:
    for number in range(30):
        shop.tell("shop", "/buy tea")
        if number == 10:
            shop.kill(shop.supervisor()["pid"])
    until_booked(shop, count=30)
    shop.until_ready()
    assert shop.say("shop", "/total") == ["tea: 30"]


def test_no_order_is_lost_or_booked_twice_when_the_ledger_is_killed_again_and_again(
    shop: Fleet,
) -> None:
    killed: set[int] = set()

    def another() -> int | None:
        # The status may still name the last one: its end and the brain's knowledge of it are two.
        pid = shop.unit("ledger")["pid"]
        return pid if pid not in killed else None

    for number in range(40):
        shop.tell("shop", "/buy tea")
        if number % 10 == 5:
            pid = until(another, "the ledger's next worker has started")
            killed.add(pid)
            shop.kill(pid)
    until_booked(shop, count=40)
    shop.until_ready()
    assert shop.say("shop", "/total") == ["tea: 40"]
    assert set(shop.replies("shop")) >= {f"Booked: tea number {n}" for n in range(1, 41)}


def test_a_stopped_process_holds_up_only_itself(shop: Fleet) -> None:
    pid = shop.unit("ledger")["pid"]
    shop.kill(pid, signal.SIGSTOP)
    try:
        shop.tell("shop", "/buy tea")
        assert shop.dims("ipc", "send", "shop", "booked", '{"customer": 1, "text": "x"}').out
        until(lambda: mailbox(shop, "shop")["messages"] == 0, "the shop reads on")
    finally:
        shop.kill(pid, signal.SIGCONT)
    until_booked(shop, count=1)


def test_an_operator_sends_asks_and_deals_with_the_dead(shop: Fleet) -> None:
    ordered = json.dumps({"item": "tea", "customer": 1})
    shop.dims("ipc", "send", "ledger", "order", ordered, "--priority", "urgent")
    until(lambda: mailbox(shop, "ledger")["counters"].get("settled") == 1, "the order is settled")
    asked = shop.dims("ipc", "send", "ledger", "total", "--request")
    assert json.loads(asked.out) == {"tea": 1}

    secret = json.dumps({"item": "tea", "customer": "sesame"})
    shop.dims("ipc", "send", "ledger", "order", secret)
    shop.dims("ipc", "send", "ledger", "nonsense")
    until(lambda: mailbox(shop, "ledger")["dead"] == 2, "two letters are dead")
    letters = shop.dims("ipc", "dead", "list", "--json").json["dead"]
    assert letters[0]["reason"].startswith("the body does not fit: customer: ")
    assert "sesame" not in letters[0]["reason"]
    assert "sesame" not in shop.log("ledger")
    assert letters[1]["reason"] == "no handler for 'nonsense'"
    shown = shop.dims("ipc", "dead", "show", "ledger", str(letters[0]["n"]), "--json").json
    assert shown["message"]["body"] == {"item": "tea", "customer": "sesame"}

    again = shop.dims("ipc", "dead", "replay", "ledger", str(letters[1]["n"]), "--json").json
    assert again == {"replayed": [letters[1]["n"]]}
    until(lambda: mailbox(shop, "ledger")["counters"]["dead"] == 3, "it died again")
    assert len(shop.dims("ipc", "dead", "drop", "ledger", "--all", "--json").json["dropped"]) == 2
    assert mailbox(shop, "ledger")["dead"] == 0


TALKERS = """
telegram:
  server: sandbox
grants:
  - {from: admin, to: brain, kinds: [stop]}
  - {from: admin, to: worker, kinds: [slow]}
ipc:
  attempts: 2
  retry_first_s: 0.01
  retry_max_s: 0.01
bots:
  - {id: admin, handlers: admin.py}
  - {id: worker, handlers: worker.py}
  - {id: silent, handlers: silent.py}
"""
ADMIN = """
import asyncio
from telethon import events
bot = None
async def setup(context):
    global bot
    bot = context
    @bot.on("own")
    async def own(message):
        return [message.body, message.sender, message.durable]
@events.register(events.NewMessage(pattern=r"/(\\w+) ?(.*)", incoming=True))
async def command(event):
    word, rest = event.pattern_match.group(1), event.pattern_match.group(2)
    try:
        match word:
            case "forbidden":
                said = await bot.send("worker", "other", {})
            case "silent":
                said = await bot.request("silent", "x", timeout_s=0.2)
            case "restart":
                said = await bot.send("brain", "restart", {"bots": ["worker"]})
            case "stop":
                said = await bot.send("brain", "stop", {"bots": [rest]})
            case "slow":
                said = await bot.request("worker", "slow", float(rest), timeout_s=0.5)
            case "own":
                said = await bot.request(bot.id, "own", 7, durable=rest == "durable")
            case "badbody":
                said = await bot.send(bot.id, "own", object())
            case "badkind":
                said = await bot.send(bot.id, "reply", {})
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    await event.respond(str(said))
"""
WORKER = """
import asyncio
from dims import on
@on("slow")
async def slow(message):
    try:
        await asyncio.sleep(message.body)
    except asyncio.CancelledError:
        print("cancelled a slow one")
        raise
    if message.body < 0:
        raise ValueError("too fast")
    return "done"
@on("fails")
async def fails(message):
    print(f"attempt {message.attempt} redelivered {message.redelivered}")
    raise RuntimeError("never works")
"""


@pytest.fixture(scope="module")
def talkers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    files = {"admin.py": ADMIN, "worker.py": WORKER, "silent.py": "async def setup(bot): ..."}
    with running(tmp_path_factory.mktemp("talkers") / "fleet", TALKERS, files) as fleet:
        yield fleet


def test_what_no_grant_allows_is_refused_with_the_line_that_would_allow_it(talkers: Fleet) -> None:
    [said] = talkers.say("admin", "/forbidden")
    assert said == "RefusedError: no grant lets admin send 'other' to worker"
    [said] = talkers.say("admin", "/silent")
    assert said == "RefusedError: no grant lets admin send 'x' to silent"
    [said] = talkers.say("admin", "/restart")
    assert said == "RefusedError: no grant lets admin send 'restart' to brain"
    assert talkers.unit("worker")["state"] == "ready"


def test_a_request_is_answered_and_one_that_is_late_cancels_the_handler(talkers: Fleet) -> None:
    assert talkers.say("admin", "/slow 0.01") == ["done"]
    [said] = talkers.say("admin", "/slow 30")
    assert said == "TimedOutError: no answer to 'slow' from worker within 0.5 s"
    until(lambda: "cancelled a slow one" in talkers.log("worker"), "the handler is cancelled")


def test_what_a_handler_raises_comes_back_to_the_asker(talkers: Fleet) -> None:
    assert talkers.say("admin", "/slow -1") == ["RemoteError: ValueError: too fast"]


def test_a_bot_may_write_to_itself_and_any_json_value_will_do(talkers: Fleet) -> None:
    assert talkers.say("admin", "/own") == ["[7, 'admin', False]"]
    assert talkers.say("admin", "/own durable") == ["[7, 'admin', True]"]
    [said] = talkers.say("admin", "/badbody")
    assert said.startswith("ProtocolError: message 'own' is not JSON")
    [said] = talkers.say("admin", "/badkind")
    assert said.startswith("UsageError: 'reply' is no kind of message")


def test_a_message_that_always_fails_is_tried_again_and_then_dead(talkers: Fleet) -> None:
    talkers.dims("ipc", "send", "worker", "fails")
    until(lambda: mailbox(talkers, "worker")["dead"] == 1, "it is dead")
    [letter] = talkers.dims("ipc", "dead", "list", "worker", "--json").json["dead"]
    assert letter["reason"] == "RuntimeError: never works"
    assert letter["attempts"] == 2
    log = talkers.log("worker")
    assert "attempt 1 redelivered False" in log
    assert "attempt 2 redelivered True" in log


def test_a_bot_with_the_grant_stops_another_and_it_stays_stopped(talkers: Fleet) -> None:
    talkers.say("admin", "/stop worker")
    talkers.until_state("worker", "stopped")
    assert talkers.unit("worker")["desired"] == "stopped"
    [said] = talkers.say("admin", "/slow 0.01")
    assert said.startswith("NotRunningError: worker is stopped")
    talkers.dims("bot", "start", "worker")
    assert talkers.say("admin", "/slow 0.01") == ["done"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ipc", "send", "warker", "order"), "did you mean 'worker'?"),
        (("ipc", "send", "worker", "order", "{tea}"), "the body is no JSON"),
        (("ipc", "send", "*", "order"), "no single bot"),
        (("ipc", "status", "nobody-*"), "there is no mailbox 'nobody-*'"),
        (("ipc", "dead", "show", "worker", "7"), "there is no dead letter 7"),
        (("ipc", "dead", "drop", "worker"), "name dead letters by number, or say --all"),
        (("ipc", "dead", "replay", "worker", "1", "--all"), "or say --all"),
    ],
)
def test_bad_input_gives_one_clear_line(talkers: Fleet, words: tuple[str, ...], said: str) -> None:
    result = talkers.dims(*words, code=2)
    assert said in result.err
    assert mailbox(talkers, "worker")["messages"] == 0
