"""Every mistake in bots.yaml gets one line with its exact place and the mend."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dims.config import load_config, referenced_variables
from dims.config.proxies import proxy_fault
from dims.config.text import document
from dims.errors import ConfigError

TOKEN = "123456789:AAEabcdefghijklmnopqrstuvwxyz012345"
OTHER_TOKEN = "123456789:BBBabcdefghijklmnopqrstuvwxyz01234"
HEAD = "telegram: {server: sandbox}\nbots:\n"
BOT = HEAD + "- id: echo\n  handlers: e.py\n"
WITH_TOKEN = "bots: [{id: a, handlers: e.py, token: 1:a}]\n"
PRODUCTION = "telegram: {server: production, api_id: 5, api_hash: abc}\nbots:\n"


def faults_of(
    directory: Path, text: str | bytes, environ: dict[str, str] | None = None
) -> list[str]:
    path = directory / "bots.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "a hidden error could carry the input along"
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


ONE_FAULT = {
    # YAML itself
    "malformed": ("a: [1, 2\nb: x\n", "2:2", "not valid YAML: while parsing a flow sequence"),
    "tab": ("telegram:\n\tserver: sandbox\n", "2:1", "a tab; YAML wants spaces"),
    "tab after spaces": ("telegram:\n  server: x\n  \tapi_id: 5\n", "3:3", "a tab"),
    "at sign": (BOT + "  admins: [@alice]\n", "5:12", "starts with '@' must stand in quotes"),
    "reference in braces": (
        "telegram: {server: sandbox, api_id: ${ID}}\n",
        "1:37",
        "${NAME} must stand in quotes: '${NAME}'",
    ),
    "duplicate key": (BOT + "  handlers: f.py\n", "5:3", "the key 'handlers' is already on line 4"),
    "duplicate section": (BOT + "telegram: {server: test}\n", "5:1", "already on line 1"),
    "tag": ("telegram: !!python/object:os.system {}\n", "1:11", "tags (words that start with '!')"),
    "own tag": ("telegram: !secret x\n", "1:11", "not allowed; remove it"),
    "unknown alias": ("telegram: *gone\n", "1:11", "names no anchor"),
    "alias of itself": ("telegram: &a [*a]\n", "1:15", "this alias contains itself"),
    "two documents": (BOT + "---\na: b\n", "5:1", "a second document starts here"),
    "list as key": ("? [a]\n: b\n", "1:3", "a key must be a single word"),
    "merge of text": ("telegram: {<<: 5, server: sandbox}\n", "1:12", "'<<' merges mappings only"),
    "nested too deep": ("a: " + "[" * 40 + "]" * 40, "1:35", "nested more than 32 levels"),
    "control character": (BOT + "  # \x07\n", "5:5", "a control character"),
    "nul": (BOT + "  # \x00\n", "5:5", "a control character"),
    # The shape of the file
    "empty": ("", "1:1", "the file is empty"),
    "comments only": ("# later\n", "1:1", "the file is empty"),
    "only a marker": ("---\n", "1:1", "the file is empty"),
    "root is a list": ("- a\n", "1:1", "must be a mapping with the keys telegram, fleet"),
    "root is a text": ("hello\n", "1:1", "must be a mapping with the keys telegram, fleet"),
    "unknown section": (BOT + "bot: 5\n", "5:1", "unknown key 'bot'. Did you mean 'bots'?"),
    "distant section": (BOT + "zzz: 5\n", "5:1", "fleet, ipc, grants, storage, defaults, bots."),
    "no bots": ("telegram: {server: sandbox}\n", "1:1", "bots is missing or empty"),
    "bots null": ("telegram: {server: sandbox}\nbots:\n", "2:1", "bots is missing or empty"),
    "bots empty": ("telegram: {server: sandbox}\nbots: []\n", "2:1", "bots is missing or empty"),
    "bots a mapping": ("telegram: {server: sandbox}\nbots: {a: 5}\n", "2:7", "must be a list"),
    "bot a text": (HEAD + "- echo\n", "3:3", "a bot must be a mapping (id: ..., handlers: ...)"),
    # telegram
    "no telegram": ("bots: [{id: a, handlers: e.py}]\n", "1:1", "telegram.server is missing"),
    "telegram null": (
        "telegram:\nbots: [{id: a, handlers: e.py}]\n",
        "1:1",
        "production (Telegram)",
    ),
    "telegram a text": (
        "telegram: sandbox\nbots: [{id: a, handlers: e.py}]\n",
        "1:11",
        "telegram must be a mapping",
    ),
    "no server": (
        "telegram: {sandbox_port: 1}\nbots: [{id: a, handlers: e.py}]\n",
        "1:1",
        "telegram.server is missing",
    ),
    "wrong server": (
        "telegram: {server: prod}\nbots: [{id: a, handlers: e.py}]\n",
        "1:20",
        "server cannot be 'prod'; possible: production (Telegram)",
    ),
    "server a number": (
        "telegram: {server: 5}\nbots: [{id: a, handlers: e.py}]\n",
        "1:20",
        "server must be one of: production",
    ),
    "sandbox port": (
        "telegram: {server: sandbox, sandbox_port: 70000}\nbots: [{id: a, handlers: e.py}]\n",
        "1:43",
        "sandbox_port must be at most 65535, not 70000",
    ),
    "api_id text": (
        "telegram: {server: sandbox, api_id: '5'}\nbots: [{id: a, handlers: e.py}]\n",
        "1:37",
        "api_id must be a whole number, not text: write 5 without quotes",
    ),
    "api_hash number": (
        "telegram: {server: sandbox, api_hash: 5}\nbots: [{id: a, handlers: e.py}]\n",
        "1:39",
        "api_hash must be text; put it in quotes",
    ),
    "api_hash empty": (
        "telegram: {server: sandbox, api_hash: ''}\nbots: [{id: a, handlers: e.py}]\n",
        "1:39",
        "api_hash must be a text that is not empty",
    ),
    "proxy scheme": (
        "telegram: {server: sandbox, proxy: 'ftp://h:1'}\nbots: [{id: a, handlers: e.py}]\n",
        "1:36",
        "proxy must look like socks5://user:password@host:port",
    ),
    "custom host is a name": (
        "telegram: {server: {host: localhost}}\nbots: [{id: a, handlers: e.py, token: 1:a}]\n",
        "1:27",
        "host must be an IP address such as 127.0.0.1",
    ),
    "custom without host": (
        "telegram: {server: {port: 5}}\nbots: [{id: a, handlers: e.py, token: 1:a}]\n",
        "1:12",
        "host is missing",
    ),
    "custom key file": (
        "telegram: {server: {host: 127.0.0.1, public_key_file: k.pem}}\n" + WITH_TOKEN,
        "1:55",
        "public_key_file does not exist",
    ),
    "custom unknown key": (
        "telegram: {server: {host: 127.0.0.1, prot: 5}}\n" + WITH_TOKEN,
        "1:38",
        "unknown key 'prot'. Did you mean 'port'?",
    ),
    "custom without token": (
        "telegram: {server: {host: 127.0.0.1}}\nbots: [{id: a, handlers: e.py}]\n",
        "2:13",
        "this bot has no token, and the custom server needs one",
    ),
    "no api_hash": (
        f"telegram: {{server: test, api_id: 5}}\nbots: [{{id: a, handlers: e, token: '{TOKEN}'}}]",
        "1:1",
        "api_hash is missing; put it here or set TELEGRAM_API_HASH",
    ),
    # bots
    "unknown key": (BOT + "  admin: []\n", "5:3", "unknown key 'admin'. Did you mean 'admins'?"),
    "token_fil": (BOT + "  token_fil: x\n", "5:3", "Did you mean 'token_file'?"),
    "unknown deep key": (
        BOT + "  limits:\n    heartbeats: 5\n",
        "6:5",
        "unknown key 'heartbeats'. Did you mean 'heartbeat_s'?",
    ),
    "key that is no word": (BOT + f"  '{TOKEN}': x\n", "5:3", "unknown key (not shown)."),
    "no id": (HEAD + "- handlers: e.py\n", "3:3", "the key 'id' is missing; give each bot a short"),
    "no handlers": (HEAD + "- id: a\n", "3:3", "the key 'handlers' is missing"),
    "handlers null": (BOT.replace("e.py", ""), "4:12", "handlers must be text, not empty"),
    "handlers empty": (BOT.replace("e.py", "''"), "4:13", "handlers must be a text that is not e"),
    "id with capitals": (BOT.replace("echo", "Echo"), "3:7", "lower-case letters, digits, '_' or"),
    "id a number": (BOT.replace("echo", "5"), "3:7", "id must be text, not 5; put it in quotes"),
    "duplicate id": (
        BOT + "- {id: echo, handlers: f.py}\n",
        "5:8",
        "the bot id 'echo' is already on line 3; ids must differ",
    ),
    "token empty": (BOT + "  token: ''\n", "5:10", "token is empty"),
    "token blank": (BOT + "  token: ' '\n", "5:10", "token is empty"),
    "token null": (BOT + "  token:\n", "5:9", "token is empty"),
    "token a number": (BOT + "  token: 123\n", "5:10", "token must be text; put it in quotes"),
    "token twice": (BOT + "  token: 1:a\n  token_file: t\n", "6:3", "keep one of token and"),
    "token file gone": (BOT + "  token_file: t\n", "5:15", "the token file does not exist"),
    "token file a folder": (BOT + "  token_file: .\n", "5:15", "is a directory, not a file"),
    "token file null": (BOT + "  token_file:\n", "5:14", "token_file must be the path of a file"),
    "same account": (
        BOT + f"  token: {TOKEN}\n- {{id: b, handlers: f.py, token: '{OTHER_TOKEN}'}}\n",
        "6:34",
        "this is the same bot as the bot 'echo' on line 3; each needs its own token",
    ),
    "token shape": (
        PRODUCTION + "- {id: a, handlers: e.py, token: '123:short'}\n",
        "3:34",
        "this is no bot token; @BotFather gives one like",
    ),
    "admins a text": (BOT + "  admins: 5\n", "5:11", "admins must be a list, not 5"),
    "admin true": (BOT + "  admins: [true]\n", "5:12", "numeric user id"),
    "admin without @": (BOT + "  admins: [5, alice]\n", "5:15", "'@alice', not 'alice'"),
    "admin negative": (BOT + "  admins: [-5]\n", "5:12", "numeric user id such as"),
    "limits a number": (BOT + "  limits: 5\n", "5:11", "limits must be a mapping"),
    "settings a list": (BOT + "  settings: [5]\n", "5:13", "settings must be a mapping"),
    "bool for number": (
        BOT + "  restart: {first_delay_s: true}\n",
        "5:28",
        "first_delay_s must be a number, not true",
    ),
    "bool for whole number": (
        BOT + "  limits: {log_files: true}\n",
        "5:23",
        "log_files must be a whole number, not true",
    ),
    "fraction": (BOT + "  limits: {log_files: 1.5}\n", "5:23", "must be a whole number, not 1.5"),
    "null for number": (BOT + "  limits:\n    log_files:\n", "6:15", "whole number, not empty"),
    "infinite": (BOT + "  limits: {heartbeat_s: .inf}\n", "5:25", "heartbeat_s must be a number"),
    "overflow": (BOT + "  restart: {factor: 1e999}\n", "5:21", "factor must be a finite number"),
    "below range": (
        BOT + "  restart: {factor: 0.5}\n",
        "5:21",
        "factor must be at least 1, not 0.5",
    ),
    "above range": (BOT + "  limits: {drain_timeout_s: 1e9}\n", "5:29", "must be at most 604800"),
    "zero": (
        BOT + "  limits: {heartbeat_s: 0}\n",
        "5:25",
        "heartbeat_s must be more than 0, not 0",
    ),
    "huge number": (
        BOT + f"  limits: {{log_bytes: {'9' * 30}}}\n",
        "5:23",
        "log_bytes must be at most 1000000000000",
    ),
    "clash": (
        BOT + "  limits: {stuck_after_s: 5}\n",
        "5:27",
        "stuck_after_s (5) must be above heartbeat_s (10)",
    ),
    "clash from the other side": (
        BOT + "  limits: {heartbeat_s: 50}\n",
        "5:25",
        "stuck_after_s (45) must be above heartbeat_s (50)",
    ),
    "clash of delays": (
        BOT + "  restart: {first_delay_s: 400}\n",
        "5:28",
        "max_delay_s (300) must not be below first_delay_s (400)",
    ),
    "clash with defaults": (
        BOT + "  limits: {heartbeat_s: 50}\ndefaults: {limits: {stuck_after_s: 46}}\n",
        "5:25",
        "stuck_after_s (46) must be above heartbeat_s (50)",
    ),
    # fleet and defaults
    "fleet": (BOT + "fleet: {starts_at_once: 0}\n", "5:25", "must be at least 1, not 0"),
    "fleet key": (BOT + "fleet: {start_at_once: 1}\n", "5:9", "Did you mean 'starts_at_once'?"),
    "fleet sharing": (
        BOT + "fleet: {sharing: immortal}\n",
        "5:18",
        "sharing must be 'auto' or 'copy', not 'immortal'",
    ),
    "defaults told once": (
        BOT + "- {id: b, handlers: e.py}\ndefaults: {limits: {log_files: 0}}\n",
        "6:32",
        "log_files must be at least 1, not 0",
    ),
    "defaults unknown": (BOT + "defaults: {limts: 5}\n", "5:12", "Did you mean 'limits'?"),
    "defaults wrong, bot writes what it is checked against": (
        BOT + "  limits: {heartbeat_s: 9}\ndefaults: {limits: {stuck_after_s: x}}\n",
        "6:36",
        "stuck_after_s must be a number, not 'x'",
    ),
    "defaults clash told once": (
        BOT + "defaults: {limits: {heartbeat_s: 50}}\n",
        "5:34",
        "stuck_after_s (45) must be above heartbeat_s (50)",
    ),
    "defaults not a mapping": (BOT + "defaults: [5]\n", "5:11", "defaults must be a mapping"),
    # variables
    "unset": (BOT + "  token: ${TOK}\n", "5:10", "the variable TOK is not set; set it in the"),
    "near": (BOT + "  token: ${BOT_TOKN}\n", "5:10", "Did you mean 'BOT_TOKEN'?"),
    "set but empty": (BOT + "  token: ${EMPTY}\n", "5:10", "token is empty"),
    "default syntax": (BOT + "  token: ${A:-b}\n", "5:10", "only ${NAME} with letters"),
    "unclosed": (BOT + "  token: ${A\n", "5:10", "only ${NAME} with letters"),
    "variable out of range": (
        BOT + "  limits:\n    log_files: ${MANY}\n",
        "6:16",
        "log_files must be at most 100, which the value of variable MANY is not",
    ),
    "variable no number": (
        BOT + "  limits:\n    log_files: ${BOT_TOKEN}\n",
        "6:16",
        "log_files must be a whole number, which the value of variable BOT_TOKEN is not",
    ),
}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_each_mistake_is_one_line_at_its_exact_place(name: str, tmp_path: Path) -> None:
    text, place, wording = ONE_FAULT[name]
    faults = faults_of(tmp_path, text, {"BOT_TOKEN": TOKEN, "EMPTY": "", "MANY": "98765"})
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"bots.yaml:{place}: "), faults[0]
    assert wording in faults[0]
    assert "\n" not in faults[0]
    assert TOKEN not in faults[0]
    assert "nput should" not in faults[0]


def test_all_faults_come_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        "telegram: {server: production}\n"
        "flet: {}\n"
        "bots:\n"
        "- {id: a, handlers: e.py}\n"
        "- {id: a, handlers: 5, tokn: x, token: '1:a', limits: {log_files: 0}}\n"
    )
    found = faults_of(tmp_path, text)
    assert [line.split(": ")[0] for line in found] == [
        "bots.yaml:1:1",
        "bots.yaml:1:1",
        "bots.yaml:2:1",
        "bots.yaml:4:8",
        "bots.yaml:5:8",
        "bots.yaml:5:21",
        "bots.yaml:5:24",
        "bots.yaml:5:40",
        "bots.yaml:5:67",
    ]
    assert {"api_id", "api_hash"} <= {word for line in found[:2] for word in line.split()}


@pytest.mark.parametrize("server", ["production", "test"])
def test_what_telegram_needs_is_asked_for_and_never_replaced_by_the_sandbox(
    server: str, tmp_path: Path
) -> None:
    found = faults_of(
        tmp_path, f"telegram: {{server: {server}}}\nbots:\n- {{id: a, handlers: e}}\n"
    )
    assert len(found) == 3
    assert "api_hash is missing" in found[0]
    assert "api_id is missing" in found[1]
    assert f"has no token, and the {server} server needs one" in found[2]


def test_a_bad_api_id_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, BOT, {"TELEGRAM_API_ID": "secret"})
    assert fault.startswith("bots.yaml:1:1: api_id must be a whole number")
    assert "variable TELEGRAM_API_ID" in fault
    assert "secret" not in fault


def test_text_that_is_not_utf_8_is_found_at_its_byte(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, BOT.encode() + b"# caf\xe9\n")
    assert fault == "bots.yaml:5:6: is not UTF-8 text; save it as UTF-8"


def test_a_missing_file_comes_with_a_line_to_begin_with(tmp_path: Path) -> None:
    path = tmp_path / "bots.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert caught.value.faults == [f"{path}: does not exist"]
    begin = caught.value.hint.partition(": ")[2]
    path.write_text(begin)
    assert load_config(path, {}).bots[0].id == "echo"


def test_a_directory_a_pipe_and_a_name_with_nul_are_no_configuration(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, text in (
        (tmp_path, "is a directory"),
        (pipe, "is not a regular file"),
        (tmp_path / "a\0b", "cannot be read"),
        (tmp_path / "bots.yaml" / "x", "does not exist"),
    ):
        with pytest.raises(ConfigError, match=text):
            load_config(path, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    path = tmp_path / "bots.yaml"
    path.write_text(BOT)
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        load_config(path, {})


def test_a_file_beyond_the_size_limit_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, BOT + "#" * document.MOST_BYTES)
    assert "larger than 4,000,000 bytes" in fault


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    began_s = time.monotonic()
    (fault,) = faults_of(tmp_path, "\n".join(rows))
    assert "more than 200,000 values (aliases count in full)" in fault
    assert time.monotonic() - began_s < 10


def test_a_merge_bomb_is_refused_at_once(tmp_path: Path) -> None:
    rows = ["a0: &a0 {x: 1, y: 2}"]
    rows += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    (fault,) = faults_of(tmp_path, "\n".join(rows))
    assert "more than 200,000 values" in fault


@pytest.mark.parametrize(
    ("content", "mode", "wording"),
    [
        (TOKEN, 0o644, "has mode 0644: anyone on this machine can read it; chmod 600"),
        ("", 0o600, "is empty"),
        (" \n", 0o600, "is empty"),
        (f"{TOKEN}\n{OTHER_TOKEN}\n", 0o600, "more than one word"),
        ("x" * 5_000, 0o600, "more than one word"),
        (b"\xff\xfe1", 0o600, "not UTF-8"),
    ],
)
def test_a_bad_token_file_is_told_at_its_key(
    content: str | bytes, mode: int, wording: str, tmp_path: Path
) -> None:
    file = tmp_path / "t"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    file.chmod(mode)
    (fault,) = faults_of(tmp_path, BOT + "  token_file: t\n")
    assert fault.startswith("bots.yaml:5:15: the token file ")
    assert wording in fault
    assert "123456789" not in fault


def test_a_bad_line_in_dotenv_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nexport B=2\nnonsense secret\n")
    assert faults_of(tmp_path, BOT) == [".env:3:1: this line is not NAME=value"]


def test_a_proxy_that_cannot_be_used_is_never_ignored() -> None:
    url = "socks5://user:pw@10.0.0.1:1080"
    assert proxy_fault(url, lambda _: True) == ""
    fault = proxy_fault(url, lambda _: False)
    assert "pip install 'python-socks[asyncio]'" in fault
    assert "would connect directly" in fault


@pytest.mark.parametrize(
    "url",
    ["", "10.0.0.1:1080", "socks5://h", "socks5://:5", "http://h:99999", "http://[::1", "x://h:1"],
)
def test_a_proxy_url_without_scheme_host_or_port_is_refused(url: str) -> None:
    assert "proxy must look like" in proxy_fault(url, lambda _: True)


def test_variables_of_a_malformed_file_are_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "bots.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"bots\.yaml:\d+:\d+: not valid YAML"):
        referenced_variables(path)
