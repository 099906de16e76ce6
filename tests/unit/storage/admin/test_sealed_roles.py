"""The file of sealed passwords: what is set is found again, and a damaged one leaks nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dims.errors import StateError
from dims.storage.admin.sealed_roles import OPERATOR, SealedRole, SealedRoles, roles_file

ECHO = SealedRole("dims_bot_echo", "S3CRET", "SCRAM-SHA-256$V3RIFIER", 1_700_000_000.0, True)
WRITTEN = {
    "role": "r", "password": "S3CRET", "verifier": "v", "since": 1, "applied": True,
}  # fmt: skip


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = roles_file(tmp_path)
    assert SealedRoles.load(path).ids() == []
    sealed = SealedRoles(path)
    sealed.set("echo", ECHO)
    sealed.set(OPERATOR, ECHO)
    sealed.save()
    assert path.stat().st_mode & 0o777 == 0o600
    again = SealedRoles.load(path)
    assert again.ids() == [OPERATOR, "echo"]
    assert again.get("echo") == ECHO
    assert again.remove("echo")
    assert not again.remove("echo")
    again.save()
    assert SealedRoles.load(path).get("echo") is None
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_no_secret_in_a_repr() -> None:
    assert "S3CRET" not in repr(ECHO)
    assert "V3RIFIER" not in repr(ECHO)


@pytest.mark.parametrize(
    "text",
    [
        '{"version": 1, "roles": {"echo": {"password": "S3CRET"',
        "",
        "[]",
        '{"version": 1}',
        '{"version": 1, "roles": []}',
        json.dumps({"version": 1, "roles": {"echo": {**WRITTEN, "password": ""}}}),
        json.dumps({"version": 1, "roles": {"echo": {**WRITTEN, "since": "S3CRET"}}}),
        json.dumps({"version": 1, "roles": {"echo": {**WRITTEN, "applied": 1}}}),
        json.dumps({"version": 1, "roles": {"echo": "S3CRET"}}),
    ],
)
def test_a_damaged_file_is_one_clear_error_without_secrets(tmp_path: Path, text: str) -> None:
    path = roles_file(tmp_path)
    path.write_text(text)
    with pytest.raises(StateError, match="is damaged") as caught:
        SealedRoles.load(path)
    assert caught.value.hint
    assert "S3CRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_of_another_version_is_told_so(tmp_path: Path) -> None:
    path = roles_file(tmp_path)
    path.write_text(json.dumps({"version": 2, "roles": {}}))
    with pytest.raises(StateError, match="version 2"):
        SealedRoles.load(path)


def test_bytes_that_are_no_text_are_one_clear_error(tmp_path: Path) -> None:
    path = roles_file(tmp_path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(StateError, match="cannot read"):
        SealedRoles.load(path)
