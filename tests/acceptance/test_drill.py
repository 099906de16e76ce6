"""Promises 1 and 2 under fire: random kill -9 with traffic; nobody runs twice, nothing is lost."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import suppress
from functools import partial

from fleet import ECHO, Fleet, MakeFleet, until

from dims.errors import NotRunningError, TimedOutError

BOTS = ("ada", "bob", "cyd")
VICTIMS = ("worker",) * 21 + ("zygote",) * 6 + ("brain",) * 3
"""Thirty kills. A brain that dies again and again is started again after up to 5 s: few of them."""
BETWEEN_S = 0.15
PAUSE_S = 0.08
"""The sandbox shows the newest 1,000 messages of a chat: questions, answers and second answers of
the longest run here have to fit."""
FLEET = """
telegram: {server: sandbox}
defaults:
  restart: {first_delay_s: 0.05, max_delay_s: 0.2, max_restarts: 1000}
  limits: {heartbeat_s: 0.5, stuck_after_s: 20, drain_timeout_s: 3}
bots:
  - {id: ada, handlers: echo.py}
  - {id: bob, handlers: echo.py}
  - {id: cyd, handlers: echo.py}
"""


class Traffic:
    """People who talk to every bot all the time; `said` is what each bot was told."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self.said: dict[str, list[str]] = {bot: [] for bot in BOTS}

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _talk(self) -> None:
        while not self._ended.wait(PAUSE_S):
            for bot, said in self.said.items():
                text = f"{bot} {len(said)}"
                # A new brain gives the sandbox a new process too: then nobody hears us.
                with suppress(NotRunningError, TimedOutError):
                    self._fleet.tell(bot, text)
                    said.append(text)


def victim_of(fleet: Fleet, kind: str, dice: random.Random) -> int | None:
    """A process of that kind that runs now."""
    try:
        status = fleet.status()
    except (NotRunningError, TimedOutError):
        return None
    pid: int | None
    match kind:
        case "worker":
            pid = dice.choice([bot["pid"] for bot in status["bots"]])
        case "zygote":
            pid = fleet.unit("zygote")["pid"]
        case _:
            pid = status["supervisor"]["pid"]
    return pid


def has_answered(fleet: Fleet, bot: str, said: list[str]) -> bool:
    """Whether each text has come back."""
    return set(said) <= set(fleet.replies(bot))


def test_thirty_random_kills_lose_no_message_and_no_bot_ever_runs_twice(
    make_fleet: MakeFleet,
) -> None:
    seed = random.randrange(10**6)
    dice = random.Random(seed)
    fleet = make_fleet(FLEET, files={"echo.py": ECHO})
    fleet.start()
    killed: list[str] = []
    with Traffic(fleet) as traffic:
        for kind in dice.sample(VICTIMS, len(VICTIMS)):
            pid = until(partial(victim_of, fleet, kind, dice), f"a {kind} runs; {seed=} {killed=}")
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue  # it just left by itself
            killed.append(kind)
            time.sleep(dice.uniform(0, BETWEEN_S))
    assert len(killed) > 25, (seed, killed)
    fleet.until_ready()
    for bot, said in traffic.said.items():
        until(
            partial(has_answered, fleet, bot, said),
            f"{bot} answered all of {len(said)} messages; {seed=} {killed=}",
        )
        assert fleet.account(bot)["cold_logins"] <= 1, (seed, killed)
        assert fleet.account(bot)["duplicated"] == 0, (seed, killed)
    # The sandbox forgets its counts with each process; the fleet's own log does not.
    assert "two places" not in fleet.log("brain"), (seed, killed)
    fleet.until_ready()
    fleet.dims("health", code=0)
