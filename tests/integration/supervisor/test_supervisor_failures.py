"""How each class of failure is answered: one fleet, one bot for each failure."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fleet import Fleet, is_running, running, until

BOT = '''
import asyncio
import os
import signal
import time
from pathlib import Path

from telethon import events

bot = None


def first_time(what):
    """A redelivered message must not fail again for ever."""
    mark = Path(f"{bot.id}.{what}")
    if mark.exists():
        return False
    mark.touch()
    return True


async def setup(context):
    global bot
    if context.settings.get("setup") == "late":
        await asyncio.sleep(0.2)
    bot = context
    match bot.settings.get("setup"):
        case "die":
            os._exit(3)
        case "raise":
            raise RuntimeError("no such table: users")
        case "stubborn":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)


@events.register(events.NewMessage(incoming=True))
async def on_message(event):
    text = event.raw_text
    if text == "block" and first_time(text):
        time.sleep(3600)
    if text == "die" and first_time(text):
        os._exit(5)
    if text == "slow":
        Path(f"{bot.id}.slow").touch()
        await asyncio.sleep(1)
    if text == "raise":
        raise RuntimeError("only this handler")
    await event.respond(text)
'''

FLEET = """
telegram: {server: sandbox}
defaults:
  restart: {first_delay_s: 0.1, max_delay_s: 0.3, max_restarts: 50}
  limits: {heartbeat_s: 0.2, stuck_after_s: 1.5, drain_timeout_s: 0.5, flood_sleep_s: 0}
bots:
  - {id: well, handlers: bot.py}
  - {id: slow, handlers: bot.py, settings: {setup: late}, limits: {drain_timeout_s: 10}}
  - {id: flooded, handlers: bot.py}
  - {id: expired, handlers: bot.py}
  - {id: revoked, handlers: bot.py}
  - {id: burnt, handlers: bot.py}
  - {id: silent, handlers: bot.py, limits: {start_timeout_s: 1.5}}
  - {id: broken, handlers: broken.py}
  - {id: raising, handlers: bot.py, settings: {setup: raise}}
  - {id: blocking, handlers: bot.py}
  - {id: frozen, handlers: bot.py}
  - {id: dying, handlers: bot.py}
  - {id: stubborn, handlers: bot.py, settings: {setup: stubborn}}
  - id: looping
    handlers: bot.py
    settings: {setup: die}
    restart: {first_delay_s: 0.2, factor: 2, max_delay_s: 1, max_restarts: 3, slow_retry_s: 60}
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    files = {"bot.py": BOT, "broken.py": "async def setup(bot)\n    pass\n"}
    with running(tmp_path_factory.mktemp("failures"), FLEET, files, start=["well"]) as fleet:
        yield fleet


def states_of(fleet: Fleet, bot: str) -> list[str]:
    return [event["state"] for event in fleet.ask("explain", bot=bot)["events"]]


def new_brain(fleet: Fleet) -> None:
    before = fleet.supervisor()["pid"]
    fleet.kill(before)
    until(lambda: fleet.supervisor()["pid"] != before, "a new brain answers")
    fleet.until_ready("well")


def test_a_flood_wait_at_login_is_waited_out_and_is_no_crash(fleet: Fleet) -> None:
    login = ("--request", "auth.importBotAuthorization")
    fleet.dims("sandbox", "fault", "set", "flood_wait", "flooded", *login, "--seconds", "2")
    refused = fleet.dims("bot", "start", "flooded", code=8)
    assert "flooded is waiting: Telegram asks to wait 2 s before the next login" in refused.err
    bot = fleet.unit("flooded")
    assert (bot["state"], bot["failure"]) == ("waiting", "wait")
    assert 0 < bot["retry_in_s"] <= 2
    fleet.dims("sandbox", "fault", "clear", "flooded")
    logins = fleet.account("flooded")["logins"]
    # Asking again does not start it any sooner.
    fleet.ask("start", bots=["flooded"])
    assert fleet.unit("flooded")["state"] == "waiting"
    fleet.until_ready("flooded")
    assert fleet.account("flooded")["logins"] == logins + 1
    assert "backing_off" not in states_of(fleet, "flooded")


def test_a_flood_wait_survives_brain_and_fleet(fleet: Fleet) -> None:
    fleet.dims("bot", "stop", "flooded")
    fleet.layout.session("flooded").unlink()
    fault = {"request": "auth.importBotAuthorization", "seconds": 600}
    fleet.sandbox("fault.set", kind="flood_wait", bot="flooded", **fault)
    fleet.dims("bot", "start", "flooded", code=8)
    first_s = fleet.unit("flooded")["retry_in_s"]
    assert 580 < first_s <= 600

    new_brain(fleet)
    bot = fleet.unit("flooded")
    assert bot["state"] == "waiting"
    assert 560 < bot["retry_in_s"] <= first_s

    fleet.dims("stop")
    fleet.dims("start", "well", code=8)
    bot = fleet.until_state("flooded", "waiting")
    assert 500 < bot["retry_in_s"] <= first_s
    assert fleet.account("flooded")["logins"] == 0
    assert "starts again in" in fleet.dims("bot", "explain", "flooded").out
    assert fleet.dims("health", code=1).out.startswith("degraded: ")
    fleet.dims("bot", "stop", "flooded")


