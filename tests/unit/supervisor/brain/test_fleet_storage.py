"""What the brain makes of what servers, the steward and workers say of storage, lies included."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dims.config import load_config
from dims.errors import ProtocolError, RefusedError, ServiceError
from dims.ipc.wire.sentences import Sentence, read, written
from dims.ipc.words.fleet import Beat, ConnectionsHeld, ConnectionsLent
from dims.ipc.words.operator import PoolStatus
from dims.ipc.words.services import DatabaseMoved, ServerReady, StewardReady
from dims.ipc.words.states import State
from dims.ipc.words.terms import StoragePlace
from dims.layout import Layout
from dims.storage.connections.pool import PoolStats
from dims.supervisor.brain.providers.fleet_storage import LONGEST_SQL, SLOW_KEPT, FleetStorage
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units.service_records import services_of
from dims.supervisor.units.units import POSTGRES, SANDBOX, STEWARD, VALKEY, ZYGOTE
from dims.system.clock import SYSTEM

T = TypeVar("T")

ADA, BOB, LIAR = UnitId("ada"), UnitId("bob"), UnitId("liar")
BOTS = (ADA, BOB, LIAR)
SERVER = {"version": "15", "max_connections": 13, "reserved": 3}
ROLES = {bot: [f"dims_bot_{bot}", f"S3CRET-{bot}"] for bot in BOTS}
READY = {"server": SERVER, "roles": ROLES, "refused": {}}


def write_config(directory: Path, storage: str) -> Path:
    bots = "".join(f"  - {{id: {bot}, handlers: echo.py}}\n" for bot in BOTS)
    path = directory / "bots.yaml"
    path.touch(mode=0o600)
    path.write_text(f"telegram: {{server: sandbox}}\nstorage: {storage}\nbots:\n{bots}")
    (directory / "echo.py").touch()
    return path


class Brain:
    """The storage of a fleet of three, and what their processes were told."""

    def __init__(self, directory: Path, storage: str = "{redis: off}") -> None:
        path = write_config(directory, storage)
        layout = Layout(directory / ".dims")
        layout.make()
        self.told: list[tuple[UnitId, Sentence]] = []
        self.storage = FleetStorage(load_config(path, {}), layout, BOTS, self._say, SYSTEM)

    def _say(self, unit: UnitId, sentence: Sentence) -> bool:
        self.told.append((unit, sentence))
        return True

    def hears(self, kind: type[T]) -> list[tuple[UnitId, T]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return [(unit, said) for unit, said in told if isinstance(said, kind)]

    def steward_says(self, said: Any) -> None:
        self.storage.steward_ready(read(StewardReady, said))

    def worker_says(self, unit: UnitId, said: Any) -> None:
        self.storage.reported(unit, read(ConnectionsHeld, said))

    def beats(self, unit: UnitId, said: Any) -> None:
        self.storage.read(unit, read(Beat, said))

    @property
    def status(self) -> dict[str, Any]:
        states = dict.fromkeys((POSTGRES, VALKEY, STEWARD), State.READY)
        said = json.dumps(written(self.storage.status(states)), allow_nan=False)
        found: dict[str, Any] = json.loads(said)
        return found

    @property
    def pools(self) -> list[dict[str, Any]]:
        """What is shown of pools, without what is not known."""
        pools = self.status["pools"]
        return [{n: value for n, value in pool.items() if value is not None} for pool in pools]


@pytest.fixture
def brain(tmp_path: Path) -> Brain:
    brain = Brain(tmp_path, "{redis: off, pool: {max_size: 3}}")
    brain.steward_says(READY)
    return brain


def test_each_worker_gets_its_own_role_and_share(brain: Brain) -> None:
    terms = brain.storage.worker_terms(ADA)
    assert terms is not None
    assert terms.share == 2, "13 less 3 reserved, 3 for DIMS and no whole one of slack: 7"
    assert (terms.place.address.user, terms.place.address.password) == tuple(ROLES[ADA])
    assert brain.status["budget"]["lendable"] == 1
    assert "S3CRET" not in json.dumps(brain.status)


def test_who_runs_is_told_a_new_password_and_nobody_else_is(brain: Brain) -> None:
    brain.hears(StoragePlace)
    brain.steward_says({**READY, "roles": {**ROLES, BOB: ["dims_bot_bob", "N3W"]}})
    [(unit, body)] = brain.hears(StoragePlace)
    assert (unit, body.address.password) == (BOB, "N3W")
    brain.steward_says({**READY, "roles": {**ROLES, BOB: ["dims_bot_bob", "N3W"]}})
    assert brain.hears(StoragePlace) == []
    found = brain.storage.worker_terms(BOB)
    assert found is not None
    assert found.place.address.password == "N3W"


def test_a_refused_bot_is_not_started(brain: Brain) -> None:
    brain.steward_says({**READY, "refused": {BOB: "in use\nelsewhere"}})
    brain.storage.refuse(ADA)
    with pytest.raises(ServiceError, match="in use elsewhere"):
        brain.storage.refuse(BOB)
    brain.steward_says(READY)
    brain.storage.refuse(BOB)


def test_where_the_embedded_server_will_be_is_known_before_it_serves(brain: Brain) -> None:
    before = brain.storage.worker_terms(ADA)
    assert before is not None
    where = before.place.address.host
    brain.storage.server_ready(ServerReady(where, "dims", "18", "wheel", 5432))
    assert brain.storage.worker_terms(ADA) == before
    [(unit, body)] = brain.hears(DatabaseMoved)
    assert (unit, body.address.user) == (STEWARD, "dims")


@pytest.mark.parametrize(
    "said",
    [{}, {"server": {}}, {"server": {**SERVER, "reserved": "x"}},
     {"server": SERVER, "roles": {ADA: "x"}, "refused": {}}, {"server": SERVER, "roles": None}],
)  # fmt: skip
def test_nonsense_of_the_steward_is_refused(tmp_path: Path, said: Any) -> None:
    with pytest.raises(ProtocolError):
        Brain(tmp_path).steward_says(said)


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
    with pytest.raises(ProtocolError):
        brain.worker_says(LIAR, {"holds": 0, "wants": 0, "seen": 0, field: lie})
    assert brain.status == before


def test_a_worker_that_lies_about_connections_takes_no_more_than_a_pool(brain: Brain) -> None:
    most = 2**53 - 1
    brain.worker_says(LIAR, {"holds": most, "wants": most, "seen": most})
    assert brain.status["budget"]["leased"] == 3
    brain.worker_says(LIAR, {"holds": most, "wants": most, "seen": most, "renews": True})
    brain.worker_says(ADA, {"holds": 0, "wants": 1, "seen": 0})
    assert all(word.number <= 2**53 + 9 for _, word in brain.hears(ConnectionsLent))
    brain.storage.gone(LIAR)
    assert ADA in dict(brain.hears(ConnectionsLent))
    assert brain.status["budget"]["leased"] == 1


POOLS: list[Any] = [
    "x", 7, [], None, {"open": "x"}, {"open": float("nan")}, {"open": 10**400}, {"open": True},
    {"open": -1}, {"\x1b[2J": 1}, {f"n{number}": number for number in range(10_000)},
]  # fmt: skip


@pytest.mark.parametrize("lie", POOLS, ids=[repr(lie)[:16] for lie in POOLS])
def test_a_pool_has_no_numbers_but_those_a_pool_has(brain: Brain, lie: Any) -> None:
    brain.beats(LIAR, {"pool": lie})
    assert brain.pools in ([], [{"bot": LIAR}])
    brain.beats(ADA, {"pool": {"open": 2, "waited_max_s": 0.5}})
    assert {"bot": ADA, "open": 2, "waited_max_s": 0.5} in brain.pools
    brain.storage.gone(ADA)
    assert ADA not in {pool["bot"] for pool in brain.pools}


SLOW: list[Any] = [
    "x", {"at": 1}, [1], [{}], [{"at": "nan", "took_s": 1, "sql": ""}],
    [{"at": float("inf"), "took_s": 1, "sql": ""}], [{"at": 1, "took_s": -1, "sql": ""}],
    [{"at": [], "took_s": {}, "sql": ""}],
]  # fmt: skip


@pytest.mark.parametrize("lie", SLOW, ids=[repr(lie)[:24] for lie in SLOW])
def test_slow_queries_that_are_none_are_not_shown(brain: Brain, lie: Any) -> None:
    with suppress(ProtocolError):
        brain.beats(LIAR, {"slow": lie})
    assert brain.status["slow"] == []


def test_a_pool_is_shown_with_all_that_a_worker_counts() -> None:
    assert [field.name for field in fields(PoolStatus)[1:]] == [
        field.name for field in fields(PoolStats)
    ]


def test_slow_queries_are_cut_and_not_too_many(brain: Brain) -> None:
    one = {"at": 1.0, "took_s": 2.0, "sql": "SELECT\n\x1b[2J" + "x" * 100_000}
    brain.beats(LIAR, {"slow": [one] * 1_000})
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
    config = load_config(write_config(tmp_path, storage), {})
    found = [one.unit for one in services_of(config)]
    assert found == [ZYGOTE, *services, SANDBOX]


def test_without_a_database_nobody_gets_terms_and_nothing_rotates(tmp_path: Path) -> None:
    brain = Brain(tmp_path, "{database: off, redis: off}")
    assert brain.storage.worker_terms(ADA) is None
    brain.storage.former(ADA)
    assert brain.status["budget"]["leased"] == 0
    with pytest.raises(RefusedError, match="there is no database"):
        brain.storage.check_rotates()
