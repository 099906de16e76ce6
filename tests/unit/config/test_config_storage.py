"""The section storage: its defaults, its faults, and that no URL of it is ever shown."""

from __future__ import annotations

import json
import string
import tempfile
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from dims.cli.main import main
from dims.config import (
    Config,
    DatabaseKind,
    PoolSettings,
    PostgresAddress,
    Preset,
    StorageSettings,
    TlsMode,
    load_config,
    masked,
)
from dims.config.models import PRESETS
from dims.errors import ConfigError
from dims.storage import names

FLEET = "telegram: {server: sandbox}\nbots: [{id: echo, handlers: e.py}]\n"
URL = "postgresql://dims:hunter2@db.example.org/bots"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"


def load(directory: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = directory / "bots.yaml"
    path.write_text(text)
    return load_config(path, environ or {})


def storage(directory: Path, text: str, environ: dict[str, str] | None = None) -> StorageSettings:
    return load(directory, f"{FLEET}storage: {text}\n", environ).storage


@pytest.mark.parametrize("nothing", ["", "storage:\n", "storage: {}\n", "storage: {pool: }\n"])
def test_without_the_section_servers_are_embedded(nothing: str, tmp_path: Path) -> None:
    settings = load(tmp_path, FLEET + nothing).storage
    assert settings == StorageSettings()
    assert (settings.database_kind, settings.redis_kind) == (DatabaseKind.EMBEDDED,) * 2
    assert settings.database_address is None
    assert settings.replica_address is None
    assert settings.pooler_address is None
    assert settings.redis is DatabaseKind.EMBEDDED
    assert settings.pool == PRESETS[Preset.DEFAULT] == PoolSettings()
    assert (settings.prefix, settings.partitions, settings.rotate_days) == ("dims", 10, 30)
    assert settings.connections is None
    assert settings.migrate is True


def test_servers_can_be_off(tmp_path: Path) -> None:
    settings = storage(tmp_path, "{database: off, redis: '${R}'}", {"R": "off"})
    assert (settings.database_kind, settings.redis_kind) == (DatabaseKind.OFF,) * 2
    assert settings.database_address is None


def test_every_key_can_be_set_and_filled_from_variables(tmp_path: Path) -> None:
    text = (
        FLEET + "storage:\n  database: ${DB}\n  replica: postgresql://u:${PW}@[::1]:5433/bots\n"
        "  pooler: postgresql://u@%2FRun%2FBouncer/bots\n  redis: rediss://:${PW}@h/1\n"
        "  preset: ${SIZE}\n  pool: {statement_s: 7}\n  prefix: ${NAME}\n  partitions: 64\n"
        "  connections: ${MANY}\n  rotate_days: 0\n  migrate: ${MIGRATE}\n"
    )
    environ = {"DB": URL, "PW": "p%40w", "SIZE": "large", "NAME": "x_1", "MANY": "60"}
    settings = load(tmp_path, text, environ | {"MIGRATE": "false"}).storage
    address = PostgresAddress("db.example.org", 5432, "bots", "dims", "hunter2")
    assert settings.database_kind is DatabaseKind.URL
    assert settings.database == SecretStr(URL)
    assert settings.database_address == address
    assert settings.replica_address == PostgresAddress("::1", 5433, "bots", "u", "p@w")
    assert settings.pooler_address == PostgresAddress("/Run/Bouncer", 5432, "bots", "u")
    assert settings.redis_kind is DatabaseKind.URL
    assert settings.redis == SecretStr("rediss://:p%40w@h/1")
    assert settings.pool == PoolSettings(
        max_size=8, idle_s=60, acquire_s=10, statement_s=7, slow_s=1
    )
    assert (settings.prefix, settings.partitions, settings.connections) == ("x_1", 64, 60)
    assert type(settings.prefix) is str
    assert (settings.rotate_days, settings.migrate) == (0, False)


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("small", (2, 5, 5, 10, 0.5, 2)),
        ("default", (4, 10, 5, 30, 0.5, 2)),
        ("large", (8, 60, 10, 60, 1, 2)),
    ],
)
def test_a_preset_sets_the_pool_and_keys_of_the_pool_win(
    preset: str, values: tuple[float, ...], tmp_path: Path
) -> None:
    keys = dict(zip(PoolSettings.model_fields, values, strict=True))
    assert storage(tmp_path, f"{{preset: {preset}}}").pool.model_dump() == keys
    own = storage(tmp_path, f"{{pool: {{slow_s: 9, max_size: 1}}, preset: {preset}}}").pool
    assert own.model_dump() == keys | {"slow_s": 9, "max_size": 1}
    made = StorageSettings(preset=Preset(preset), pool=PoolSettings(slow_s=9, max_size=1))
    assert made.pool == own


