"""Where things lie: short socket paths, private directories, one fleet per state directory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from dims.errors import NotRunningError, StateError
from dims.layout import Layout, state_path
from dims.storage.embedded.postgres import SOCKET

SOCKET_PATH_LIMIT = 107
"""unix(7): sun_path takes 108 bytes with its final zero."""
LONGEST_ID = "b" * 32


def test_the_state_lies_beside_the_configuration_unless_another_place_is_given() -> None:
    assert state_path(Path("/a/bots.yaml"), None) == Path("/a/.dims")
    assert state_path(Path("/a/bots.yaml"), "/b") == Path("/b")
    assert state_path(Path("bots.yaml"), "x") == Path.cwd() / "x"


def test_everything_made_is_for_this_user_only(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.make()
    layout.make()
    made = [layout.state, layout.logs, layout.sessions, layout.leases]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o700 for path in made)


def test_a_directory_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.state.mkdir(mode=0o755)
    layout.make()
    assert stat.S_IMODE(layout.state.stat().st_mode) == 0o700


def test_sockets_fit_the_kernels_limit_however_deep_the_state_lies(tmp_path: Path) -> None:
    deep = tmp_path / Path(*["a-rather-long-directory-name"] * 8)
    layout = Layout(deep)
    layout.make()
    sockets = (
        *(layout.control_socket, layout.bot_socket, layout.sandbox_socket),
        layout.peer_socket(LONGEST_ID),
        layout.doorbell(LONGEST_ID),
        layout.server_sockets("postgres") / f"{SOCKET}.lock",
    )
    for path in sockets:
        assert len(str(path).encode()) <= SOCKET_PATH_LIMIT


def test_what_killed_workers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.make()
    layout.make_runtime()
    left = (layout.peer_socket("echo"), layout.doorbell("echo"))
    for path in (*left, layout.control_socket):
        path.touch()
    try:
        layout.remove_worker_sockets()
        assert list(layout.runtime.iterdir()) == [layout.control_socket]
    finally:
        layout.control_socket.unlink(missing_ok=True)
        layout.runtime.rmdir()


def test_one_state_directory_has_one_runtime_directory_whatever_path_leads_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("state")
    runtime = Layout(tmp_path / "state").runtime
    assert Layout(tmp_path / "link").runtime == runtime
    assert Layout(tmp_path / "." / "other" / ".." / "state").runtime == runtime
    assert Layout(tmp_path / "other").runtime != runtime


def test_without_a_state_directory_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="nothing was ever started"):
        _ = Layout(tmp_path / "none").control_socket


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/dims"])
def test_a_place_that_cannot_be_a_directory_is_refused_with_a_way_out(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError) as refused:
        Layout(tmp_path / place).make()
    assert "--state-dir" in refused.value.hint


def test_sockets_of_a_killed_server_are_removed_but_nothing_behind_a_link(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "state")
    layout.make()
    left = layout.server_sockets("postgres")
    left.mkdir()
    (left / ".s.PGSQL.5432").touch()
    dear = tmp_path / "dear"
    dear.mkdir()
    (dear / "key").touch()
    link = layout.server_sockets("valkey")
    link.symlink_to(dear)
    try:
        layout.remove_server_sockets()
        assert not left.exists()
        assert (dear / "key").exists()
    finally:
        link.unlink()
    layout.remove_server_sockets()
