"""`python -m dims.services.embedded` in directories of its own, and what the kernel shows of it."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleet import LOOK_S, NOBODY, REPOSITORY, WITHIN_S, is_running, parent_of, until

from dims.services.embedded.__main__ import main

IS_ROOT = os.geteuid() == 0
codecs.lookup("ascii")
"""A child that is nobody cannot import what our interpreter loads late."""
USERS = ("root", "nobody") if IS_ROOT else ("ourselves",)


class Place:
    """A state directory, a runtime directory, and where root keeps copies and data."""

    def __init__(self, directory: Path, user: str) -> None:
        self.directory = directory
        self.user = user
        self.state = directory / "state"
        self.runtime = directory / "run"
        self.system = directory / "system"
        self.logs = directory / "logs"
        for made in (self.state, self.logs):
            made.mkdir(mode=0o700)
        self.uid = NOBODY if user == "nobody" else os.geteuid()
        if IS_ROOT:
            for made in (directory, self.state, self.logs):
                os.chown(made, self.uid, -1)

    def files(self, server: str) -> Path:
        """The server's home."""
        pointer = self.state / "embedded.home"
        root = Path(pointer.read_text().strip()) if pointer.exists() else self.state
        return root / server

    def runs_as_nobody(self, server: str) -> bool:
        """Whether root found nobody better for the server."""
        return (self.files(server) / "data").stat().st_uid == NOBODY

    def sockets(self, server: str) -> Path:
        """The directory of its socket."""
        return self.directory / f"run-{server}"

    def processes(self, server: str) -> set[int]:
        """All processes of the server: they live in its data, or in its home while they start."""
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                where = (entry / "cwd").readlink()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if where.is_relative_to(self.directory) and server in where.parts:
                found.add(int(entry.name))
        return {pid for pid in found if is_running(pid)}


class Forked:
    """The service as nobody, who may not be able to execute our interpreter: a fork without exec.

    As much of Popen as is needed.
    """

    def __init__(self, arguments: list[str], output: int) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.dup2(output, 1)
                os.dup2(output, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                os.chdir("/")
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
                code = main(arguments)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout_s: float = WITHIN_S) -> int:
        until(lambda: self.poll() is not None, "the service has ended", timeout_s)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Service:
    """One server with the process that watches over it."""

    def __init__(self, place: Place, server: str, *options: str) -> None:
        self.place = place
        self.server = server
        self.log = place.logs / f"{server}.log"
        self.began_s = time.monotonic()
        known = self.records()
        arguments = [server, "--state-dir", str(place.state), "--runtime-dir", str(place.runtime)]
        arguments += ["--system-dir", str(place.system), "--log", str(self.log), *options]
        with self.log.open("ab") as output:
            os.fchmod(output.fileno(), 0o600)
            os.fchown(output.fileno(), place.uid, -1)
            self.popen: subprocess.Popen[bytes] | Forked
            if place.user == "nobody":
                self.popen = Forked(arguments, output.fileno())
            else:
                command = [sys.executable, "-m", "dims.services.embedded", *arguments]
                self.popen = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
        self._known = len(known)

    def records(self) -> list[dict[str, Any]]:
        """What was logged, by former services as well."""
        lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self) -> list[str]:
        """What this one logged."""
        return [record["message"] for record in self.records()[self._known :]]

    def ready(self) -> float:
        """Waits until it serves; the seconds since it was started."""

        def serves() -> bool:
            if any(text.endswith(" serves") for text in self.said()):
                return True
            assert self.popen.poll() is None, self.log.read_text()
            return False

        until(serves, f"{self.server} serves")
        return time.monotonic() - self.began_s

    def server_pid(self) -> int:
        """The server's first process."""
        pids = self.place.processes(self.server)
        return next(pid for pid in pids if parent_of(pid) == self.popen.pid)

    def kill(self) -> None:
        """Kills the process that watches, and waits until the server has left, too."""
        self.popen.kill()
        self.popen.wait()
        until(lambda: not self.place.processes(self.server), "the server has left")

    def end(self, code: int = 0) -> list[str]:
        """Ends it in order; what it said."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.ended(code)

    def once(self) -> None:
        """Waits until it serves, and ends it."""
        self.ready()
        self.end()

    def ended(self, code: int) -> list[str]:
        """Waits for its end; what it said."""
        assert self.popen.wait(WITHIN_S) == code, self.log.read_text()
        assert not self.place.processes(self.server)
        assert not self.place.sockets(self.server).exists()
        return self.said()


def shown(pid: int, name: str) -> bytes:
    """What a process shows of itself; nothing where even its own user may not look."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except PermissionError:
        return b""


@contextmanager
def place_for(user: str) -> Iterator[Place]:
    """A place in /tmp, for a server as another user must be able to pass the parents; at the end
    no process may be left in it."""
    directory = Path(tempfile.mkdtemp(prefix="dims-es-"))
    directory.chmod(0o755)
    place = Place(directory, user)
    try:
        yield place
        left = place.processes("postgres") | place.processes("valkey")
        assert not left, left
    finally:
        for pid in place.processes("postgres") | place.processes("valkey"):
            os.kill(pid, signal.SIGKILL)
        until_s = time.monotonic() + WITHIN_S
        while place.processes("postgres") and time.monotonic() < until_s:
            time.sleep(LOOK_S)
        shutil.rmtree(directory)


def listens_on_tcp(pids: set[int]) -> bool:
    """Whether any of the processes has a listening TCP socket."""
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                listening.add(f"socket:[{words[9]}]")
    open_files = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                open_files.add(str(descriptor.readlink()))
            except FileNotFoundError:
                continue
    return bool(listening & open_files)