def test_tls_files_count_from_the_directory_of_the_file(tmp_path: Path) -> None:
    for name in ("ca file.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
    (tmp_path / "key.pem").chmod(0o600)
    files = f"sslrootcert=ca%20file.pem&sslcert=./cert.pem&sslkey={tmp_path}/key.pem"
    url = f"{URL}?sslmode=verify-full&{files}"
    settings = storage(tmp_path, f"{{database: '{url}', replica: '${{R}}'}}", {"R": url})
    for address in (settings.database_address, settings.replica_address):
        assert address is not None
        assert address.sslmode is TlsMode.VERIFY_FULL
        assert address.sslrootcert == str(tmp_path.resolve() / "ca file.pem")
        assert Path(address.sslcert) == tmp_path.resolve() / "cert.pem"
        assert address.sslkey == str(tmp_path / "key.pem")
        assert address.password == "hunter2"


def test_the_ranges_are_those_of_the_storage_package() -> None:
    assert StorageSettings(partitions=names.PARTITIONS_LIMIT).partitions == names.PARTITIONS_LIMIT
    with pytest.raises(ValidationError):
        StorageSettings(partitions=names.PARTITIONS_LIMIT + 1)
    shape = names.Shape()
    assert (StorageSettings().partitions, StorageSettings().prefix) == (
        shape.partitions,
        shape.prefix,
    )


# Faults

ONE_FAULT = {
    "not a mapping": ("[5]", "3:10", "storage must be a mapping (key: value)"),
    "unknown key": ("{databse: off}", "3:11", "Did you mean 'database'?"),
    "unknown key of pool": ("{pool: {maxsize: 5}}", "3:18", "Did you mean 'max_size'?"),
    "database misspelt": (
        "{database: embeded}",
        "3:21",
        "off or postgresql://USER:PASSWORD@HOST:5432/DATABASE. Did you mean 'embedded'?",
    ),
    "database true": ("{database: true}", "3:21", "database must be embedded, off or postgresql:"),
    "database null": ("{database: }", "3:21", "database must be embedded, off or postgresql://"),
    "database url": ("{database: url}", "3:21", "database must be embedded, off or postgresql://"),
    "database a list": ("{database: [a]}", "3:21", "database must be embedded, off or postgresql"),
    "database of a variable": ("{database: '${WORD}'}", "3:21", "must be embedded, off or postg"),
    "scheme": (
        "{database: 'mysql://u:hunter2@h/d'}",
        "3:21",
        "not a URL such as postgresql://USER",
    ),
    "no user": (
        "{database: 'postgresql://h/d'}",
        "3:21",
        "database is wrong: the URL names no user",
    ),
    "sslmode": (
        "{database: 'postgresql://u:hunter2@h/d?sslmode=on'}",
        "3:21",
        "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
    ),
    "parameter": (
        "{database: 'postgresql://u:hunter2@h/d?sslmod=require'}",
        "3:21",
        "database is wrong: the URL has an unknown parameter. Did you mean 'sslmode'?",
    ),
    "parameter of a variable": (
        "{database: '${BAD_URL}'}",
        "3:21",
        "database is wrong: the URL has an unknown parameter.",
    ),
    "root gone": (
        f"{{database: '{URL}?sslmode=verify-full&sslrootcert=ca.pem'}}",
        "3:21",
        "/ca.pem, which does not exist",
    ),
    "root a directory": (f"{{database: '{URL}?sslrootcert=.'}}", "3:21", "is a directory, not a f"),
    "open key": (
        f"{{database: '{URL}?sslcert=bots.yaml&sslkey=open'}}",
        "3:21",
        "/open, which has mode 0644: anyone on this machine can read it; chmod 600 ",
    ),
    "root gone of a replica": (
        f"{{database: '{URL}', replica: '{URL}?sslrootcert=/gone/ca.pem'}}",
        "3:79",
        "replica names as sslrootcert /gone/ca.pem, which does not exist",
    ),
    "replica of an embedded one": (
        f"{{replica: '{URL}'}}",
        "3:20",
        "replica is for a database with a URL only, and database is embedded: remove it",
    ),
    "pooler of none": (
        f"{{database: off, pooler: '{URL}'}}",
        "3:34",
        "pooler is for a database with a URL only, and database is off: remove it",
    ),
    "pooler a word": (
        f"{{database: '{URL}', pooler: off}}",
        "3:78",
        "not a URL such as postgresql",
    ),
    "pooler a number": (
        f"{{database: '{URL}', pooler: 6432}}",
        "3:78",
        "pooler must be postgresql:",
    ),
    "redis misspelt": ("{redis: Off}", "3:18", "must be embedded, off or redis://:PASSWORD@HOST"),
    "redis near": (
        "{redis: embed}",
        "3:18",
        "redis://:PASSWORD@HOST:6379/0. Did you mean 'embedde",
    ),
    "redis scheme": ("{redis: 'http://:hunter2@h'}", "3:18", "redis is wrong: not a URL such as"),
    "preset": (
        "{preset: smal}",
        "3:19",
        "preset must be 'small', 'default' or 'large', not 'smal'",
    ),
    "pool a number": ("{pool: 5}", "3:17", "pool must be a mapping (key: value), not 5"),
    "pool too large": ("{pool: {max_size: 11}}", "3:28", "max_size must be at most 10, not 11"),
    "pool empty": ("{pool: {max_size: 0}}", "3:28", "max_size must be at least 1, not 0"),
    "no time": ("{pool: {acquire_s: 0}}", "3:29", "acquire_s must be more than 0, not 0"),
    "prefix": (
        "{prefix: Dims}",
        "3:19",
        "prefix must be 1 to 16 lower-case letters, digits or '_'",
    ),
    "prefix of PostgreSQL": ("{prefix: pg_x}", "3:19", "leave pg to PostgreSQL, not 'pg_x'"),
    "prefix pg": ("{prefix: pg}", "3:19", "leave pg to PostgreSQL, not 'pg'"),
    "partitions": ("{partitions: 65}", "3:23", "partitions must be at most 64, not 65"),
    "connections": ("{connections: 0}", "3:24", "connections must be at least 1, not 0"),
    "rotate": ("{rotate_days: -1}", "3:24", "rotate_days must be at least 0, not -1"),
    "yes": ("{migrate: yes}", "3:20", "migrate must be true or false, not 'yes'"),
    "number for truth": ("{migrate: 1}", "3:20", "migrate must be true or false, not 1"),
    "truth in quotes": ("{migrate: 'true'}", "3:20", "migrate must be true or false, not 'true'"),
    "truth of a variable": (
        "{migrate: '${WORD}'}",
        "3:20",
        "migrate must be true or false, which the value of variable WORD is not",
    ),
}
ENVIRON = {"WORD": "embeded", "BAD_URL": "postgresql://u:hunter2@h/d?hunter2=hunter2"}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_each_mistake_is_one_line_at_its_exact_place(name: str, tmp_path: Path) -> None:
    text, place, wording = ONE_FAULT[name]
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        storage(tmp_path, text, ENVIRON)
    assert caught.value.__context__ is None, "a hidden error could carry the URL along"
    (fault,) = caught.value.faults
    assert fault.startswith(f"bots.yaml:{place}: "), fault
    assert wording in fault
    assert not any(word in fault for word in ("hunter2", "embeded", "nput should", "\n"))


def test_a_wrong_url_does_not_make_its_replica_wrong_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        storage(tmp_path, f"{{database: 'postgresql://h', replica: '{URL}'}}")
    assert len(caught.value.faults) == 1


def test_the_command_says_the_fault_and_not_the_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "bots.yaml"
    config.write_text(f"{FLEET}storage: {{database: '{URL}?sslmod=require'}}\n")
    (tmp_path / "e.py").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["config", "check", "--config", str(config)])
    shown = capsys.readouterr()
    assert ended.value.code == ConfigError.exit_code
    assert shown.err.startswith("dims: bots.yaml:3:21: database is wrong: the URL has an unknown")
    assert "hunter2" not in shown.err + shown.out


