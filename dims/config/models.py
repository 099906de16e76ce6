"""What a valid configuration is: frozen models, their ranges and their defaults.

Knows neither YAML nor files nor the environment. Durations are in seconds and end in `_s`;
secrets are `SecretStr`, so that no repr, log or traceback shows them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from dims.addresses import PostgresAddress, parse_postgres_url
from dims.config.servers import Database, DatabaseKind, OtherDatabase, Redis
from dims.config.text.variables import FromVariable
from dims.errors import UsageError
from dims.wording import did_you_mean

WEEK_S = 604_800
RESERVED_IDS = (
    "auditor",
    "brain",
    "cli",
    "keeper",
    "migrator",
    "operator",
    "postgres",
    "sandbox",
    "steward",
    "valkey",
    "zygote",
)
"""No bot may have these: they name DIMS's own processes in messages, units and log files."""
_USERNAME = re.compile(r"@[A-Za-z][A-Za-z0-9_]{3,31}")
_ID_GLOB = re.compile(r"[a-z*?][a-z0-9_*?-]{0,63}")
_KIND_GLOB = re.compile(r"[A-Za-z*?][A-Za-z0-9_.*?-]{0,63}")
_PREFIX = re.compile(r"(?!pg(?:_|$))[a-z][a-z0-9_]{0,15}")
"""PostgreSQL keeps names that begin with pg_ for itself."""


def _number(value: object) -> object:
    """A value that came from ${NAME} is text even where a number is meant: read it as one."""
    if isinstance(value, FromVariable):
        for read in (int, float):
            try:
                return read(value)
            except ValueError:
                continue
    return value


def _truth(value: object) -> object:
    """As `_number`, for true and false."""
    words = {"true": True, "false": False}
    return words.get(value, value) if isinstance(value, FromVariable) else value


def _plain_text(value: object) -> object:
    return str(value) if isinstance(value, FromVariable) else value


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _admin(value: object) -> int | str:
    number = _number(value)
    if isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**53:
        return number
    if isinstance(value, str) and _USERNAME.fullmatch(value):
        return str(value)
    raise ValueError("must be a numeric user id such as 123456789 or a username such as '@alice'")


def _id_glob(value: str) -> str:
    if not _ID_GLOB.fullmatch(value):
        raise ValueError("must be bot ids such as 'echo', with * and ? for any characters")
    return value


def _kind_glob(value: str) -> str:
    if not _KIND_GLOB.fullmatch(value):
        raise ValueError(
            "must be up to 64 letters, digits, '_', '.' or '-', begin with a letter, "
            "with * and ? for any characters"
        )
    return value


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError(
            "must be 1 to 16 lower-case letters, digits or '_', begin with a letter, "
            "and leave pg to PostgreSQL"
        )
    return value


def _some(value: object) -> object:
    if value in ([], ()):
        raise ValueError("must name at least one")
    return _tuple(value)


Seconds = Annotated[
    float, Field(gt=0, le=WEEK_S, strict=True, allow_inf_nan=False), BeforeValidator(_number)
]
SecondsOrZero = Annotated[
    float, Field(ge=0, le=WEEK_S, strict=True, allow_inf_nan=False), BeforeValidator(_number)
]
Factor = Annotated[
    float, Field(ge=1, le=100, strict=True, allow_inf_nan=False), BeforeValidator(_number)
]
WholeNumber = Annotated[int, Field(strict=True), BeforeValidator(_number)]
PlainText = Annotated[str, AfterValidator(str)]
Truth = Annotated[bool, Field(strict=True), BeforeValidator(_truth)]
Secret = Annotated[SecretStr, Field(min_length=1), BeforeValidator(_plain_text)]
Admin = Annotated[int | str, BeforeValidator(_admin)]

Admins = Annotated[tuple[Admin, ...], Field(max_length=1_000), BeforeValidator(_tuple)]
IdGlobs = Annotated[
    tuple[Annotated[PlainText, AfterValidator(_id_glob)], ...], BeforeValidator(_some)
]
KindGlobs = Annotated[
    tuple[Annotated[PlainText, AfterValidator(_kind_glob)], ...], BeforeValidator(_some)
]


