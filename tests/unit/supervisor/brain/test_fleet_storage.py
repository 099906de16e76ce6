"""What the brain makes of what servers, the steward and workers say of storage, lies included."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dims.config import load_config
from dims.errors import RefusedError, ServiceError
from dims.layout import Layout
from dims.supervisor.brain.fleet_storage import LONGEST_SQL, SLOW_KEPT, FleetStorage
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units.units import POSTGRES, STEWARD, VALKEY

ADA, BOB, LIAR = UnitId("ada"), UnitId("bob"), UnitId("liar")
BOTS = (ADA, BOB, LIAR)
SERVER = {"version": "15", "max_connections": 13, "reserved": 3}
ROLES = {bot: [f"dims_bot_{bot}", f"S3CRET-{bot}"] for bot in BOTS}
READY = {"server": SERVER, "roles": ROLES, "refused": {}}


class Brain:
    """The storage of a fleet of three, and what their processes were told."""

    def __init__(self, directory: Path, storage: str = "{redis: off}") -> None:
        bots = "".join(f"  - {{id: {bot}, handlers: echo.py}}\n" for bot in BOTS)
        path = directory / "bots.yaml"
        path.touch(mode=0o600)
        path.write_text(f"telegram: {{server: sandbox}}\nstorage: {storage}\nbots:\n{bots}")
        (directory / "echo.py").touch()
        layout = Layout(directory / ".dims")
        layout.make()
        self.told: list[tuple[UnitId, str, Mapping[str, Any]]] = []
        self.deaf: set[UnitId] = set()
        self.storage = FleetStorage(load_config(path, {}), layout, BOTS, self._say)

    def _say(self, unit: UnitId, kind: str, body: Mapping[str, Any]) -> bool:
        self.told.append((unit, kind, body))
        return True

    def hears(self, kind: str) -> list[tuple[UnitId, Mapping[str, Any]]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return [(unit, body) for unit, of, body in told if of == kind]

    @property
    def status(self) -> dict[str, Any]:
        found = self.storage.status(dict.fromkeys((POSTGRES, VALKEY, STEWARD), "ready"))
        json.dumps(found, allow_nan=False)
        return found


@pytest.fixture
def brain(tmp_path: Path) -> Brain:
    brain = Brain(tmp_path, "{redis: off, pool: {max_size: 3}}")
    brain.storage.steward_ready(READY)
    return brain


def test_each_worker_gets_its_own_role_and_share(brain: Brain) -> None:
    terms = brain.storage.worker_terms(ADA)
    assert terms is not None
    assert terms["share"] == 2, "13 less 3 reserved, 3 for DIMS and no whole one of slack: 7"
    assert (terms["address"]["user"], terms["address"]["password"]) == tuple(ROLES[ADA])
    assert brain.status["budget"]["lendable"] == 1
    assert "S3CRET" not in json.dumps(brain.status)


def test_who_runs_is_told_a_new_password_and_nobody_else_is(brain: Brain) -> None:
    brain.hears("storage")
    brain.storage.steward_ready({**READY, "roles": {**ROLES, BOB: ["dims_bot_bob", "N3W"]}})
    [(unit, body)] = brain.hears("storage")
    assert (unit, body["address"]["password"]) == (BOB, "N3W")
    brain.storage.steward_ready({**READY, "roles": {**ROLES, BOB: ["dims_bot_bob", "N3W"]}})
    assert brain.hears("storage") == []
    found = brain.storage.worker_terms(BOB)
    assert found is not None
    assert found["address"]["password"] == "N3W"


def test_a_refused_bot_is_not_started(brain: Brain) -> None:
    brain.storage.steward_ready({**READY, "refused": {BOB: "in use\nelsewhere"}})
    brain.storage.refuse(ADA)
    with pytest.raises(ServiceError, match="in use elsewhere"):
        brain.storage.refuse(BOB)
    brain.storage.steward_ready(READY)
    brain.storage.refuse(BOB)


def test_where_the_embedded_server_will_be_is_known_before_it_serves(brain: Brain) -> None:
    before = brain.storage.worker_terms(ADA)
    assert before is not None
    brain.storage.server_ready(
        {"socket_dir": before["address"]["host"], "port": 5432, "user": "dims"}
    )
    assert brain.storage.worker_terms(ADA) == before
    [(unit, body)] = brain.hears("database")
    assert (unit, body["address"]["user"]) == (STEWARD, "dims")


@pytest.mark.parametrize(
    "said",
    [{}, {"server": {}}, {"server": {**SERVER, "reserved": "x"}},
     {"server": SERVER, "roles": {ADA: "x"}, "refused": {}}, {"server": SERVER, "roles": None}],
)  # fmt: skip
def test_nonsense_of_the_steward_is_one_of_three_errors(tmp_path: Path, said: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        Brain(tmp_path).storage.steward_ready(said)


NO_NUMBERS: list[Any] = [
    -1,
    2**53,
    10**400,
    True,
    1.5,
    float("nan"),
    float("inf"),
    None,
    "1",
    [],
    {},
]


@pytest.mark.parametrize("lie", NO_NUMBERS, ids=[repr(lie)[:8] for lie in NO_NUMBERS])
@pytest.mark.parametrize("field", ["holds", "wants", "seen"])
def test_what_is_no_number_of_connections_changes_nothing(
    brain: Brain, field: str, lie: Any
) -> None:
    before = brain.status
    with pytest.raises(ValueError, match=r"^connections: no number$"):
        brain.storage.reported(LIAR, {"holds": 0, "wants": 0, "seen": 0, field: lie})
    assert brain.status == before


def test_a_worker_that_lies_about_connections_takes_no_more_than_a_pool(brain: Brain) -> None:
    most = 2**53 - 1
    brain.storage.reported(LIAR, {"holds": most, "wants": most, "seen": most})
    assert brain.status["budget"]["leased"] == 3
    brain.storage.reported(LIAR, {"holds": most, "wants": most, "seen": most, "renews": [1]})
    brain.storage.reported(ADA, {"holds": 0, "wants": 1, "seen": 0})
    assert all(word["number"] <= 2**53 + 9 for _, word in brain.hears("connections"))
    brain.storage.gone(LIAR)
    assert ADA in dict(brain.hears("connections"))
    assert brain.status["budget"]["leased"] == 1


POOLS: list[Any] = [
    "x", 7, [], None, {"open": "x"}, {"open": float("nan")}, {"open": 10**400}, {"open": True},
    {"open": -1}, {"\x1b[2J": 1}, {f"n{number}": number for number in range(10_000)},
]  # fmt: skip


@pytest.mark.parametrize("lie", POOLS, ids=[repr(lie)[:16] for lie in POOLS])
def test_a_pool_has_no_numbers_but_those_a_pool_has(brain: Brain, lie: Any) -> None:
    brain.storage.read(LIAR, {"pool": lie})
    assert brain.status["pools"] in ([], [{"bot": LIAR}])
    brain.storage.read(ADA, {"pool": {"open": 2, "waited_max_s": 0.5}})
    assert {"bot": ADA, "open": 2, "waited_max_s": 0.5} in brain.status["pools"]
    brain.storage.gone(ADA)
    assert ADA not in {pool["bot"] for pool in brain.status["pools"]}


SLOW: list[Any] = [
    "x", {"at": 1}, [1], [{}], [{"at": "nan", "took_s": 1, "sql": ""}],
    [{"at": float("inf"), "took_s": 1, "sql": ""}], [{"at": 1, "took_s": -1, "sql": ""}],
    [{"at": [], "took_s": {}, "sql": ""}],
]  # fmt: skip


@pytest.mark.parametrize("lie", SLOW, ids=[repr(lie)[:24] for lie in SLOW])
def test_slow_queries_that_are_none_are_not_shown(brain: Brain, lie: Any) -> None:
    with suppress(KeyError, TypeError, ValueError):
        brain.storage.read(LIAR, {"slow": lie})
    assert brain.status["slow"] == []


def test_slow_queries_are_cut_and_not_too_many(brain: Brain) -> None:
    one = {"at": 1.0, "took_s": 2.0, "sql": "SELECT\n\x1b[2J" + "x" * 100_000}
    brain.storage.read(LIAR, {"slow": [one] * 1_000})
    shown = brain.status["slow"]
    assert len(shown) == SLOW_KEPT
    assert all(len(s["sql"]) <= LONGEST_SQL and s["sql"].isprintable() for s in shown)


@pytest.mark.parametrize(
    ("storage", "services"),
    [("{}", [POSTGRES, VALKEY, STEWARD]),
     ("{database: off, redis: off}", []),
     ("{database: 'postgresql://u:p@h/d', redis: off}", [STEWARD])],
)  # fmt: skip
def test_which_services_there_are(tmp_path: Path, storage: str, services: list[UnitId]) -> None:
    assert Brain(tmp_path, storage).storage.units() == services


def test_without_a_database_nobody_gets_terms_and_nothing_rotates(tmp_path: Path) -> None:
    brain = Brain(tmp_path, "{database: off, redis: off}")
    assert brain.storage.worker_terms(ADA) is None
    brain.storage.former(ADA)
    assert brain.status["budget"]["leased"] == 0
    with pytest.raises(RefusedError, match="there is no database"):
        brain.storage.check_rotates()
