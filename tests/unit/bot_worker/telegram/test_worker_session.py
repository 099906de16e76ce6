"""A bot's session on disk: survives kills at any moment, and is private."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from telethon.crypto import AuthKey

from dims.bot_worker.telegram.file_session import FileSession, UpdateStateFile

KEY = bytes(range(256))


def saved(path: Path) -> FileSession:
    session = FileSession(path)
    session.set_dc(2, "127.0.0.1", 443)
    session.auth_key = AuthKey(KEY)
    session.save()
    return session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "echo.session"


def test_a_new_session_has_no_key_and_leaves_no_file_before_it_has_one(path: Path) -> None:
    session = FileSession(path)
    assert session.auth_key is None
    assert session.get_update_state(0) is None
    assert not path.exists()
    session.updates.close()


def test_what_was_saved_is_there_again_and_private(path: Path) -> None:
    saved(path).updates.close()
    session = FileSession(path)
    assert session.auth_key.key == KEY
    assert session.dc_id == 2
    for file in (path, path.with_suffix(".updates")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    session.updates.close()


def test_a_key_of_another_data_centre_is_not_used(path: Path) -> None:
    saved(path).updates.close()
    session = FileSession(path)
    session.aim(3, "127.0.0.1", 443)
    assert session.auth_key is None
    session.updates.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b'{"key": 5, "dc": 2}'])
def test_a_damaged_file_is_set_aside_and_not_trusted(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    session = FileSession(path)
    assert session.auth_key is None
    assert path.with_suffix(".session.damaged").read_bytes() == content
    session.updates.close()


def test_an_update_state_is_read_as_it_was_written(path: Path) -> None:
    file = UpdateStateFile(path)
    assert file.read() is None
    file.write(1, 2, 1_700_000_000, 4)
    file.write(2**40, 0, 1_700_000_001, -1)
    assert file.read() == (2**40, 0, 1_700_000_001, -1)
    file.close()
    file.close()
    again = UpdateStateFile(path)
    assert again.read() == (2**40, 0, 1_700_000_001, -1)
    again.close()


@pytest.mark.parametrize("position", range(0, 40, 3))
def test_an_update_state_with_one_flipped_bit_is_not_believed(path: Path, position: int) -> None:
    file = UpdateStateFile(path)
    file.write(77, 0, 1_700_000_000, 1)
    raw = bytearray(path.read_bytes())
    raw[position] ^= 4
    path.write_bytes(raw)
    assert file.read() is None
    file.close()


def test_an_update_state_without_a_key_is_nobodys(path: Path) -> None:
    session = saved(path)
    session.updates.write(77, 0, 1_700_000_000, 1)
    session.updates.close()
    session = FileSession(path)
    assert session.get_update_state(0).pts == 77
    session.updates.close()
    path.unlink()
    session = FileSession(path)
    assert session.get_update_state(0) is None
    session.updates.close()
