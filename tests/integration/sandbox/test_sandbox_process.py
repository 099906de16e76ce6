"""The sandbox as a process: start, kill -9, signals, strangers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from telethon import TelegramClient
from telethon.crypto import rsa
from telethon.sessions import MemorySession

from dims.errors import RefusedError
from dims.ipc.links.control_client import ControlClient

LIMIT_S = 20.0
REPOSITORY = Path(__file__).parents[3]


class Process:
    """`python -m dims.sandbox` in a directory; `address` is what it told when it was ready."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        reader, writer = os.pipe()
        self.control = directory / "c.sock"
        command = [sys.executable, "-m", "dims.sandbox", "--dir", str(directory / "tg")]
        command += ["--control", str(self.control), "--ready-fd", str(writer), *arguments]
        self.popen = subprocess.Popen(
            command, pass_fds=(writer,), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = ready.readline()
        self.address: dict[str, Any] = json.loads(line) if line else {}

    def ask(self, kind: str, /, **body: Any) -> dict[str, Any]:
        with ControlClient(self.control, timeout_s=LIMIT_S) as client:
            return client.request(kind, body)

    def public_key(self) -> str:
        return Path(self.address["public_key_file"]).read_text("ascii")

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and what was logged."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        _, errors = self.popen.communicate(timeout=LIMIT_S)
        return self.popen.returncode, errors


@pytest.fixture
def directory() -> Iterator[Path]:
    # Strangers must be able to reach the socket's directory, which pytest's tmp_path forbids.
    found = Path(tempfile.mkdtemp(prefix="dims-tg-"))
    found.chmod(0o755)
    yield found
    shutil.rmtree(found)


async def login(process: Process, session: MemorySession | None = None) -> MemorySession:
    """The session of a bot that signed in, got its own name, and left."""
    address = process.address
    rsa.add_key(process.public_key(), old=False)
    if session is None:
        session = MemorySession()
        session.set_dc(address["dc_id"], address["host"], address["port"])
    client = TelegramClient(session, 1, "x", retry_delay=0.05)
    try:
        await client.start(bot_token=process.ask("bot.create", name="echo")["token"])
        assert (await client.get_me()).username == "echo_bot"
    finally:
        await client.disconnect()
    return session


async def test_a_login_outlives_kill_9_of_the_sandbox(directory: Path) -> None:
    process = Process(directory)
    session = await login(process)
    process.end(signal.SIGKILL)
    again = Process(directory)
    try:
        assert again.address == process.address
        await login(again, session)
        (account,) = again.ask("status")["accounts"]
        assert (account["logins"], account["cold_logins"], account["auth_keys"]) == (1, 0, 1)
    finally:
        assert again.end() == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(directory: Path, number: signal.Signals) -> None:
    process = Process(directory)
    token = process.ask("bot.create", name="echo")["token"]
    code, log = process.end(number)
    assert (code, log) == (0, "")
    assert not process.control.exists()
    assert token not in (directory / "tg" / "address.json").read_text()


def test_a_shutdown_request_ends_it_cleanly(directory: Path) -> None:
    process = Process(directory)
    assert process.ask("shutdown") == {"stopping": True}
    assert process.popen.wait(LIMIT_S) == 0
    assert process.end() == (0, "")


def test_a_second_one_in_the_same_place_says_so_in_one_line(directory: Path) -> None:
    first = Process(directory)
    try:
        code, log = Process(directory).end()
        assert code == 5
        assert log.count("\n") == 1
        assert "another process uses" in log
        port = str(first.address["port"])
        other = directory / "other"
        other.mkdir()
        code, log = Process(other, "--port", port).end()
        assert (code, log.count("\n")) == (9, 1)
        assert f"port {port}" in log
    finally:
        first.end()


def test_only_the_owner_can_reach_the_control_socket(directory: Path) -> None:
    process = Process(directory)
    try:
        assert stat.S_IMODE(process.control.stat().st_mode) == 0o600
        assert stat.S_IMODE((directory / "tg" / "sandbox.sqlite3").stat().st_mode) == 0o600
    finally:
        process.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play a stranger")
def test_a_stranger_is_refused_even_if_the_socket_lets_him_in(directory: Path) -> None:
    process = Process(directory)
    script = (
        "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        "sys.stdout.buffer.write(s.recv(9999))"
    )
    try:
        command = ["/usr/bin/env", "python3", "-c", script, str(process.control)]
        kept_out = subprocess.run(command, user=65534, capture_output=True, check=False)
        assert b"PermissionError" in kept_out.stderr
        process.control.chmod(0o666)
        let_in = subprocess.run(command, user=65534, capture_output=True, check=True)
        assert RefusedError.__name__.encode() in let_in.stdout
        assert b"may not steer" in let_in.stdout
    finally:
        process.end()