class Section(BaseModel):
    """The base of every section: frozen, closed, and silent about its input in errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True
    )


class ServerKind(StrEnum):
    """Which Telegram the fleet talks to."""

    PRODUCTION = "production"
    TEST = "test"
    SANDBOX = "sandbox"
    CUSTOM = "custom"


class ServerSettings(Section):
    """Where the MTProto server is; address fields are None for the sandbox, which picks its own.

    `public_key_file` holds a PKCS#1 RSA public key; None means Telegram's own keys.
    """

    kind: ServerKind
    host: str | None = None
    port: Annotated[WholeNumber, Field(ge=1, le=65_535)] | None = None
    dc: Annotated[WholeNumber, Field(ge=1, le=999)] | None = None
    public_key_file: Path | None = None

    @field_validator("host")
    @classmethod
    def _literal(cls, host: str | None) -> str | None:
        """Telethon keeps the address in its session, which has no room for names."""
        if host is not None:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                raise ValueError(
                    "must be an IP address such as 127.0.0.1, because sessions keep no names"
                ) from None
        return host

    @classmethod
    def named(cls, kind: ServerKind) -> Self:
        """The published server of that kind (my.telegram.org; DC 2 is Telethon's default)."""
        hosts = {ServerKind.PRODUCTION: "149.154.167.51", ServerKind.TEST: "149.154.167.40"}
        if kind in hosts:
            return cls(kind=kind, host=hosts[kind], port=443, dc=2)
        return cls(kind=kind)


class TelegramSettings(Section):
    """The connection all bots share; `sandbox_port` 0 lets the sandbox take any free port."""

    server: ServerSettings
    api_id: Annotated[WholeNumber, Field(ge=1, le=2**31 - 1)] | None = None
    api_hash: Secret | None = None
    proxy: Secret | None = None
    sandbox_port: Annotated[WholeNumber, Field(ge=0, le=65_535)] = 0


class RestartSettings(Section):
    """When a crashed bot comes back.

    Delays grow from `first_delay_s` by `factor` up to `max_delay_s` and start over after
    `stable_after_s` of health. More than `max_restarts` crashes within `within_s` turn to
    one retry every `slow_retry_s`.
    """

    first_delay_s: SecondsOrZero = 1.0
    factor: Factor = 2.0
    max_delay_s: SecondsOrZero = 300.0
    stable_after_s: SecondsOrZero = 60.0
    max_restarts: Annotated[WholeNumber, Field(ge=0, le=10_000)] = 5
    within_s: Seconds = 120.0
    slow_retry_s: Seconds = 900.0

    @field_validator("max_delay_s")
    @classmethod
    def _not_below_first(cls, max_delay_s: float, info: ValidationInfo) -> float:
        first_delay_s = info.data.get("first_delay_s", 0.0)
        if max_delay_s < first_delay_s:
            raise ValueError(
                f"max_delay_s ({max_delay_s:g}) must not be below first_delay_s ({first_delay_s:g})"
            )
        return max_delay_s


class LimitSettings(Section):
    """What one worker may take: time, log space, handlers in hand, open files."""

    start_timeout_s: Seconds = 60.0
    heartbeat_s: Seconds = 10.0
    stuck_after_s: Seconds = 45.0
    drain_timeout_s: SecondsOrZero = 20.0
    health_timeout_s: Seconds = 20.0
    flood_sleep_s: Annotated[WholeNumber, Field(ge=0, le=86_400)] = 5
    log_bytes: Annotated[WholeNumber, Field(ge=1_024, le=10**12)] = 10_000_000
    log_files: Annotated[WholeNumber, Field(ge=1, le=100)] = 3
    handlers_at_once: Annotated[WholeNumber, Field(ge=1, le=100_000)] = 100
    open_files: Annotated[WholeNumber, Field(ge=64, le=1_048_576)] = 4_096

    @field_validator("stuck_after_s")
    @classmethod
    def _above_heartbeat(cls, stuck_after_s: float, info: ValidationInfo) -> float:
        heartbeat_s = info.data.get("heartbeat_s", 0.0)
        if stuck_after_s <= heartbeat_s:
            raise ValueError(
                f"stuck_after_s ({stuck_after_s:g}) must be above heartbeat_s ({heartbeat_s:g}), "
                "or every bot would look stuck"
            )
        return stuck_after_s


class MemorySharing(StrEnum):
    """How workers get what the zygote has in memory: shared for good where that is known to work,
    or copied page by page as they use it."""

    AUTO = "auto"
    COPY = "copy"


class FleetSettings(Section):
    """How the supervisor starts many bots; see `Config.cold_login_limit` for None."""

    starts_at_once: Annotated[WholeNumber, Field(ge=1, le=1_000)] = 8
    cold_logins_per_minute: Annotated[WholeNumber, Field(ge=1, le=100_000)] | None = None
    sharing: MemorySharing = MemorySharing.AUTO


class Durability(StrEnum):
    """What a durable message outlives: the end of any process, or a power cut as well."""

    PROCESS = "process"
    POWER = "power"


class IpcSettings(Section):
    """What messages between bots may take: disk, tries, time, handlers in hand.

    A handler that fails is tried `attempts` times in all, after delays that grow from
    `retry_first_s` up to `retry_max_s`; then its message is a dead letter.
    """

    durability: Durability = Durability.PROCESS
    mailbox_bytes: Annotated[WholeNumber, Field(ge=1_048_576, le=10**12)] = 268_435_456
    attempts: Annotated[WholeNumber, Field(ge=1, le=100)] = 5
    retry_first_s: SecondsOrZero = 0.2
    retry_max_s: SecondsOrZero = 30.0
    request_timeout_s: Seconds = 10.0
    handlers_at_once: Annotated[WholeNumber, Field(ge=1, le=10_000)] = 16

    @field_validator("retry_max_s")
    @classmethod
    def _not_below_first(cls, retry_max_s: float, info: ValidationInfo) -> float:
        retry_first_s = info.data.get("retry_first_s", 0.0)
        if retry_max_s < retry_first_s:
            raise ValueError(
                f"retry_max_s ({retry_max_s:g}) must not be below retry_first_s ({retry_first_s:g})"
            )
        return retry_max_s


class GrantSettings(Section):
    """Who may send which kinds of message to whom, all as globs.

    `sender` is the key `from` of the file, which Python keeps for itself; in `to`, the word
    `brain` stands for DIMS itself. The meaning is that of `dims.ipc.grants`.
    """

    sender: IdGlobs = Field(alias="from")
    to: IdGlobs
    kinds: KindGlobs = ("*",)


class Preset(StrEnum):
    """How large the connection pools of the workers are; see `PRESETS`."""

    SMALL = "small"
    DEFAULT = "default"
    LARGE = "large"


class PoolSettings(Section):
    """The connections of one worker: how many, how long kept, how long waited for.

    A bot's role may have 10 at once. A statement that takes `slow_s` is logged. Reads go to the
    replica while it is at most `replica_lag_s` behind.
    """

    max_size: Annotated[WholeNumber, Field(ge=1, le=10)] = 4
    idle_s: Seconds = 10.0
    acquire_s: Seconds = 5.0
    statement_s: Seconds = 30.0
    slow_s: Seconds = 0.5
    replica_lag_s: SecondsOrZero = 2.0


PRESETS = {
    Preset.SMALL: PoolSettings(max_size=2, idle_s=5.0, statement_s=10.0),
    Preset.DEFAULT: PoolSettings(),
    Preset.LARGE: PoolSettings(
        max_size=8, idle_s=60.0, acquire_s=10.0, statement_s=60.0, slow_s=1.0
    ),
}


class StorageSettings(Section):
    """Where the fleet's data are, and what the workers' connections may take.

    `database` and `redis` are a word or a URL; URLs stay secret, and `database_address` and its
    like give them parsed. `pool` is complete: the preset with the file's own keys over it.
    """

    database: Database = DatabaseKind.EMBEDDED
    replica: OtherDatabase = None
    pooler: OtherDatabase = None
    redis: Redis = DatabaseKind.EMBEDDED
    preset: Preset = Preset.DEFAULT
    pool: PoolSettings = Field(default_factory=PoolSettings)
    prefix: Annotated[PlainText, AfterValidator(_prefix)] = "dims"
    partitions: Annotated[WholeNumber, Field(ge=1, le=64)] = 10
    connections: Annotated[WholeNumber, Field(ge=1, le=10_000)] | None = None
    rotate_days: Annotated[WholeNumber, Field(ge=0, le=3_650)] = 30
    migrate: Truth = True

    @field_validator("replica", "pooler")
    @classmethod
    def _beside_a_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        database = info.data.get("database")
        if url is not None and isinstance(database, DatabaseKind):
            raise ValueError(
                f"is for a database with a URL only, and database is {database.value}: remove it"
            )
        return url

    @field_validator("pool", mode="before")
    @classmethod
    def _over_preset(cls, pool: Any, info: ValidationInfo) -> Any:
        """What is not said in the pool, the preset says."""
        said = pool.model_dump(exclude_unset=True) if isinstance(pool, PoolSettings) else pool
        preset = PRESETS[info.data.get("preset", Preset.DEFAULT)]
        return preset.model_dump() | said if isinstance(said, dict) else said

    @property
    def database_kind(self) -> DatabaseKind:
        """Whether PostgreSQL is embedded, off, or at a URL."""
        return self.database if isinstance(self.database, DatabaseKind) else DatabaseKind.URL

    @property
    def database_address(self) -> PostgresAddress | None:
        """The server of the URL; None without one."""
        return None if isinstance(self.database, DatabaseKind) else _address(self.database)

    @property
    def replica_address(self) -> PostgresAddress | None:
        """Where reads may go; None: to the database."""
        return _address(self.replica)

    @property
    def pooler_address(self) -> PostgresAddress | None:
        """Where workers connect; None: to the database."""
        return _address(self.pooler)

    @property
    def redis_kind(self) -> DatabaseKind:
        """Whether Redis is embedded (Valkey), off, or at a URL."""
        return self.redis if isinstance(self.redis, DatabaseKind) else DatabaseKind.URL


def _address(url: SecretStr | None) -> PostgresAddress | None:
    return None if url is None else parse_postgres_url(url.get_secret_value())


class DefaultSettings(Section):
    """What a bot gets where it says nothing itself."""

    restart: RestartSettings = Field(default_factory=RestartSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    settings: Mapping[str, JsonValue] = Field(default_factory=dict, repr=False)


class BotSettings(DefaultSettings):
    """One bot, with the defaults already merged in.

    `token` is None only in the sandbox, whose BotFather makes one. `settings` goes to the
    bot's code as it is; it may hold secrets from ${NAME}, so it stays out of the repr.
    """

    id: PlainText = Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    token: Secret | None = None
    handlers: PlainText = Field(min_length=1)
    admins: Admins = ()

    @field_validator("id")
    @classmethod
    def _not_reserved(cls, bot_id: str) -> str:
        if bot_id in RESERVED_IDS:
            raise ValueError(f"id cannot be {', '.join(RESERVED_IDS)}: DIMS uses these itself")
        return bot_id


class Config(Section):
    """The whole of bots.yaml, valid and merged; `directory` is what relative paths start from."""

    path: Path
    directory: Path
    telegram: TelegramSettings
    fleet: FleetSettings = Field(default_factory=FleetSettings)
    ipc: IpcSettings = Field(default_factory=IpcSettings)
    grants: tuple[GrantSettings, ...] = ()
    storage: StorageSettings = Field(default_factory=StorageSettings)
    defaults: DefaultSettings = Field(default_factory=DefaultSettings)
    bots: tuple[BotSettings, ...]
    sources: Mapping[tuple[str | int, ...], str] = Field(default_factory=dict, repr=False)
    """Where secrets and values from variables come from, by their path in the file."""

    def bot(self, bot_id: str) -> BotSettings:
        """The bot of that id, or `UsageError` with the nearest one."""
        for bot in self.bots:
            if bot.id == bot_id:
                return bot
        known = [bot.id for bot in self.bots]
        raise UsageError(
            f"there is no bot '{bot_id}' in {self.path.name}.{did_you_mean(bot_id, known)}",
            hint=f"known bots: {', '.join(known)}",
        )

    @property
    def cold_login_limit(self) -> int | None:
        """Fresh logins a minute for the whole fleet; None is unlimited.

        Telegram rations them per address: a cautious 20 for its own servers.
        """
        if self.fleet.cold_logins_per_minute is not None:
            return self.fleet.cold_logins_per_minute
        telegrams_own = self.telegram.server.kind in {ServerKind.PRODUCTION, ServerKind.TEST}
        return 20 if telegrams_own else None
