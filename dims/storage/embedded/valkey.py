"""Valkey (or Redis) as our child: over a Unix socket only, with a password, with an append-only
file.

The configuration, which holds the password, goes through the standard input: it is in no argument
and in no file that the server's user could read. What was acknowledged has been given to the
kernel, so a kill of every process loses none of it; a power failure loses the last second or two.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from dims.errors import ServiceError
from dims.storage.embedded import child, home
from dims.storage.embedded.binaries import Binaries, Source, find_valkey, version_number
from dims.storage.embedded.copies import copy_of
from dims.storage.embedded.embedded_server import EmbeddedServer
from dims.storage.embedded.home import SYSTEM, find_home
from dims.storage.embedded.probe import Health, probe_valkey
from dims.storage.embedded.server_user import VALKEY_ACCOUNTS, choose_account
from dims.system import sealed as seal

USER = "default"
SOCKET = "valkey.sock"
READABLE = 0o644
SETTINGS = """\
port 0
unixsocketperm 700
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory-policy volatile-lru
daemonize no
logfile ""
always-show-logo no
"""
"""No snapshots: the append-only file is enough. When memory is full, only what has a time to live
makes room; what a bot meant to keep is kept, and new writes are refused."""


def password_file(state: Path) -> Path:
    """Where the password is sealed."""
    return state / "valkey.password"


class EmbeddedValkey(EmbeddedServer):
    """A Valkey in the state directory, or for root where that names it (see `home`)."""

    name = "valkey"
    end = signal.SIGTERM
    end_at_once = signal.SIGKILL
    farewell = signal.SIGTERM

    def __init__(
        self,
        state: Path,
        runtime: Path,
        *,
        source: Source = Source.AUTO,
        directory: Path | None = None,
        max_memory_mb: int = 0,
        system: Path = SYSTEM,
    ) -> None:
        """`directory` names the program's place, otherwise `source` says where it is looked for;
        `max_memory_mb` 0 is without limit. Raises ServiceError."""
        place = find_home(self.name, state, runtime, system)
        owner_uid = place.data.lstat().st_uid if place.data.exists() else None
        binaries = find_valkey(directory, source, fits=lambda one: _reads(one, _maker(place.files)))
        super().__init__(place, choose_account(VALKEY_ACCOUNTS, owner_uid), binaries)
        self._sealed = password_file(state)
        self._max_memory_mb = max_memory_mb
        self._system = system

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.home.socket(SOCKET)

    @property
    def password(self) -> str:
        """What it asks for. Raises ServiceError before the first `prepare`."""
        password = seal.read(self._sealed)
        if password is None:
            raise ServiceError(f"{self._sealed} is missing")
        return password

    def prepare(self) -> None:
        """Makes what is missing. Raises ServiceError, also for data of another owner or of a
        server whose files this one cannot read."""
        if self.account is not None and self.binaries.parts:
            self.binaries = copy_of(self.binaries, self._system)
        if seal.read(self._sealed) is None:
            # Unlike a cluster, data do not know their password: any new one will do.
            seal.write(self._sealed, seal.new_password())
        if self.home.data.exists():
            self._check()
        else:
            self._make()
        made_by = f"{self.binaries.server} {self.binaries.version}"
        if _maker(self.home.files) != made_by:
            seal.write(self.home.files / "made-by", made_by, READABLE)

    def spawn(self, output: int | None = None) -> subprocess.Popen[bytes]:
        """As every server's."""
        settings = [SETTINGS, f"unixsocket {_quoted(self.socket)}"]
        settings += [f"dir {_quoted(self.home.data)}", f"requirepass {self.password}"]
        settings += [f"maxmemory {self._max_memory_mb}mb", ""]
        with self.alone() as descriptor:
            self.home.make_sockets(self.account)
            # In a file without a name: a pipe would be a second thing to wait for.
            config = os.memfd_create("config", os.MFD_CLOEXEC)
            try:
                os.write(config, "\n".join(settings).encode())
                os.lseek(config, 0, os.SEEK_SET)
                self.process = child.start(
                    [self.binaries.program, "-"],
                    self.manner(descriptor),
                    stdin=config,
                    output=output,
                )
            finally:
                os.close(config)
        return self.process

    async def probe(self, timeout_s: float) -> Health:
        """As every server's."""
        return await probe_valkey(self.socket, self.password, timeout_s)

    def address(self) -> dict[str, Any]:
        """As every server's."""
        return {
            "socket_dir": str(self.home.sockets),
            "socket": str(self.socket),
            "user": USER,
            "version": self.binaries.version,
            "source": self.binaries.source,
        }

    def _check(self) -> None:
        home.check_data(self.home.data, self.account)
        maker = _maker(self.home.files)
        if not _reads(self.binaries, maker):
            raise ServiceError(
                f"{self.home.data} was written by {maker}, "
                f"{self.binaries.server} {self.binaries.version} does not read that",
                hint=f"install the former, or remove {self.home.data} to begin with nothing",
            )

    def _make(self) -> None:
        partial = self.home.files / "data.partial"
        if partial.exists():
            partial.rmdir()
        home.make_data(partial, self.account)
        seal.move(partial, self.home.data)


def _maker(files: Path) -> str:
    """The program and version that ran last; empty where none ever did."""
    try:
        return (files / "made-by").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def _reads(binaries: Binaries, maker: str) -> bool:
    """Whether this program reads what `maker` wrote: the same program, no older (RDB versions of
    Valkey and Redis went apart after Redis 7.2)."""
    program, _, version = maker.partition(" ")
    same = program == binaries.server and version_number(version) <= binaries.number
    return same or not maker


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
