"""What the brain tells operators: one type per JSON object. Pure.

docs/json.md is drawn from here by docs/draw_json.py: the docstring of a field is its meaning
there, and what follows "None:" says when it is null. Fields are added, never renamed or removed.
Durations are in seconds, sizes in bytes, and `at` is UTC seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import Desired, FleetLevel, Manner, State


@dataclass(frozen=True, slots=True)
class Readings:
    """The last readings of a process: memory in bytes, loop lag in seconds, updates handled."""

    unshared_bytes: int | None = None
    loop_lag_s: float | None = None
    updates: int | None = None


NO_READINGS = Readings()


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """A bot, the zygote or a service."""

    id: str
    """the bot's id, or the service's name such as `zygote` or `sandbox`"""
    state: State
    """where it is in its life; see [lifecycle.md](lifecycle.md)"""
    desired: Desired
    """what was asked for"""
    pid: int | None
    """its process. None: no process, or not known yet"""
    incarnation: int
    """the n-th process of this unit, ever; 0 before the first"""
    restarts: int
    """restarts that nobody asked for, since this brain started"""
    uptime_s: float | None
    """since this process was ordered. None: no process"""
    ready_s: float | None
    """how long this process took from order to ready. None: not ready yet, or no process"""
    unshared_bytes: int | None
    """memory that is this process's own; read about every sixth heartbeat. None: not said yet, no
    process, or a service"""
    cpu_percent: float | None
    """of one core, used by its process and that one's children between the brain's last two looks
    (`interval_s` of the machine); children that have ended count if they were waited for. None:
    not looked at twice yet, or no process"""
    loop_lag_s: float | None
    """how late the last heartbeat was. None: as `unshared_bytes`"""
    updates: int | None
    """updates received by this process, as of the last heartbeat. None: as `unshared_bytes`"""
    failures: int
    """failures in a row, for the backoff; 0 again after a stable period"""
    failure: FailureClass | None
    """why it is in this state. None: no failure led here"""
    retry_in_s: float | None
    """until it starts again. None: no start is planned"""
    reason: str
    """one line for people; its wording is not stable"""


@dataclass(frozen=True, slots=True)
class SupervisorStatus:
    """The brain, and what it was started with."""

    pid: int
    """the brain"""
    keeper_pid: int | None
    """the keeper. None: it is gone"""
    uptime_s: float
    """of this brain"""
    server: str
    """`production`, `test`, `sandbox` or `custom`"""
    sandbox: bool
    """whether `server` is the sandbox"""
    config: str
    """absolute path of `bots.yaml`"""
    state_dir: str
    """absolute path of the state directory"""
    stopping: bool
    """whether `dims stop` is under way"""
    cpu_percent: float | None
    """of one core, used by the brain itself, as a unit's. None: not looked twice yet"""
    sharing: Manner | None
    """how workers come by what the zygote has in memory: shared for good, or each copies the pages
    it uses. None: no zygote is ready"""
    sharing_reason: str | None
    """text for people: why it is `copy`; empty for `immortal`. None: no zygote is ready"""


@dataclass(frozen=True, slots=True)
class MachineStatus:
    """The machine that the fleet runs on, as of the brain's last look; in a container all of it."""

    cpu_percent: float | None
    """of one core, used by all processes of the machine since the look before: up to 100 times
    `cores`. None: there was no look before"""
    interval_s: float | None
    """between these two looks. None: as above"""
    cores: int
    """that the kernel schedules on"""
    load: float
    """processes that run or wait, on average over the last minute"""
    memory_bytes: int
    """of the machine"""
    memory_available_bytes: int
    """of that, what can be had without swapping"""


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """The whole fleet."""

    supervisor: SupervisorStatus
    """the brain; below"""
    machine: MachineStatus | None
    """what the fleet runs on; below. The brain looks every 5 s, and more rarely where there are
    over 125 processes, 40 ms for each of them. None: it has not looked yet"""
    services: tuple[UnitStatus, ...]
    """[units](#a-unit): the zygote first, then the others"""
    bots: tuple[UnitStatus, ...]
    """[units](#a-unit), in the order of `bots.yaml`"""


@dataclass(frozen=True, slots=True)
class FleetHealth:
    """Whether the fleet does what it is for."""

    level: FleetLevel
    """the exit code is 0, 1 or 2 in this order"""
    problems: tuple[str, ...]
    """one text each; empty when all is well"""
    wanted: int
    """bots that should run"""
    serving: int
    """of those, how many are `ready` or `degraded`"""