# How it is shown


def test_urls_are_shown_as_stars_with_their_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text(f"DB={URL}\n")
    text = f"{{database: '${{DB}}', replica: '{URL}', redis: 'redis://:hunter2@h'}}"
    config = load(tmp_path, f"{FLEET}storage: {text}\n")
    shown = masked(config)["storage"]
    assert shown["database"] == {"secret": "***", "source": "variable DB"}
    assert shown["replica"] == shown["redis"] == {"secret": "***", "source": "inline"}
    assert shown["pooler"] is None
    assert "hunter2" not in repr(config)
    for words in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["config", "show", *words, "--config", str(config.path)])
        assert ended.value.code == 0
        printed = capsys.readouterr().out
        assert yaml.safe_load(printed)["storage"] == shown
        assert "hunter2" not in printed


def test_what_is_shown_reads_back_as_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, FLEET + "storage: {redis: off, preset: small, pool: {slow_s: 3}}\n")
    shown = masked(config)["storage"]
    assert shown["redis"] == "off"
    assert shown["pool"]["acquire_s"] == 5
    assert load(tmp_path, FLEET + yaml.safe_dump({"storage": shown})).storage == config.storage


MARKER = "Zq"  # stands in no message
texts = st.text(string.ascii_letters + string.digits + string.punctuation, max_size=20)
misleading = st.sampled_from(["@x/", "@x/y?", "@x?", "@x?sslrootcert=", "@x#", "@[", "%", "://"])
passwords = st.tuples(texts | misleading, st.just(MARKER), texts).map("".join)
SECTIONS = [
    "{{database: {0}}}",
    "{{database: {0}, replica: {0}, pooler: {0}, partitions: 99}}",
    "{{databse: {0}}}",
    "{{database: [{0}]}}",
    "{{database: {0}, migrate: yes}}",
    "{{prefix: {0}, preset: {0}, pool: {0}, migrate: {0}, connections: {0}}}",
    "{{redis: {1}}}",
    "{{redis: {1}, database: {1}}}",
]
QUERIES = ["", "?sslmode=on", "?sslrootcert=gone.pem", "?sslmode=require&sslkey=x"]


