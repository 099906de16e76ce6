"""The sections ipc and grants: their defaults, their faults, and how they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from dims.config import (
    BotSettings,
    Config,
    Durability,
    GrantSettings,
    IpcSettings,
    load_config,
    masked,
)
from dims.config.models import RESERVED_IDS
from dims.errors import ConfigError
from dims.ipc import grants as meaning

FLEET = (
    "telegram: {server: sandbox}\nbots:\n"
    "- {id: echo, handlers: e.py}\n- {id: shop-a, handlers: s.py}\n- {id: shop-b, handlers: s.py}\n"
)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
ENVIRON = {"WORD": "nobody", "KIND": "reboot", "WAY": "floppy", "BAD": "No Body"}


def load(directory: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = directory / "bots.yaml"
    path.write_text(text)
    return load_config(path, environ or {})


def faults_of(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(directory, text, ENVIRON)
    return caught.value.faults


def granted(*grants: str) -> str:
    """The fleet with these grants, of which the first is on line 7."""
    return FLEET + "grants:\n" + "".join(f"- {grant}\n" for grant in grants)


def test_without_the_sections_messages_have_defaults_and_nobody_has_a_grant(tmp_path: Path) -> None:
    config = load(tmp_path, FLEET)
    assert config.ipc == IpcSettings()
    assert config.ipc.durability is Durability.PROCESS
    assert config.grants == ()


@pytest.mark.parametrize("nothing", ["ipc:\ngrants:\n", "ipc: {}\ngrants: []\n"])
def test_sections_with_nothing_below_them_say_nothing(nothing: str, tmp_path: Path) -> None:
    config = load(tmp_path, FLEET + nothing)
    assert (config.ipc, config.grants) == (IpcSettings(), ())


def test_every_key_of_ipc_can_be_set_and_filled_from_a_variable(tmp_path: Path) -> None:
    text = FLEET + (
        "ipc:\n  durability: ${WAY}\n  mailbox_bytes: 1048576\n  attempts: ${TRIES}\n"
        "  retry_first_s: 0\n  retry_max_s: 0\n  request_timeout_s: 2.5\n  handlers_at_once: 1\n"
    )
    assert load(tmp_path, text, {"WAY": "power", "TRIES": "1"}).ipc == IpcSettings(
        durability=Durability.POWER,
        mailbox_bytes=1_048_576,
        attempts=1,
        retry_first_s=0,
        retry_max_s=0,
        request_timeout_s=2.5,
        handlers_at_once=1,
    )


def test_a_grant_takes_words_lists_patterns_and_variables(tmp_path: Path) -> None:
    text = granted(
        "{from: echo, to: 'shop-*'}",
        "{from: ['${WORD}', '*'], to: [shop-a, brain], kinds: [start, status]}",
        "{from: shop-?, to: echo, kinds: order.*}",
    )
    first, second, third = load(tmp_path, text, {"WORD": "shop-b"}).grants
    assert (first.sender, first.to, first.kinds) == (("echo",), ("shop-*",), ("*",))
    assert (second.sender, second.to) == (("shop-b", "*"), ("shop-a", "brain"))
    assert second.kinds == ("start", "status")
    assert {type(word) for word in second.sender} == {str}
    assert (third.sender, third.kinds) == (("shop-?",), ("order.*",))


@pytest.mark.parametrize("kind", ["a", "Order.new-2_x", "x" * 64, "*", "?", "*.done", "a*?"])
def test_kinds_of_any_allowed_shape_can_be_granted(kind: str, tmp_path: Path) -> None:
    config = load(tmp_path, granted(f"{{from: echo, to: shop-a, kinds: '{kind}'}}"))
    assert config.grants[0].kinds == (kind,)


ONE_FAULT = {
    # ipc
    "not a mapping": (FLEET + "ipc: [5]\n", "6:6", "ipc must be a mapping (key: value)"),
    "unknown key": (FLEET + "ipc: {attempt: 5}\n", "6:7", "Did you mean 'attempts'?"),
    "durability": (
        FLEET + "ipc: {durability: disk}\n",
        "6:19",
        "durability must be 'process' or 'power', not 'disk'",
    ),
    "durability from a variable": (
        FLEET + "ipc:\n  durability: ${WAY}\n",
        "7:15",
        "durability must be 'process' or 'power', which the value of variable WAY is not",
    ),
    "small mailbox": (
        FLEET + "ipc: {mailbox_bytes: 1_048_575}\n",
        "6:22",
        "mailbox_bytes must be at least 1048576, not 1048575",
    ),
    "huge mailbox": (
        FLEET + "ipc: {mailbox_bytes: 1000000000001}\n",
        "6:22",
        "mailbox_bytes must be at most 1000000000000",
    ),
    "no attempt": (FLEET + "ipc: {attempts: 0}\n", "6:17", "attempts must be at least 1, not 0"),
    "attempts": (FLEET + "ipc: {attempts: 101}\n", "6:17", "attempts must be at most 100, not 101"),
    "negative delay": (FLEET + "ipc: {retry_first_s: -1}\n", "6:22", "must be at least 0, not -1"),
    "no time": (FLEET + "ipc: {request_timeout_s: 0}\n", "6:26", "must be more than 0, not 0"),
    "no handler": (FLEET + "ipc: {handlers_at_once: 0}\n", "6:25", "must be at least 1, not 0"),
    "handlers": (FLEET + "ipc: {handlers_at_once: 10001}\n", "6:25", "must be at most 10000"),
    "null": (FLEET + "ipc: {attempts: null}\n", "6:17", "attempts must be a whole number, not emp"),
    "delays clash": (
        FLEET + "ipc: {retry_max_s: 2, retry_first_s: 3}\n",
        "6:20",
        "retry_max_s (2) must not be below retry_first_s (3)",
    ),
    "delay clashes with the default": (
        FLEET + "ipc: {retry_first_s: 31}\n",
        "6:22",
        "retry_max_s (30) must not be below retry_first_s (31)",
    ),
    # the shape of grants
    "grants a mapping": (
        FLEET + "grants: {from: echo, to: shop-a}\n",
        "6:9",
        "grants must be a list; begin each grant with '- from: ...'",
    ),
    "a text": (granted("echo"), "7:3", "a grant must be a mapping (from: ..., to: ..."),
    "no from": (
        granted("{to: echo}"),
        "7:3",
        "the key 'from' is missing; say which bots may send",
    ),
    "no to": (granted("{from: echo}"), "7:3", "the key 'to' is missing; say which bots they may"),
    "form": (
        granted("{from: echo, to: echo, form: x}"),
        "7:26",
        "unknown key 'form'. Did you mean 'from'?",
    ),
    "sender": (
        granted("{from: echo, to: echo, sender: x}"),
        "7:26",
        "unknown key 'sender'. Possible here: from, to, kinds.",
    ),
    "from null": (granted("{from: , to: echo}"), "7:10", "from must be text, not empty"),
    "from a number": (
        granted("{from: 5, to: echo}"),
        "7:10",
        "from must be text, not 5; put it in quotes",
    ),
    "from a mapping": (
        granted("{from: {a: 1}, to: echo}"),
        "7:10",
        "from must be a list, not a mapping",
    ),
    "from nobody": (
        granted("{from: [], to: echo}"),
        "7:10",
        "from must name at least one, not an empty list",
    ),
    "a list in a list": (
        granted("{from: [echo, [echo]], to: echo}"),
        "7:17",
        "from must be text, not a list",
    ),
    "an id in capitals": (
        granted("{from: echo, to: [shop-a, Echo]}"),
        "7:29",
        "to must be bot ids such as 'echo', with * and ? for any characters, not 'Echo'",
    ),
    "brackets": (granted("{from: '[es]*', to: echo}"), "7:10", "from must be bot ids such as"),
    "an id from a variable": (
        granted("{from: '${BAD}', to: echo}"),
        "7:10",
        "which the value of variable BAD is not",
    ),
    "an unset variable": (
        granted("{from: ['${GONE}'], to: echo}"),
        "7:11",
        "the variable GONE is not set",
    ),
    # names
    "unknown sender": (
        granted("{from: ehco, to: echo}"),
        "7:10",
        "from: 'ehco' matches no bot. Did you mean 'echo'?",
    ),
    "unknown pattern": (
        granted("{from: echo, to: [echo, 'shpo-*']}"),
        "7:27",
        "to: 'shpo-*' matches no bot. Did you mean 'shop-",
    ),
    "nearly brain": (
        granted("{from: echo, to: brian, kinds: start}"),
        "7:20",
        "to: 'brian' matches no bot. Did you mean 'brain'?",
    ),
    "brain as sender": (granted("{from: brain, to: echo}"), "7:10", "from: 'brain' matches no bot"),
    "operator": (granted("{from: echo, to: operator}"), "7:20", "to: 'operator' matches no bot"),
    "unknown from a variable": (
        granted("{from: '${WORD}', to: echo}"),
        "7:10",
        "from: the value of variable WORD matches no bot.",
    ),
    # kinds
    "a kind": (
        granted("{from: echo, to: shop-a, kinds: [a, 9b]}"),
        "7:39",
        "kinds must be up to 64 letters, digits, '_', '.' or '-', begin with a letter",
    ),
    "a long kind": (
        granted(f"{{from: echo, to: shop-a, kinds: {'x' * 65}}}"),
        "7:35",
        "kinds must be up to 64 letters",
    ),
    "no kind": (
        granted("{from: echo, to: shop-a, kinds: []}"),
        "7:35",
        "kinds must name at least one, not an empty list",
    ),
    "kinds null": (granted("{from: echo, to: shop-a, kinds: }"), "7:35", "kinds must be text, not"),
    "brain without kinds": (
        granted("{from: echo, to: [shop-a, brain]}"),
        "7:20",
        "kinds is missing; for brain list some of start, stop, restart, status",
    ),
    "brain with a pattern": (
        granted("{from: echo, to: brain, kinds: 're*'}"),
        "7:34",
        "kinds for brain must be some of start, stop, restart, status, not 're*'.",
    ),
    "brain with an unknown kind": (
        granted("{from: echo, to: brain, kinds: [stop, restrat]}"),
        "7:41",
        "not 'restrat'. Did you mean 'restart'?",
    ),
    "brain with a kind from a variable": (
        granted("{from: echo, to: brain, kinds: '${KIND}'}"),
        "7:34",
        "not the value of variable KIND.",
    ),
}


@pytest.mark.parametrize("name", ONE_FAULT)
def test_each_mistake_is_one_line_at_its_exact_place(name: str, tmp_path: Path) -> None:
    text, place, wording = ONE_FAULT[name]
    faults = faults_of(tmp_path, text)
    assert len(faults) == 1, faults
    assert faults[0].startswith(f"bots.yaml:{place}: "), faults[0]
    assert wording in faults[0]
    assert "nput should" not in faults[0]
    assert not any(value in faults[0] for value in ENVIRON.values())


def test_all_faults_of_all_grants_come_in_one_go(tmp_path: Path) -> None:
    found = faults_of(
        tmp_path,
        granted(
            "{from: [a1, echo, a2], to: a3}",
            "{from: 5, to: brain}",
            "{from: echo, to: brain, kinds: [x, stop, '*']}",
        ),
    )
    places = ["7:11", "7:21", "7:30", "8:10", "9:35", "9:44"]
    assert [line.split(": ")[0] for line in found] == [f"bots.yaml:{place}" for place in places]


def test_a_grant_for_a_bot_with_a_fault_is_not_at_fault_too(tmp_path: Path) -> None:
    text = FLEET + "- {id: late, handlers: 5}\ngrants: [{from: late, to: echo}]\n"
    (fault,) = faults_of(tmp_path, text)
    assert fault.startswith("bots.yaml:6:24: handlers must be text")


@pytest.mark.parametrize("bot_id", RESERVED_IDS)
def test_no_bot_can_be_called_like_a_part_of_dims(bot_id: str, tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, FLEET + f"- {{id: {bot_id}, handlers: e.py}}\n")
    assert fault.startswith("bots.yaml:6:8: id cannot be auditor, brain, cli, keeper, ")
    with pytest.raises(ValidationError, match="DIMS uses these itself"):
        BotSettings(id=bot_id, handlers="e.py")


def test_the_names_that_patterns_do_not_reach_are_those_that_no_bot_can_have() -> None:
    everybody = meaning.Grants((meaning.Grant(("*",), ("*",), ("*",)),))
    for name in ("brain", "cli", "keeper", "operator", "sandbox", "zygote"):
        assert not everybody.allows("echo", name, "start")
    assert everybody.allows("echo", "brains", "start")


def test_both_sections_are_shown_with_the_keys_of_the_file(tmp_path: Path) -> None:
    text = granted("{from: echo, to: shop-*}") + "ipc: {durability: power}\n"
    shown = yaml.safe_load(yaml.safe_dump(masked(load(tmp_path, text))))
    assert shown["grants"] == [{"from": ["echo"], "to": ["shop-*"], "kinds": ["*"]}]
    assert shown["ipc"] == {
        "durability": "power",
        "mailbox_bytes": 268_435_456,
        "attempts": 5,
        "retry_first_s": 0.2,
        "retry_max_s": 30.0,
        "request_timeout_s": 10.0,
        "handlers_at_once": 16,
    }


def test_what_is_shown_reads_back_as_the_same(tmp_path: Path) -> None:
    text = granted("{from: [echo, shop-?], to: brain, kinds: stop}") + "ipc: {attempts: 9}\n"
    config = load(tmp_path, text)
    shown = masked(config)
    again = load(tmp_path, FLEET + yaml.safe_dump({key: shown[key] for key in ("ipc", "grants")}))
    assert (again.ipc, again.grants) == (config.ipc, config.grants)


def test_every_key_stands_in_the_documentation_with_its_default() -> None:
    rows = [row.split("|") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    stated = {(row[1].strip(), row[3].strip().replace(",", "")) for row in rows}
    for name, field in IpcSettings.model_fields.items():
        default = field.default
        shown = default.value if isinstance(default, Durability) else f"{default:.15g}"
        assert (f"`{name}`", shown) in stated, name
    for name, field in GrantSettings.model_fields.items():
        default = "required" if field.is_required() else "['*']"
        assert (f"`{field.alias or name}`", default) in stated, name


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    example = PAGE.read_text().split("## grants")[1].split("```yaml\n")[1].split("```")[0]
    bots = ("shop", "stock", "worker-1", "log", "stats", "admin")
    listed = "".join(f"- {{id: {bot}, handlers: e.py}}\n" for bot in bots)
    config = load(tmp_path, f"telegram: {{server: sandbox}}\nbots:\n{listed}{example}")
    assert [grant.to for grant in config.grants] == [("stock",), ("log", "stats"), ("brain",)]