@dataclass(frozen=True, slots=True)
class UnitEvent:
    """A unit entered a state."""

    at: float
    """when"""
    incarnation: int
    """of the unit, as it was then"""
    state: str
    """the one entered, as the DIMS that wrote it called it"""
    reason: str
    """one line for people"""
    failure: str | None
    """why, in the same words as a unit's `failure`. None: no failure led here"""


@dataclass(frozen=True, slots=True)
class Explanation(UnitStatus):
    """Why a unit is as it is: its status, the evidence, and what happens next."""

    next: str
    """text for people: what happens next, and what to do"""
    events: tuple[UnitEvent, ...]
    """up to 20, oldest first; below"""
    sharing: Manner | None
    """as in the status: of the zygote that is there now. None: no zygote is ready"""
    sharing_reason: str | None
    """as in the status. None: no zygote is ready"""


@dataclass(frozen=True, slots=True)
class BotsAsked:
    """Which bots a request meant."""

    bots: tuple[str, ...]
    """their ids"""


# Storage


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What the PostgreSQL is, as the steward said; all null before it did."""

    version: str | None = None
    """of PostgreSQL. None: not known yet"""
    max_connections: int | None = None
    """that the server allows. None: not known yet"""
    reserved: int | None = None
    """of those, for superusers. None: not known yet"""
    revision: str | None = None
    """of the schema. None: not known yet, or the database is away and only remembered"""


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """Where an embedded PostgreSQL comes from; all null for one that is not, or does not serve."""

    source: str | None = None
    """`system` or `wheel`. None: none serves"""
    version: str | None = None
    """of its programs. None: none serves"""


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """Where bots keep their rows."""

    kind: str
    """`off`, `embedded` or `url`"""
    state: State | None
    """of the steward. None: there is no database"""
    address: str | None
    """without password. None: not known yet"""
    server: ServerStatus
    """what it is; below"""
    provider: ProviderStatus
    """where an embedded one comes from; below"""


@dataclass(frozen=True, slots=True)
class RedisStatus:
    """Where bots keep what may be lost."""

    kind: str
    """`off`, `embedded` or `url`"""
    state: State | None
    """of the embedded server. None: there is none"""


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """How connections to the database are shared among workers."""

    max_connections: int | None
    """that the server allows. None: not known yet"""
    reserved: int | None
    """of those, for superusers. None: not known yet"""
    total: int
    """all that bots may have"""
    share: int
    """kept for each bot"""
    lendable: int
    """beyond the shares"""
    leased: int
    """of those, lent now"""
    waiting: int
    """bots that wait for one"""
    waited_max_s: float
    """the longest wait so far"""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The database pool of one bot, as its worker said; `acquired`, `connects`, `failures` and
    `slow` count since its process began."""

    bot: str
    """its id"""
    open: int | None = None
    """connections. None: not said"""
    idle: int | None = None
    """of those, at rest. None: not said"""
    in_use: int | None = None
    """of those, at work. None: not said"""
    waiting: int | None = None
    """tasks that wait for one. None: not said"""
    allowed: int | None = None
    """connections it may have. None: not said"""
    acquired: int | None = None
    """times that one was taken. None: not said"""
    waited_max_s: float | None = None
    """the longest wait for one. None: not said"""
    connects: int | None = None
    """connections made. None: not said"""
    failures: int | None = None
    """connections that could not be made. None: not said"""
    slow: int | None = None
    """statements that were slow. None: not said"""


@dataclass(frozen=True, slots=True)
class SlowStatement:
    """A statement of a bot that took long."""

    bot: str
    """who asked it"""
    at: float
    """when"""
    took_s: float
    """how long it took"""
    sql: str
    """its text, up to 300 characters"""


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """What the brain knows of the fleet's storage."""

    database: DatabaseStatus
    """PostgreSQL"""
    redis: RedisStatus
    """Valkey, or another that speaks its protocol"""
    budget: BudgetStatus
    """connections, and who may have them"""
    pools: tuple[PoolStatus, ...]
    """of bots that have said so, by id"""
    slow: tuple[SlowStatement, ...]
    """up to 50, oldest first"""
    refused: Mapping[str, str]
    """by bot: why it gets no connection, for people"""
