"""No secret in any environment, argument, descriptor, log or answer of a running fleet."""

from __future__ import annotations

import array
import base64
import fcntl
import json
import os
import stat
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, running, until

BOT = """
from telethon import events

bot = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(incoming=True))
async def on_message(event):
    if event.raw_text == "leak":
        token = bot.settings["own_token"]
        bot.log.info("logs %s", token)
        bot.log.info("logs a part: %s", token.partition(":")[2])
        bot.log.info("logs a field", extra={"token": {"inner": [token]}})
        print("prints", token)
        raise RuntimeError(f"raises {token}")
    await event.respond(event.raw_text)
"""


def token(number: int) -> str:
    return f"700000{number}:AbCdEfGhIjKlMnOpQrStUvWxYz_123-{number}"


TOKENS = {name: token(i) for i, name in enumerate(("env", "dotenv", "filed", "inline"), 1001)}
API_HASH = "0123456789abcdef0123456789abcdef"
PASSWORD = "a-password-among-the-settings"
FLEET = """
telegram: {server: sandbox, api_id: 12345, api_hash: "${API_HASH}"}
bots:
  - id: env
    handlers: bot.py
    token: ${ENV_TOKEN}
    settings: {own_token: "${ENV_TOKEN}"}
  - {id: dotenv, handlers: bot.py, token: "${DOTENV_TOKEN}"}
  - {id: filed, handlers: bot.py, token_file: filed.token}
  - id: inline
    handlers: bot.py
    token: INLINE
    settings: {password: "${PASSWORD}"}
""".replace("INLINE", TOKENS["inline"])
ENVIRONMENT = {"API_HASH": API_HASH, "ENV_TOKEN": TOKENS["env"], "PASSWORD": PASSWORD}
FILES = {
    "bot.py": BOT,
    ".env": f"DOTENV_TOKEN={TOKENS['dotenv']}\n",
    "filed.token": TOKENS["filed"] + "\n",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if os.geteuid() != 0:
        pytest.skip("only root may look into processes that forbid it")
    directory = tmp_path_factory.mktemp("secrets")
    with running(directory, FLEET, FILES, ENVIRONMENT) as fleet:
        # Each kind of process has lived a little: a second brain, a second incarnation of a bot.
        fleet.kill(fleet.unit("env")["pid"])
        before = fleet.supervisor()["pid"]
        fleet.kill(before)
        until(lambda: fleet.supervisor()["pid"] != before, "a new brain answers")
        fleet.until_ready()
        for bot in TOKENS:
            assert fleet.say(bot, "hello") == ["hello"]
        # Keeper, brain, zygote, sandbox, the spare worker, and the bots.
        until(lambda: len(fleet.processes()) == 5 + len(TOKENS), "all processes are there")
        yield fleet


def secrets(fleet: Fleet) -> dict[str, bytes]:
    """Each secret in every form it could be found in."""
    found = {f"token of {name}": text.encode() for name, text in TOKENS.items()}
    found |= {f"hash of {name}": text.partition(":")[2].encode() for name, text in TOKENS.items()}
    found |= {"api_hash": API_HASH.encode(), "password": PASSWORD.encode()}
    for name in TOKENS:
        coded = json.loads(fleet.layout.session(name).read_bytes())["key"].encode()
        found[f"key of {name}"] = base64.b64decode(coded)
        found[f"key of {name} in base64"] = coded
    return found


def leaks(fleet: Fleet, content: bytes, where: str) -> list[str]:
    return [f"{name} in {where}" for name, secret in secrets(fleet).items() if secret in content]


def titles(fleet: Fleet) -> dict[int, str]:
    return {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode()
        for pid in fleet.processes()
    }


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = str(entry.readlink())
        except FileNotFoundError:
            continue
    return found


def content(pid: int, number: int) -> bytes:
    """What can be read from a process's descriptor without taking it away."""
    path = Path(f"/proc/{pid}/fd/{number}")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # Closed since it was listed: a command's own connection, for instance.
        return b""
    if stat.S_ISREG(mode):
        return path.read_bytes()
    if stat.S_ISFIFO(mode):
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", 0) as pipe:
            waiting = array.array("i", [0])
            fcntl.ioctl(pipe, termios.FIONREAD, waiting)
            return pipe.read(waiting[0]) if waiting[0] else b""
    return b""


def test_no_process_shows_a_secret_in_its_environment_or_arguments(fleet: Fleet) -> None:
    found, names = [], titles(fleet)
    assert len(names) == 5 + len(TOKENS)
    for pid, name in names.items():
        for part in ("environ", "cmdline"):
            raw = Path(f"/proc/{pid}/{part}").read_bytes()
            found += leaks(fleet, raw, f"{part} of {name}")
            assert b"ENV_TOKEN" not in raw, f"{part} of {name} names a variable of ours"
    assert found == []


def test_no_descriptor_leads_to_a_secret(fleet: Fleet) -> None:
    found: list[str] = []
    for pid, name in titles(fleet).items():
        for number, target in descriptors(pid).items():
            found += leaks(fleet, target.encode(), f"the name of {target} in {name}")
            if name == "dims: sandbox" and "/.dims/sandbox/" in target:
                continue  # it is the Telegram here: it has to know the tokens and keys
            found += leaks(fleet, content(pid, number), f"{target}, descriptor of {name}")
            assert not target.endswith((".env", ".token", "bots.yaml")), f"{name} keeps {target}"
    assert found == []


def test_no_worker_holds_a_descriptor_of_another_process(fleet: Fleet) -> None:
    names = titles(fleet)
    held: dict[str, set[str]] = {}
    for pid, name in names.items():
        targets = set(descriptors(pid).values()) - {"/dev/null"}
        held[name] = {target for target in targets if not target.startswith("anon_inode:")}
    for bot in TOKENS:
        mine = held[f"dims: worker {bot}"]
        for other in set(TOKENS) - {bot}:
            assert not [target for target in mine if f"/{other}." in target]
        for name, theirs in held.items():
            if name != f"dims: worker {bot}":
                assert mine & theirs == set(), f"{bot} shares descriptors with {name}"
        assert {Path(target).name for target in mine if "/.dims/" in target} <= {
            f"{bot}.log",
            f"{bot}.lease",
            f"{bot}.updates",
        }


def test_no_file_of_the_state_directory_holds_a_token(fleet: Fleet) -> None:
    layout, found = fleet.layout, []
    for path in layout.state.rglob("*"):
        if not path.is_file() or path.is_relative_to(layout.sandbox):
            continue
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        raw = path.read_bytes()
        own = "key of " if path.parent == layout.sessions else "nothing"
        found += [leak for leak in leaks(fleet, raw, path.name) if not leak.startswith(own)]
    assert found == []
    assert stat.S_IMODE(layout.state.stat().st_mode) == 0o700


def test_no_answer_of_a_command_holds_a_secret(fleet: Fleet) -> None:
    found: list[str] = []
    for words in (
        ("status", "--json"),
        ("health", "--json"),
        ("bot", "list", "--json"),
        ("bot", "explain", "env", "--json"),
        ("config", "show"),
        ("config", "show", "--json"),
        ("sandbox", "status", "--json"),
        ("sandbox", "fault", "list", "--json"),
        ("logs", "env", "-n", "1000"),
        ("logs", "brain", "-n", "1000"),
    ):
        said = fleet.dims(*words)
        found += leaks(fleet, (said.out + said.err).encode(), " ".join(words))
    assert found == []


def test_what_a_bots_code_logs_prints_or_raises_is_redacted(fleet: Fleet) -> None:
    fleet.tell("env", "leak")
    until(lambda: "RuntimeError: raises" in fleet.log("env"), "the error is in the log")
    log = fleet.log("env")
    assert leaks(fleet, log.encode(), "log") == []
    for text in ("logs ***", "logs a part: ***", '"inner": [', "prints ***", "raises ***"):
        assert text in log, text


def test_a_run_in_the_foreground_shows_no_secret_either(fleet: Fleet) -> None:
    """Its own environment is the operator's; what it starts and says is ours."""
    fleet.dims("bot", "stop", "env")
    front = fleet.front("run", "env")
    until(lambda: fleet.account("env")["connections"] == 1, "it is connected")
    assert fleet.say("env", "hello again") == ["hello again"]
    fleet.tell("env", "leak")
    assert fleet.say("env", "after the leak") == ["after the leak"]
    front.terminate()
    out, err = front.communicate(timeout=20)
    assert "raises ***" in err
    assert leaks(fleet, (out + err).encode(), "the terminal") == []
    fleet.dims("bot", "start", "env")
