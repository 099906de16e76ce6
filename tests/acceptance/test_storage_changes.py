"""What operators do to a fleet's storage between starts, and kills in the middle of a start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Fleet, MakeFleet, until
from storage_site import StorageSite, storage_site
from stored import forgotten

from dims.layout import Layout
from dims.storage.admin.sealed_roles import SealedRoles, roles_file

KEEP = """\
from telethon import events

bot = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(incoming=True))
async def keep(event):
    try:
        await bot.db.messages.record(event)
        count = await bot.db.fetchval("SELECT count(*) FROM messages")
    except Exception as error:
        await event.respond(f"failed: {error}", parse_mode=None)
        raise
    await event.respond(f"kept {count}", parse_mode=None)
"""


def bots_yaml(storage: str) -> str:
    return (
        f"telegram: {{server: sandbox}}\nstorage: {{redis: off{storage}}}\n"
        "bots: [{id: ada, handlers: keep.py}, {id: bob, handlers: keep.py}]\n"
    )


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[StorageSite]:
    with storage_site() as site:
        yield site


def with_storage(fleet: Fleet, storage: str) -> None:
    """The fleet with this storage, from its next start on."""
    fleet.dims("stop")
    fleet.write("bots.yaml", bots_yaml(storage))
    fleet.start()
    fleet.until_ready()


def secrets_of(layout: Layout) -> list[str]:
    sealed = SealedRoles.load(roles_file(layout.state))
    roles = filter(None, map(sealed.get, sealed.ids()))
    found = [secret for role in roles for secret in (role.password, role.verifier)]
    owner = layout.state / "postgres.password"
    return [*found, owner.read_text().strip()] if owner.exists() else found


def test_a_fleet_moves_to_another_database_to_none_and_back(
    make_fleet: MakeFleet, elsewhere: StorageSite
) -> None:
    fleet = make_fleet(bots_yaml(""), files={"keep.py": KEEP})
    url = f"postgresql://dims:{elsewhere.owner.password}@/postgres?host={elsewhere.owner.host}"
    with forgotten(fleet):
        fleet.start()
        fleet.until_ready()
        assert fleet.say("ada", "1") == ["kept 1"]
        assert fleet.say("bob", "1") == ["kept 1"]
        with_storage(fleet, f", database: '{url}', partitions: 4")
        assert fleet.say("ada", "2") == ["kept 1"], "another database"
        assert {service["id"] for service in fleet.status()["services"]} == {
            "zygote", "sandbox", "steward",
        }  # fmt: skip
        with_storage(fleet, ", database: off")
        assert "no database" in fleet.say("ada", "3")[0]
        with_storage(fleet, "")
        assert fleet.say("ada", "4") == ["kept 2"], "where it was"
        with_storage(fleet, f", database: '{url}', partitions: 4")
        assert fleet.say("ada", "5") == ["kept 2"]
        shown = fleet.dims("status", "--json").out + fleet.dims("db", "status", "--json").out
        shown += fleet.dims("bot", "explain", "ada", "--json").out
        shown += fleet.dims("db", "rotate", "--all", code=None).out
        assert fleet.say("ada", "6") == ["kept 3"]
        shown += "".join(path.read_text("utf-8", "replace") for path in fleet.layout.logs.iterdir())
        for secret in (*secrets_of(fleet.layout), elsewhere.owner.password):
            assert secret not in shown
        assert "Traceback" not in fleet.log("steward") + fleet.log("brain")
        fleet.dims("stop")


@pytest.mark.parametrize(
    ("unit", "states"),
    [
        ("postgres", {"starting"}),
        ("steward", {"starting"}),
        # Too short to be seen for sure.
        ("ada", {"starting", "ready"}),
    ],
    ids=["made", "prepared", "used"],
)
def test_a_brain_that_is_killed_in_the_first_start_is_followed_by_one_that_finishes(
    make_fleet: MakeFleet, unit: str, states: set[str]
) -> None:
    """While the database is made and started, while it is prepared, and when it is used."""
    fleet = make_fleet(bots_yaml(""), files={"keep.py": KEEP})
    with forgotten(fleet):
        starting = fleet.front("start", "--all")
        pid = until(lambda: _brain(fleet), "there is a brain")
        until(lambda: fleet.unit(unit)["state"] in states, f"{unit} is {states}")
        fleet.kill(pid)
        starting.wait(60)
        until(lambda: _brain(fleet) not in (None, pid), "there is another brain")
        fleet.until_ready()
        assert fleet.say("ada", "1") == ["kept 1"]
        assert "Traceback" not in fleet.log("steward") + fleet.log("brain")
        fleet.dims("stop")


def _brain(fleet: Fleet) -> int | None:
    try:
        return int(fleet.supervisor()["pid"])
    except Exception:  # Whatever is not there yet.
        return None


def test_a_fleet_that_was_moved_finds_its_rows(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(bots_yaml(""), files={"keep.py": KEEP})
    with forgotten(fleet):
        fleet.start()
        fleet.until_ready()
        fleet.say("ada", "1")
        fleet.dims("stop")
        moved = fleet.directory / "moved"
        fleet.layout.state.rename(moved)
        fleet.environment["DIMS_STATE_DIR"] = str(moved)
        fleet.layout = Layout(moved)
        fleet.start()
        fleet.until_ready()
        assert fleet.say("ada", "2") == ["kept 2"]
        fleet.dims("stop")
