"""Whatever a secret looks like and wherever it stands, no error, repr or mask repeats it."""

from __future__ import annotations

import json
import string
import tempfile
import traceback
from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from dims.config import Config, load_config, masked, read_environment
from dims.config.text import document
from dims.errors import ConfigError

PUNCTUATION = "_-:@/%$!*&{}[]()'\"#|>,?=+~` "
MARKER = "Zq"  # stands in no message, so that a short secret is not met by chance
secrets = st.text(string.ascii_letters + string.digits + PUNCTUATION, min_size=6, max_size=60).map(
    lambda text: MARKER + text
)
tokens = st.text(string.ascii_letters + string.digits + "_-", min_size=30, max_size=40).map(
    lambda text: f"123456:{MARKER}{text}"
)

PLACES = [
    "telegram: {{server: sandbox, api_hash: {0}}}\nbots: [{{id: a, handlers: e.py}}]\n",
    "telegram: {{server: sandbox, proxy: {0}}}\nbots: [{{id: a, handlers: e.py}}]\n",
    "telegram: {{server: production, api_hash: {0}}}\nbots: [{{id: a, handlers: e.py, x: 1}}]\n",
    "telegram: {{server: sandbox}}\nbots: [{{id: a, handlers: e.py, token: {0}}}]\n",
    "telegram: {{server: test}}\nbots: [{{id: a, handlers: e.py, token: {0}}}]\n",
    "telegram:\n  server: sandbox\nbots:\n- id: a\n  handlers: e.py\n  token: {0}\n",
    "telegram:\n  server: sandbox\nbots:\n- id: a\n  handlers: e.py\n  token:{0}\n",
    "telegram:\n  server: sandbox\nbots:\n- id: a\n  token: {0}\n  token: {0}\n",
    "telegram: {{server: sandbox}}\nbots: [{{id: a, handlers: e, token: [{0}]}}]\n",
    "telegram: {{server: sandbox}}\nbots: [{{id: a, handlers: e, token: {0}}}, {{token: {0}}}]\n",
    "telegram: {{server: sandbox}}\nbots: [{{id: a, handlers: e, settings: {{password: {0}}}}}]\n",
    "telegram: {{server: sandbox}}\nbots: [{{id: a, handlers: e, settings: [{0}]}}]\n",
]


def outcome(text: str, environ: dict[str, str]) -> str:
    """All that the reading shows to anybody."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bots.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            config: Config = load_config(path, environ)
        except ConfigError as error:
            shown = "".join(traceback.format_exception(error))
            return f"{shown}{error!r}{error.faults}{error.hint}{error.__context__!r}"
        return f"{config!r}{config}{json.dumps(masked(config))}"


@given(secret=secrets | tokens, place=st.sampled_from(PLACES))
def test_a_secret_written_in_the_file_is_never_repeated(secret: str, place: str) -> None:
    quoted = json.dumps(secret.replace("$", "$$"))
    assert secret not in outcome(place.format(quoted), {})


@given(secret=secrets | tokens, place=st.sampled_from(PLACES))
def test_a_secret_that_breaks_the_yaml_is_never_repeated(secret: str, place: str) -> None:
    assert MARKER not in outcome(place.format(secret), {})


@given(secret=secrets | tokens, place=st.sampled_from(PLACES))
def test_a_secret_from_a_variable_is_never_repeated(secret: str, place: str) -> None:
    assert secret not in outcome(place.format("'${SECRET}'"), {"SECRET": secret})


@given(
    secret=secrets | tokens,
    key=st.sampled_from(
        ["id", "handlers", "admins", "limits", "restart", "settings", "token_file"]
    ),
)
def test_a_variable_in_the_wrong_key_is_not_shown_as_a_wrong_value(secret: str, key: str) -> None:
    text = f"telegram: {{server: sandbox}}\nbots:\n- {{{key}: '${{SECRET}}', bogus: 1}}\n"
    assert secret not in outcome(text, {"SECRET": secret})


@given(
    number=st.integers(10**9, 10**18),
    place=st.sampled_from(
        ["telegram: {{server: sandbox, {0}}}", "fleet: {{{0}}}", "defaults: {{limits: {{{0}}}}}"]
    ),
    key=st.sampled_from(["sandbox_port", "starts_at_once", "log_files", "heartbeat_s"]),
)
def test_a_number_from_a_variable_is_not_repeated(number: int, place: str, key: str) -> None:
    shown = outcome(place.format(f"{key}: '${{SECRET}}'") + "\n", {"SECRET": str(number)})
    assert str(number) not in shown


@given(token=tokens, key=st.sampled_from(["id", "tokn", "admins"]))
def test_a_token_in_a_key_where_none_belongs_is_blacked_out(token: str, key: str) -> None:
    text = f"telegram: {{server: sandbox}}\nbots:\n- {{{key}: '{token}'}}\n"
    assert token not in outcome(text, {})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.ascii_letters + PUNCTUATION + "äß😀", max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(string.ascii_lowercase, min_size=1, max_size=5), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(settings=st.dictionaries(st.text(string.ascii_lowercase, min_size=1), json_values))
def test_any_json_comes_back_as_it_was_written(settings: dict[str, object]) -> None:
    content = {
        "telegram": {"server": "sandbox"},
        "bots": [{"id": "a", "handlers": "e.py", "settings": settings}],
    }
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bots.yaml"
        path.write_text(json.dumps(content, ensure_ascii=False).replace("$", "$$"))
        assert load_config(path, {}).bots[0].settings == settings


@given(text=st.text(max_size=80) | st.text("{}[]:-*&!?|>'\" \n\tab#<", max_size=40))
def test_any_text_at_all_gives_a_tree_or_a_fault_with_a_place(text: str) -> None:
    root, faults = document.parse(text, "f")
    for fault in faults:
        assert fault.mark.line >= 1
        assert fault.mark.column >= 1
        assert fault.mark.line <= text.count("\n") + text.count("\r") + 2 + text.count("\x85") * 2
    if root is None and not faults:
        assert yaml.safe_load(text) is None


@given(
    names=st.dictionaries(
        st.from_regex(r"[A-Z]{1,6}", fullmatch=True), st.text(string.ascii_letters), max_size=6
    ),
    used=st.lists(st.from_regex(r"[A-Z]{1,6}", fullmatch=True), max_size=4),
)
def test_only_variables_that_the_file_names_are_handed_on(
    names: dict[str, str], used: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bots.yaml"
        path.write_text(json.dumps({"bots": [f"${{{name}}}" for name in used]}))
        expected = {name: value for name, value in names.items() if name in used}
        assert read_environment(path, names) == expected
