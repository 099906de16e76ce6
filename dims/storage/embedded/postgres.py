"""PostgreSQL as our child: one cluster, reached over a Unix socket, with a password, by everyone.

Never through pg_ctl, which daemonizes what we have to watch. What must not be changed is said on
the command line, which no ALTER SYSTEM overrides: no TCP, where the socket is, who is asked for
what (`pg_hba.conf` lies outside of the data, in a directory the server cannot write).

A password file without a cluster means that data were lost or taken away, and is refused: no
fleet shall find itself with an empty database where a full one was.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from dims.errors import ServiceError
from dims.storage.embedded import child, home
from dims.storage.embedded.binaries import Source, find_postgres
from dims.storage.embedded.copies import copy_of
from dims.storage.embedded.embedded_server import EmbeddedServer
from dims.storage.embedded.home import SYSTEM, find_home
from dims.storage.embedded.probe import Health, probe_postgres
from dims.storage.embedded.server_user import POSTGRES_ACCOUNTS, choose_account
from dims.system import sealed as seal

OWNER = "dims"
"""The superuser; there is no role `postgres`."""
DATABASE = "postgres"
PORT = 5432
"""Only part of the socket's name."""
SOCKET = f".s.PGSQL.{PORT}"
BUILTIN_LOCALE_SINCE = 17
INITDB_WITHIN_S = 120.0
PARTIAL = "data.partial-"
READABLE = 0o644
HBA = "# Written by DIMS at each start.\nlocal all all scram-sha-256\n"
SETTINGS = """\
# Written by DIMS at each start. Change settings with ALTER SYSTEM, which overrides these.
# Small: a fleet's database has many connections and little data.
shared_buffers = 32MB
huge_pages = off
jit = off
wal_level = replica
min_wal_size = 80MB
max_wal_size = 512MB
fsync = on
# Parallel queries leave /dev/shm alone: containers give it 64 MB, and systemd-logind empties an
# ordinary user's part of it at logout.
dynamic_shared_memory_type = mmap
lc_messages = C
timezone = UTC
log_timezone = UTC
log_destination = stderr
logging_collector = off
log_checkpoints = off
log_line_prefix = '%p %q%u@%d '
# Neither passwords in statements nor rows in details belong into a log.
log_min_error_statement = panic
log_error_verbosity = terse
"""


def password_file(state: Path) -> Path:
    """Where the owner's password is sealed."""
    return state / "postgres.password"


