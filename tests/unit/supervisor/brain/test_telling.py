"""What a reload takes from a changed configuration, and what it leaves to a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from dims.config import Config, load_config
from dims.errors import UsageError
from dims.supervisor.brain.requests.telling import other_changes
from dims.supervisor.units.worker_terms import fresh_settings

TEXT = """
telegram: {{server: sandbox}}
defaults: {{settings: {{tone: calm, api_key: "${{KEY}}"}}}}
bots:
  - {{id: echo, handlers: echo.py{extra}}}
"""


def config(directory: Path, extra: str = "") -> Config:
    path = directory / "bots.yaml"
    path.write_text(TEXT.format(extra=extra), encoding="utf-8")
    return load_config(path, {"KEY": "a secret key"})


def test_settings_come_merged_with_the_defaults_and_with_their_secrets(tmp_path: Path) -> None:
    fresh = fresh_settings(config(tmp_path, ", settings: {tone: loud}"), "echo")
    assert fresh.settings == {"tone": "loud", "api_key": "a secret key"}
    assert fresh.hidden == ("a secret key",)
    with pytest.raises(UsageError):
        fresh_settings(config(tmp_path), "nobody")


@pytest.mark.parametrize(
    ("extra", "changed"),
    [
        ("", []),
        (", settings: {tone: loud}", []),
        (", admins: [1], limits: {log_bytes: 5000, open_files: 100}", ["admins", "limits"]),
        (", restart: {factor: 3.0}", ["restart"]),
        (", token: '123456:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'", ["token"]),
    ],
)
def test_all_other_changes_are_named(tmp_path: Path, extra: str, changed: list[str]) -> None:
    old, new = config(tmp_path).bot("echo"), config(tmp_path, extra).bot("echo")
    names = other_changes(old, new)
    assert sorted({name.partition(".")[0] for name in names}) == changed