def test_a_token_that_telegram_refuses_needs_the_operator(fleet: Fleet) -> None:
    fleet.sandbox("bot.revoke_token", name="expired")
    refused = fleet.dims("bot", "start", "expired", code=8)
    assert "dims bot explain expired" in refused.err
    told = fleet.dims("bot", "explain", "expired").out
    assert "expired is failed (wanted: running)" in told
    assert "@BotFather" in told
    assert "next   nothing, until somebody acts: " in told
    assert "`dims bot start expired`" in told
    logins = fleet.sandbox("status")["requests"].get("auth.importBotAuthorization")
    fleet.sandbox("fault.set", kind="token_expired", bot="expired")
    fleet.dims("bot", "start", "expired", code=8)
    assert "token" in fleet.unit("expired")["reason"]
    assert fleet.sandbox("status")["requests"].get("auth.importBotAuthorization") != logins
    assert fleet.unit("expired")["restarts"] == 0
    fleet.dims("bot", "stop", "expired")


def test_a_bot_whose_session_was_revoked_logs_in_once_more_by_itself(fleet: Fleet) -> None:
    fleet.dims("bot", "start", "revoked")
    cold = fleet.account("revoked")["cold_logins"]
    fleet.sandbox("fault.set", kind="session_revoked", bot="revoked")
    before = fleet.unit("revoked")
    fleet.kill(before["pid"])
    fleet.until_ready("revoked", after=before["incarnation"])
    assert fleet.say("revoked", "in again") == ["in again"]
    assert fleet.account("revoked")["cold_logins"] == cold + 1
    assert fleet.account("revoked")["duplicated"] == 0
    fleet.dims("bot", "stop", "revoked")


def test_a_bot_whose_key_was_destroyed_makes_a_new_one_by_itself(fleet: Fleet) -> None:
    fleet.dims("bot", "start", "burnt")
    before = fleet.unit("burnt")
    fleet.sandbox("fault.set", kind="key_destroyed", bot="burnt")
    fleet.sandbox("fault.set", kind="cut", bot="burnt")
    fleet.until_ready("burnt", after=before["incarnation"])
    assert fleet.say("burnt", "in again") == ["in again"]
    assert "a new key will be made" in str(fleet.ask("explain", bot="burnt")["events"])
    fleet.dims("bot", "stop", "burnt")


def test_a_telegram_that_accepts_and_stays_silent_meets_the_start_deadline(fleet: Fleet) -> None:
    fleet.dims("bot", "start", "silent")
    fleet.dims("bot", "stop", "silent")
    fleet.sandbox("fault.set", kind="silence", bot="silent")
    fleet.ask("start", bots=["silent"])
    bot = fleet.until_state("silent", "backing_off", within_s=8)
    assert "in time" in bot["reason"] or "not ready within 1.5 s" in bot["reason"]
    fleet.sandbox("fault.clear", bot="silent")
    fleet.until_ready("silent")
    fleet.dims("bot", "stop", "silent")


def test_code_with_a_syntax_error_fails_with_its_place_and_starts_once_it_is_mended(
    fleet: Fleet,
) -> None:
    refused = fleet.dims("bot", "start", "broken", code=8)
    assert "broken.py:1" in refused.err
    assert "syntax error" in refused.err
    bot = fleet.unit("broken")
    assert (bot["state"], bot["failure"], bot["restarts"]) == ("failed", "needs operator", 0)
    fleet.write("broken.py", "def nothing(:\n")
    until(lambda: fleet.unit("broken")["incarnation"] > bot["incarnation"], "it is tried again")
    fleet.until_state("broken", "failed")
    fleet.write("broken.py", BOT)
    fleet.until_ready("broken")
    assert fleet.say("broken", "mended") == ["mended"]
    fleet.dims("bot", "stop", "broken")


def test_a_setup_that_raises_is_told_with_its_error(fleet: Fleet) -> None:
    refused = fleet.dims("bot", "start", "raising", code=8)
    assert "setup() of 'bot.py' raised RuntimeError: no such table: users" in refused.err
    assert "no such table" in fleet.log("raising")
    fleet.dims("bot", "stop", "raising")


def test_a_handler_that_raises_costs_its_own_message_only(fleet: Fleet) -> None:
    before = fleet.unit("well")
    fleet.tell("well", "raise")
    assert fleet.say("well", "go on") == ["go on"]
    assert fleet.unit("well")["pid"] == before["pid"]
    until(lambda: "only this handler" in fleet.log("well"), "the error is in the log")


def test_a_handler_that_blocks_the_loop_is_found_with_its_stack_and_replaced(
    fleet: Fleet,
) -> None:
    fleet.dims("bot", "start", "blocking")
    before = fleet.unit("blocking")
    fleet.tell("blocking", "block")
    fleet.until_ready("blocking", after=before["incarnation"])
    log = fleet.log("blocking")
    line = BOT[: BOT.index("time.sleep(3600)")].count("\n") + 1
    assert f'bot.py", line {line} in on_message' in log
    events = fleet.ask("explain", bot="blocking")["events"]
    assert [event["failure"] for event in events if event["state"] == "backing_off"] == ["stuck"]
    assert any(event["reason"].startswith("no heartbeat for ") for event in events)
    until(lambda: "block" in fleet.replies("blocking"), "the message is answered in the end")
    fleet.dims("bot", "stop", "blocking")