class EmbeddedPostgres(EmbeddedServer):
    """A cluster in the state directory, or for root where that names it (see `home`)."""

    name = "postgres"
    end = signal.SIGINT
    end_at_once = signal.SIGQUIT
    farewell = signal.SIGQUIT
    """Smart, fast and immediate shutdown are TERM, INT and QUIT: PostgreSQL manual, 18.5."""

    def __init__(
        self,
        state: Path,
        runtime: Path,
        *,
        source: Source = Source.AUTO,
        directory: Path | None = None,
        max_connections: int = 100,
        system: Path = SYSTEM,
    ) -> None:
        """`directory` names the programs' place, otherwise `source` says where they are looked
        for; `system` is where root keeps copies and data. Raises ServiceError."""
        place = find_home(self.name, state, runtime, system)
        owner_uid = place.data.lstat().st_uid if place.data.exists() else None
        major = _major_of(place.data)
        binaries = find_postgres(directory, source, major=major)
        super().__init__(place, choose_account(POSTGRES_ACCOUNTS, owner_uid), binaries)
        self._sealed = password_file(state)
        self._max_connections = max_connections
        self._system = system

    def prepare(self) -> None:
        """Makes the cluster unless there is one, and whatever else the server will need.

        Raises ServiceError: also for a cluster of another major version or owner, and for a
        password without its cluster or the reverse.
        """
        if self.account is not None and self.binaries.parts:
            self.binaries = copy_of(self.binaries, self._system)
        if self.home.data.exists():
            self._check()
        else:
            self._make()
        seal.write(self.home.files / "pg_hba.conf", HBA, READABLE)
        seal.write(self.home.files / "postgresql.conf", SETTINGS, READABLE)

    def spawn(self, output: int | None = None) -> subprocess.Popen[bytes]:
        """As every server's."""
        self.home.socket(f"{SOCKET}.lock")
        with self.alone() as descriptor:
            _forget_former(self.home.data)
            self.home.make_sockets(self.account)
            argv: list[str | Path] = [self.binaries.program, "-D", self.home.data]
            for name, value in self._fixed().items():
                argv += ["-c", f"{name}={value}"]
            self.process = child.start(argv, self.manner(descriptor), output=output)
        return self.process

    async def probe(self, timeout_s: float) -> Health:
        """As every server's."""
        return await probe_postgres(self.home.socket(SOCKET), OWNER, timeout_s)

    def address(self) -> dict[str, Any]:
        """As every server's."""
        return {
            "socket_dir": str(self.home.sockets),
            "port": PORT,
            "user": OWNER,
            "version": self.binaries.version,
            "source": self.binaries.source,
        }

    def _fixed(self) -> dict[str, object]:
        return {
            "config_file": self.home.files / "postgresql.conf",
            "hba_file": self.home.files / "pg_hba.conf",
            "listen_addresses": "",
            "unix_socket_directories": f'"{self.home.sockets}"',
            "unix_socket_permissions": "0700",
            "port": PORT,
            "password_encryption": "scram-sha-256",
            "max_connections": self._max_connections,
        }

    # The cluster

    def _check(self) -> None:
        data, major = self.home.data, _major_of(self.home.data)
        home.check_data(data, self.account)
        if major != self.binaries.number[0]:
            raise ServiceError(
                f"{data} was made by PostgreSQL {major}, this is {self.binaries.version} "
                f"({self.binaries.directory})",
                hint=f"install PostgreSQL {major}, or dump with it and restore with the new one",
            )
        if seal.read(self._sealed) is None:
            new = self._new_password()
            if not new.exists():
                raise ServiceError(
                    f"{self._sealed} is missing, without which nobody enters {data}",
                    hint="restore it from a backup",
                )
            # The last start was killed between its last two steps.
            seal.move(new, self._sealed)

    def _make(self) -> None:
        if self._sealed.exists():
            raise ServiceError(
                f"there is a password in {self._sealed}, but no database in {self.home.data}",
                hint=f"restore the database, or remove {self._sealed} to begin with an empty one",
            )
        with self.alone() as descriptor:
            for partial in self.home.files.glob(f"{PARTIAL}*"):
                shutil.rmtree(partial)
            new = seal.new_password()
            seal.write(self._new_password(), new)
            partial = self.home.files / f"{PARTIAL}{secrets.token_hex(4)}"
            home.make_data(partial, self.account)
            try:
                self._initdb(partial, new, descriptor)
            except ServiceError:
                shutil.rmtree(partial)
                raise
            seal.move(partial, self.home.data)
        seal.move(self._new_password(), self._sealed)

    def _new_password(self) -> Path:
        return self._sealed.with_name(f"{self._sealed.name}.new")

    def _initdb(self, partial: Path, password: str, descriptor: int) -> None:
        secret = os.memfd_create("password", os.MFD_CLOEXEC)
        try:
            os.write(secret, f"{password}\n".encode("ascii"))
            argv: list[str | Path] = [self.binaries.directory / "initdb", "--pgdata", partial]
            argv += ["--username", OWNER, "--pwfile", f"/dev/fd/{secret}"]
            argv += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--no-instructions"]
            if self.binaries.number[0] >= BUILTIN_LOCALE_SINCE:
                argv += ["--locale-provider", "builtin"]
            argv += ["--locale", "C.UTF-8"]
            manner = self.manner(secret, descriptor)
            initdb = child.start(argv, manner, output=subprocess.PIPE)
        finally:
            os.close(secret)
        try:
            said, _ = initdb.communicate(timeout=INITDB_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            initdb.kill()
            initdb.communicate()
            raise ServiceError(f"initdb takes over {INITDB_WITHIN_S:g} s") from error
        if initdb.returncode != 0:
            lines = said.decode("utf-8", "replace").strip().splitlines()
            raise ServiceError(
                f"initdb ended with {initdb.returncode}: {' '.join(lines[-3:])}",
                hint="is the disk full? nothing was left behind",
            )


def _forget_former(data: Path) -> None:
    """Removes what names a former server, none of whose processes is left.

    Should its pid be another's by now, as happens in containers, postgres would refuse to start.
    A server that somebody runs by hand on these data is left for postgres to notice.
    """
    path = data / "postmaster.pid"
    try:
        # Negative for a server in single-user mode.
        pid = abs(int(path.read_text(encoding="ascii").partition("\n")[0]))
    except FileNotFoundError:
        return
    except ValueError:
        pid = 0
    try:
        by_hand = Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
    except OSError:
        by_hand = False
    if not by_hand:
        path.unlink()


def _major_of(data: Path) -> int | None:
    """The major version of the cluster; None where there is none. Raises ServiceError."""
    try:
        return int((data / "PG_VERSION").read_text(encoding="ascii"))
    except FileNotFoundError:
        if not data.exists():
            return None
        raise ServiceError(f"{data} holds no PostgreSQL cluster", hint="move it away") from None
    except (OSError, ValueError) as error:
        raise ServiceError(f"cannot read the version of {data}: {error}") from error