def outcome(text: str, environ: dict[str, str]) -> str:
    """All that the reading shows to anybody."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            config = load(Path(directory), text, environ)
        except ConfigError as error:
            shown = "".join(traceback.format_exception(error))
            return f"{shown}{error!r}{error.faults}{error.hint}{error.__context__!r}"
        addresses = f"{config.storage.database_address!r}{config.storage.database_address}"
        return f"{config!r}{config}{addresses}{json.dumps(masked(config))}"


@given(
    password=passwords,
    section=st.sampled_from(SECTIONS),
    query=st.sampled_from(QUERIES),
    is_encoded=st.booleans(),
    is_variable=st.booleans(),
)
def test_a_password_in_a_url_is_never_repeated(
    password: str, section: str, query: str, is_encoded: bool, is_variable: bool
) -> None:
    login = quote(password, safe="") if is_encoded else password
    urls = [f"postgresql://u:{login}@h/d{query}", f"redis://:{login}@h/0"]
    environ = dict(zip(("PG", "REDIS"), urls, strict=True)) if is_variable else {}
    written = [json.dumps(url.replace("$", "$$")) for url in urls]
    places = ['"${PG}"', '"${REDIS}"'] if is_variable else written
    assert MARKER not in outcome(f"{FLEET}storage: {section.format(*places)}\n", environ)


@given(password=passwords)
def test_a_password_is_never_repeated_by_the_models(password: str) -> None:
    url = f"postgresql://u:{password}@h/d"
    try:
        shown = repr(StorageSettings.model_validate({"database": url, "replica": url, "x": url}))
    except ValidationError as error:
        shown = f"{error}{error!r}"
    assert MARKER not in shown


# The documentation


def test_every_key_stands_in_the_documentation_with_its_default() -> None:
    rows = [row.split("|") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    stated = {(row[1].strip(), row[3].strip()) for row in rows}
    other = {"replica": "none", "pooler": "none", "connections": "null", "pool": "{}"}
    for name, field in StorageSettings.model_fields.items():
        default = other.get(name, str(field.default).lower())
        assert (f"`{name}`", default) in stated, name
    for name in PoolSettings.model_fields:
        (row,) = [row for row in rows if row[1].strip() == f"`{name}`" and len(row) == 7]
        presets = [getattr(PRESETS[preset], name) for preset in Preset]
        assert [float(value) for value in row[3:6]] == presets, name


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    page = PAGE.read_text().split("## storage")[1].split("## defaults")[0]
    examples = [part.split("```")[0] for part in page.split("```yaml\n")[1:]]
    environ = {"DB_PASSWORD": "a", "REDIS_PASSWORD": "b"}
    own, pooled, off = (load(tmp_path, FLEET + text, environ).storage for text in examples)
    assert own.database_address is not None
    assert own.database_address.sslmode is TlsMode.VERIFY_FULL
    assert (own.pool.max_size, own.pool.idle_s) == (6, 60)
    assert pooled.pooler_address is not None
    assert pooled.pooler_address.port == 6432
    assert off.database_kind is off.redis_kind is DatabaseKind.OFF
