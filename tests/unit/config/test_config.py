"""What a valid bots.yaml gives: merged defaults, servers, variables, masks, and the bots' code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from dims.config import (
    BotSettings,
    Config,
    FleetSettings,
    LimitSettings,
    MemorySharing,
    RestartSettings,
    ServerKind,
    ServerSettings,
    TelegramSettings,
    check_handlers_source,
    load_config,
    masked,
    read_environment,
    referenced_variables,
)
from dims.config.handler_source import find_source
from dims.errors import UsageError

TOKEN = "123456789:AAEabcdefghijklmnopqrstuvwxyz012345"
SMALLEST = "telegram: {server: sandbox}\nbots:\n- id: echo\n  handlers: e.py\n"
ROOT = Path(__file__).resolve().parents[3]


def load(directory: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = directory / "bots.yaml"
    path.write_text(text)
    return load_config(path, environ or {})


def test_the_smallest_file_gives_every_default(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert config.path == tmp_path / "bots.yaml"
    assert config.directory == tmp_path.resolve()
    assert config.telegram.server == ServerSettings(kind=ServerKind.SANDBOX)
    assert config.telegram.sandbox_port == 0
    assert config.fleet.starts_at_once == 8
    assert config.fleet.sharing is MemorySharing.AUTO
    assert config.fleet.cold_logins_per_minute is None
    assert config.bots == (BotSettings(id="echo", handlers="e.py"),)
    bot = config.bots[0]
    assert bot.restart == RestartSettings()
    assert bot.limits == LimitSettings()
    assert (bot.token, bot.admins, bot.settings) == (None, (), {})


def test_a_bot_overrides_defaults_key_by_key(tmp_path: Path) -> None:
    text = (
        SMALLEST
        + "  restart: {factor: 3}\n  limits: {log_files: 9}\n  settings: {b: 20, c: null}\n"
        + "- {id: plain, handlers: p.py}\n"
        + "defaults:\n  restart: {first_delay_s: 0, factor: 4}\n  limits: {heartbeat_s: 5}\n"
        + "  settings: {a: 1, b: 2, c: 3}\n"
    )
    config = load(tmp_path, text)
    echo, plain = config.bots
    assert echo.restart == RestartSettings(first_delay_s=0, factor=3)
    assert echo.limits == LimitSettings(heartbeat_s=5, log_files=9)
    assert echo.settings == {"a": 1, "b": 20, "c": None}
    assert plain.restart == RestartSettings(first_delay_s=0, factor=4)
    assert plain.limits == LimitSettings(heartbeat_s=5)
    assert plain.settings == {"a": 1, "b": 2, "c": 3}


def test_limits_that_only_fit_together_after_merging_are_fine(tmp_path: Path) -> None:
    text = SMALLEST + "  limits: {heartbeat_s: 50}\ndefaults: {limits: {stuck_after_s: 100}}\n"
    limits = load(tmp_path, text).bots[0].limits
    assert (limits.heartbeat_s, limits.stuck_after_s) == (50, 100)


def test_sections_with_nothing_below_them_say_nothing(tmp_path: Path) -> None:
    text = SMALLEST + "  restart:\n  limits:\n  settings:\nfleet:\ndefaults:\n"
    assert load(tmp_path, text).bots == load(tmp_path, SMALLEST).bots


@pytest.mark.parametrize(
    ("name", "host", "logins"),
    [("production", "149.154.167.51", 20), ("test", "149.154.167.40", 20)],
)
def test_telegrams_own_servers_have_published_addresses_and_paced_logins(
    name: str, host: str, logins: int, tmp_path: Path
) -> None:
    text = f"telegram: {{server: {name}}}\nbots:\n- {{id: a, handlers: e.py, token: '{TOKEN}'}}\n"
    environ = {"TELEGRAM_API_ID": "17", "TELEGRAM_API_HASH": "0123abc"}
    config = load(tmp_path, text, environ)
    server = config.telegram.server
    assert (server.kind, server.host, server.port, server.dc) == (name, host, 443, 2)
    assert config.telegram.api_id == 17
    assert config.telegram.api_hash is not None
    assert config.telegram.api_hash.get_secret_value() == "0123abc"
    assert config.bots[0].token is not None
    assert config.bots[0].token.get_secret_value() == TOKEN
    assert config.cold_login_limit == logins


def test_a_server_of_ones_own_needs_only_its_address(tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_text("-----BEGIN RSA PUBLIC KEY-----\nAA==\n")
    text = (
        "telegram: {server: {host: '::1', public_key_file: k.pem}}\n"
        "bots:\n- {id: a, handlers: e.py, token: '1:x'}\n"
    )
    config = load(tmp_path, text)
    assert config.telegram.server == ServerSettings(
        kind=ServerKind.CUSTOM,
        host="::1",
        port=443,
        dc=2,
        public_key_file=tmp_path.resolve() / "k.pem",
    )
    assert config.cold_login_limit is None


def test_a_set_login_limit_wins_over_that_of_the_server(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST + "fleet: {cold_logins_per_minute: 7}\n")
    assert config.cold_login_limit == 7


def test_admins_are_numbers_or_usernames(tmp_path: Path) -> None:
    text = SMALLEST + "  admins: [5, '@alice', '${ADMIN}']\n"
    assert load(tmp_path, text, {"ADMIN": "77"}).bots[0].admins == (5, "@alice", 77)


def test_yes_no_dates_and_times_are_text_as_in_yaml_1_2(tmp_path: Path) -> None:
    text = SMALLEST + "  settings: {a: yes, b: NO, c: 2024-01-01, d: 12:30, e: 0644, f: .nan}\n"
    settings = load(tmp_path, text).bots[0].settings
    assert settings == {
        "a": "yes",
        "b": "NO",
        "c": "2024-01-01",
        "d": "12:30",
        "e": "0644",
        "f": ".nan",
    }


def test_settings_keep_every_json_shape(tmp_path: Path) -> None:
    value = {"n": None, "t": True, "i": -5, "f": 1.5e3, "s": "a b", "l": [1, [2]], "m": {"k": "v"}}
    text = SMALLEST + "  settings: " + json.dumps(value) + "\n"
    assert load(tmp_path, text).bots[0].settings == value


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    text = (
        SMALLEST
        + "  limits: &slow {heartbeat_s: 30, stuck_after_s: 90}\n"
        + "- {id: b, handlers: e.py, limits: *slow}\n"
        + "- {id: c, handlers: e.py, limits: {<<: *slow, heartbeat_s: 40}}\n"
    )
    limits = [bot.limits for bot in load(tmp_path, text).bots]
    assert limits[0] == limits[1] == LimitSettings(heartbeat_s=30, stuck_after_s=90)
    assert limits[2] == LimitSettings(heartbeat_s=40, stuck_after_s=90)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "bots.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert load_config(path, {}).bots[0].handlers == "e.py"


def test_every_key_stands_in_the_documentation_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for model in (TelegramSettings, FleetSettings, RestartSettings, LimitSettings, BotSettings):
        for name, field in model.model_fields.items():
            rows = [row for row in page.splitlines() if row.startswith(f"| `{name}` |")]
            assert rows, f"{name} is not in docs/configuration.md"
            if isinstance(field.default, int | float):
                stated = {row.split("|")[3].strip().replace(",", "") for row in rows}
                assert f"{field.default:.15g}" in stated, name


# Variables and secrets


def test_variables_fill_texts_and_numbers_and_dollars_can_be_escaped(tmp_path: Path) -> None:
    text = (
        SMALLEST
        + "  limits:\n    log_files: ${FILES}\n    heartbeat_s: ${BEAT}\n"
        + "  settings:\n    url: http://${HOST}:${PORT}/\n    price: 5$$ or $5\n    n: ${FILES}\n"
    )
    environ = {"FILES": "7", "BEAT": "2.5", "HOST": "h", "PORT": "80"}
    bot = load(tmp_path, text, environ).bots[0]
    assert (bot.limits.log_files, bot.limits.heartbeat_s) == (7, 2.5)
    assert bot.settings == {"url": "http://h:80/", "price": "5$ or $5", "n": "7"}
    assert type(bot.settings["n"]) is str


def test_a_masked_configuration_is_plain_enough_for_yaml(tmp_path: Path) -> None:
    text = SMALLEST.replace("e.py", "${CODE}").replace("echo", "${ID}") + "  admins: ['${ADMIN}']\n"
    config = load(tmp_path, text, {"CODE": "x.py", "ID": "x", "ADMIN": "@alice"})
    assert yaml.safe_load(yaml.safe_dump(masked(config)))["bots"][0]["handlers"] == "x.py"


def test_the_environment_wins_over_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "\ufeff# comment\nexport A='one # two'  # three\nB = plain # comment\n\nC=\"x\"\n"
        "D=from-dotenv\nUNUSED=x\nTELEGRAM_API_ID=5\n"
    )
    text = SMALLEST + "  settings: {v: ['${A}', '${B}', '${C}', '${D}', '$${E}']}  # ${F}\n"
    bot = load(tmp_path, text, {"D": "from-environment"}).bots[0]
    assert bot.settings == {"v": ["one # two", "plain", "x", "from-environment", "${E}"]}
    path = tmp_path / "bots.yaml"
    assert referenced_variables(path) == {"A", "B", "C", "D"}
    assert read_environment(path, {"D": "from-environment", "PATH": "/bin"}) == {
        "D": "from-environment",
    }


def test_a_token_file_is_read_beside_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "echo.token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o640)
    bot = load(tmp_path, SMALLEST + "  token_file: echo.token\n").bots[0]
    assert bot.token is not None
    assert bot.token.get_secret_value() == TOKEN


def test_the_masked_configuration_says_where_secrets_come_from(tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_text("2:secret")
    file.chmod(0o600)
    text = (
        "telegram: {server: sandbox, api_hash: secret, proxy: 'http://u:secret@h:1'}\n"
        "defaults: {settings: {x: '${X}', y: '${X}'}}\n"
        "bots:\n"
        "- {id: a, handlers: e.py, token: '${TOKEN}', settings: {x: shown, deep: [{k: '${X}'}]}}\n"
        "- {id: b, handlers: e.py, token_file: t, settings: {api_key: secret, keyboard: big}}\n"
        "- {id: c, handlers: e.py, token: '3:secret', admins: [5]}\n"
        "- {id: d, handlers: e.py}\n"
    )
    environ = {"TOKEN": "1:secret", "X": "secret", "TELEGRAM_API_ID": "5"}
    config = load(tmp_path, text, environ)
    shown = masked(config)
    assert "secret@" not in json.dumps(shown)
    assert ":secret" not in json.dumps(shown)
    assert shown["telegram"]["api_hash"] == {"secret": "***", "source": "inline"}
    assert shown["telegram"]["api_id"] == 5
    variable = {"secret": "***", "source": "variable X"}
    a, b, c, d = shown["bots"]
    assert a["token"] == {"secret": "***", "source": "variable TOKEN"}
    assert a["settings"] == {"x": "shown", "y": variable, "deep": [{"k": variable}]}
    assert b["token"] == {"secret": "***", "source": "file t"}
    assert b["settings"] == {
        "x": variable,
        "y": variable,
        "api_key": {"secret": "***", "source": "inline"},
        "keyboard": "big",
    }
    assert c["token"] == {"secret": "***", "source": "inline"}
    assert c["admins"] == [5]
    assert d["token"] is None
    assert "secret" not in repr(config)
    assert config.bots[1].settings["api_key"] == "secret"


# Models on their own


def test_models_are_frozen_and_closed_and_keep_their_input_to_themselves() -> None:
    bot = BotSettings(id="a", handlers="e.py", token=SecretStr(TOKEN))
    assert TOKEN not in repr(bot)
    with pytest.raises(ValidationError, match="frozen"):
        bot.id = "b"
    with pytest.raises(ValidationError) as caught:
        BotSettings.model_validate({"id": "A", "handlers": "e.py", "token": TOKEN, "tokn": TOKEN})
    assert TOKEN not in str(caught.value)


def test_an_unknown_bot_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert config.bot("echo") is config.bots[0]
    with pytest.raises(UsageError, match=r"there is no bot 'ehco'.*Did you mean 'echo'"):
        config.bot("ehco")


# The bots' code


def bot_with(handlers: str) -> BotSettings:
    return BotSettings(id="a", handlers=handlers)


def test_code_is_found_as_file_or_module_without_running_it(tmp_path: Path) -> None:
    package = tmp_path / "mybots"
    package.mkdir()
    bomb = "raise SystemExit('this code must not run')\n"
    whole, echo, single = package / "__init__.py", package / "echo.py", tmp_path / "single.py"
    for file in (whole, echo, single):
        file.write_text(bomb)
    before = set(sys.modules)
    places = {"mybots/echo.py": echo, "single.py": single, "mybots.echo": echo}
    for handlers, file in (places | {"mybots": whole, "single": single}).items():
        assert find_source(handlers, tmp_path) == file
        assert check_handlers_source(bot_with(handlers), tmp_path) is None
    assert set(sys.modules) == before


@pytest.mark.parametrize("handlers", ["gone.py", "a/b", "gone", "gone.deep", "x..y", "sys", "."])
def test_code_that_is_not_there_is_named(handlers: str, tmp_path: Path) -> None:
    fault = check_handlers_source(bot_with(handlers), tmp_path)
    assert fault is not None
    assert f"'{handlers}' does not exist" in fault


@pytest.mark.parametrize(
    ("source", "place", "text"),
    [
        (b"def f(:\n  pass\n", "e.py:1:7", "invalid syntax"),
        (b"x = 1\nreturn 5\n", "e.py:2:1", "'return' outside function"),
        (b"x = '\xff'\n", "e.py:1:", "utf-8"),
        (b"x = 1\0\n", "e.py:", "null bytes"),
        (b"(" * 500, "e.py:1:", "too many nested parentheses"),
    ],
)
def test_code_that_does_not_compile_is_told_with_its_place(
    source: bytes, place: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / "e.py").write_bytes(source)
    fault = check_handlers_source(bot_with("e.py"), tmp_path)
    assert fault is not None
    assert fault.startswith(place)
    assert text in fault
    assert "\n" not in fault


def test_the_examples_load_without_any_secret_and_their_code_compiles() -> None:
    config = load_config(ROOT / "bots.yaml", {})
    assert [bot.id for bot in config.bots] == ["echo", "admin", "buttons"]
    assert config.telegram.server.kind is ServerKind.SANDBOX
    for bot in config.bots:
        assert check_handlers_source(bot, config.directory) is None