def test_a_stopped_process_is_replaced(fleet: Fleet) -> None:
    fleet.dims("bot", "start", "frozen")
    before = fleet.unit("frozen")
    fleet.kill(before["pid"], signal.SIGSTOP)
    fleet.tell("frozen", "are you there?")
    fleet.until_ready("frozen", after=before["incarnation"])
    assert not is_running(before["pid"])
    until(lambda: "are you there?" in fleet.replies("frozen"), "the message is answered")
    assert fleet.account("frozen")["duplicated"] == 0
    fleet.dims("bot", "stop", "frozen")


def test_a_crash_in_a_handler_costs_one_restart(fleet: Fleet) -> None:
    fleet.dims("bot", "start", "dying")
    before = fleet.unit("dying")
    fleet.tell("dying", "die")
    [after] = fleet.until_ready("dying", after=before["incarnation"])
    assert after["restarts"] == 1
    assert "exit code 5" in str(fleet.ask("explain", bot="dying")["events"])
    until(lambda: "die" in fleet.replies("dying"), "the message is handled again")
    fleet.dims("bot", "stop", "dying")


def test_a_crash_loop_is_slowed_down_and_stays_within_its_cap(fleet: Fleet) -> None:
    refused = fleet.dims("bot", "start", "looping", code=8)
    assert "looping is backing_off" in refused.err

    def capped() -> dict[str, Any] | None:
        bot = fleet.unit("looping")
        return bot if "slowed down" in bot["reason"] else None

    bot = until(capped, "the intensity cap is reached")
    assert "more than 3 restarts within 120 s" in bot["reason"]
    assert bot["incarnation"] == 4
    assert 25 < bot["retry_in_s"] <= 120
    events = fleet.ask("explain", bot="looping")["events"]
    waits = [e for e in events if e["state"] == "backing_off"]
    assert [f"restart {n} of 3" in e["reason"] for n, e in enumerate(waits[:3], 1)] == [True] * 3
    assert all("exit code 3" in event["reason"] for event in waits)
    assert fleet.unit("well")["state"] == "ready"
    fleet.dims("bot", "stop", "looping")
    assert fleet.unit("looping")["state"] == "stopped"


def test_a_bot_that_ignores_the_stop_is_killed_at_its_deadline(fleet: Fleet) -> None:
    fleet.dims("bot", "start", "stubborn")
    pid = fleet.unit("stubborn")["pid"]
    fleet.dims("bot", "stop", "stubborn", "--timeout", "5")
    assert not is_running(pid)
    assert fleet.unit("stubborn")["state"] == "stopped"
    fleet.dims("bot", "start", "stubborn")
    before = fleet.unit("stubborn")
    fleet.dims("bot", "restart", "stubborn", "--timeout", "5")
    assert fleet.unit("stubborn")["incarnation"] == before["incarnation"] + 1
    fleet.dims("bot", "stop", "stubborn", "--timeout", "5")


def test_a_stop_waits_for_the_handler_in_hand_and_no_message_is_handled_twice(
    fleet: Fleet,
) -> None:
    fleet.dims("bot", "start", "slow")
    fleet.tell("slow", "slow")
    until((fleet.directory / "slow.slow").exists, "the handler runs")
    fleet.dims("bot", "stop", "slow")
    assert fleet.replies("slow") == ["slow"]
    fleet.tell("slow", "said while stopped")
    fleet.dims("bot", "start", "slow")
    until(lambda: len(fleet.replies("slow")) > 1, "an answer")
    fleet.dims("bot", "restart", "slow")
    assert fleet.say("slow", "at last") == ["at last"]
    assert fleet.replies("slow") == ["slow", "said while stopped", "at last"]


def test_a_kill_in_the_middle_of_catching_up_loses_nothing(fleet: Fleet) -> None:
    """Messages of a difference have no pts of their own: they must hold the stored state back."""
    fleet.dims("bot", "start", "slow")
    assert fleet.say("slow", "before") == ["before"]
    fleet.dims("bot", "stop", "slow")
    (fleet.directory / "slow.slow").unlink(missing_ok=True)
    told = ["quick one", "slow", "quick two"]
    for text in told:
        fleet.tell("slow", text)
    fleet.ask("start", bots=["slow"])
    until((fleet.directory / "slow.slow").exists, "the handler runs")
    until(lambda: "quick two" in fleet.replies("slow"), "the others are answered")
    before = fleet.unit("slow")
    fleet.kill(before["pid"])
    fleet.until_ready("slow", after=before["incarnation"])
    until(lambda: fleet.replies("slow").count("slow") >= 2, "the killed one is answered")
    assert fleet.replies("slow").count("before") == 1, "what was finished long ago came again"
