"""A fleet and its database as an operator meets them: processes die, bots go, passwords change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
from fleet import Fleet, MakeFleet, is_running, until
from stored import forgotten, postmaster, rows

from dims.errors import NotRunningError, TimedOutError
from dims.system.locks import holder

BOTS = ("ada", "bob")
ONE = """
telegram: {server: sandbox}
storage: {redis: off}
bots:
  - {id: ada, handlers: keep.py}
"""
TWO = ONE + "  - {id: bob, handlers: keep.py}\n"
KEEP = """\
from telethon import events

from dims.errors import DimsError

bot = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(incoming=True))
async def keep(event):
    try:
        await bot.db.messages.record(event)
    except DimsError as error:
        await event.respond(f"failed: {error} ({error.hint})", parse_mode=None)
        raise
    await event.respond(f"kept: {event.raw_text}", parse_mode=None)
"""
STORED = "SELECT bot_id, text FROM dims.messages"
ROLES = "SELECT rolname::text AS name FROM pg_roles WHERE rolname LIKE 'dims\\_bot\\_%'"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A started fleet with two bots."""
    fleet = Fleet(tmp_path_factory.mktemp("stored") / "fleet", TWO, {"keep.py": KEEP})
    with forgotten(fleet):
        fleet.start()
        fleet.until_ready()
        yield fleet


class Traffic:
    """Somebody who talks to both bots all the time."""

    def __init__(self, fleet: Fleet, user: str) -> None:
        self._fleet = fleet
        self._user = user
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self.said: list[str] = []

    def __enter__(self) -> Traffic:
        self._thread.start()
        until(lambda: len(self.said) > 3, "they talk")
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _talk(self) -> None:
        while not self._ended.wait(0.02):
            text = f"{self._user} {len(self.said)}"
            for bot in BOTS:
                try:
                    self._fleet.tell(bot, text, user=self._user)
                except (NotRunningError, TimedOutError):
                    continue  # the sandbox comes back with a new brain
            self.said.append(text)

    def answers(self, bot: str) -> list[str]:
        """What the bot has answered."""
        return self._fleet.replies(bot, user=self._user)

    def is_answered(self, bot: str) -> bool:
        """Whether the bot has acknowledged all that was said."""
        return {f"kept: {text}" for text in self.said} <= set(self.answers(bot))


def assert_all_is_kept(fleet: Fleet, traffic: Traffic) -> None:
    """Each message was acknowledged, and is there."""
    for bot in BOTS:
        until(partial(traffic.is_answered, bot), f"{bot} answered")
        assert not [text for text in traffic.answers(bot) if text.startswith("failed")]
        stored = {row["text"] for row in rows(fleet.layout, STORED) if row["bot_id"] == bot}
        assert set(traffic.said) <= stored


def processes(fleet: Fleet) -> set[tuple[str, int]]:
    return {(bot["id"], bot["pid"]) for bot in fleet.status()["bots"]}


def test_a_brain_that_is_killed_leaves_the_database_alone_and_nothing_is_lost(fleet: Fleet) -> None:
    server, brain = postmaster(fleet.layout), fleet.supervisor()["pid"]
    with Traffic(fleet, "ann") as traffic:
        fleet.kill(brain)
        until(lambda: fleet.supervisor()["pid"] != brain, "another brain")
        fleet.until_ready()
        seen = len(traffic.said)
        until(lambda: len(traffic.said) > seen + 10, "they talk on")
    assert postmaster(fleet.layout) == server
    assert is_running(server)
    # The sandbox was another's child: what was said while it was away was not heard.
    for bot in BOTS:
        kept = [text.removeprefix("kept: ") for text in traffic.answers(bot) if "kept: " in text]
        stored = {row["text"] for row in rows(fleet.layout, STORED) if row["bot_id"] == bot}
        assert len(kept) > 10
        assert set(kept) <= stored


def test_new_passwords_are_given_while_bots_write(fleet: Fleet) -> None:
    before = processes(fleet)
    with Traffic(fleet, "ben") as traffic:
        for _ in range(3):
            done = fleet.dims("db", "rotate", "--all", "--json").json
            assert sorted(done["rotated"]) == list(BOTS)
        seen = len(traffic.said)
        until(lambda: len(traffic.said) > seen + 5, "they talk on")
    assert_all_is_kept(fleet, traffic)
    assert processes(fleet) == before


def test_a_steward_that_is_killed_comes_back_and_nobody_else_notices(fleet: Fleet) -> None:
    before, steward = processes(fleet), fleet.unit("steward")
    with Traffic(fleet, "cyd") as traffic:
        fleet.kill(steward["pid"])
        fleet.until_state("steward", "ready", after=steward["incarnation"])
        seen = len(traffic.said)
        until(lambda: len(traffic.said) > seen + 5, "they talk on")
    assert_all_is_kept(fleet, traffic)
    assert processes(fleet) == before
    fleet.until_ready()
    fleet.dims("health", code=0)


def test_a_stop_leaves_nothing_and_a_bot_that_is_removed_loses_its_role_not_its_rows(
    fleet: Fleet,
) -> None:
    for bot in BOTS:
        assert fleet.say(bot, "a last word", user="dan") == ["kept: a last word"]
    server = postmaster(fleet.layout)
    before = len(rows(fleet.layout, STORED))
    fleet.dims("stop")
    until(lambda: not is_running(server), "the server has left")
    assert not fleet.leftovers()
    assert not fleet.layout.server_sockets("postgres").exists()
    assert holder(fleet.layout.state / "postgres.lock") is None

    fleet.write("bots.yaml", ONE)
    fleet.start()
    fleet.until_ready()
    assert [row["name"] for row in rows(fleet.layout, ROLES)] == ["dims_bot_ada"]
    stored = rows(fleet.layout, STORED)
    assert len(stored) == before
    assert ("bob", "a last word") in {(row["bot_id"], row["text"]) for row in stored}


def test_a_database_url_that_leads_nowhere_is_one_clear_error(make_fleet: MakeFleet) -> None:
    url = "postgresql://dims:secret-word@127.0.0.1:1/dims?sslmode=disable"
    fleet = make_fleet(ONE.replace("redis: off", "redis: off, database: '${DATABASE_URL}'"),
                       files={"keep.py": KEEP}, environment={"DATABASE_URL": url})  # fmt: skip
    told = fleet.dims("start", "--all", code=9)
    said = [line for line in told.err.splitlines() if line.startswith("dims: ")]
    assert len(said) == 1
    assert said[0].startswith(
        "dims: steward does not come up, and bots wait for it: "
        "cannot connect to dims@127.0.0.1:1/dims: nobody listens there"
    )
    everything = told.out + told.err + fleet.log("steward") + fleet.log("brain")
    assert "secret-word" not in everything


def test_without_a_database_a_bot_is_told_how_to_get_one(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(ONE.replace("redis: off", "redis: off, database: off"),
                       files={"keep.py": KEEP})  # fmt: skip
    fleet.start()
    fleet.until_ready()
    (said,) = fleet.say("ada", "keep this")
    assert said == "failed: ada has no database (bots.yaml: storage: database: embedded)"
    assert not (fleet.layout.state / "postgres.password").exists()
