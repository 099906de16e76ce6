"""A PgBouncer in transaction mode before a PostgreSQL of the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from embedded import IS_ROOT
from fleet import until


async def verifiers(admin: asyncpg.Connection) -> dict[str, str]:
    """All roles that may log in, with what the server knows of their passwords."""
    rows = await admin.fetch(
        "SELECT rolname::text AS name, rolpassword FROM pg_authid "
        "WHERE rolcanlogin AND rolpassword IS NOT NULL AND NOT rolsuper"
    )
    return {row["name"]: row["rolpassword"] for row in rows}


@contextmanager
def pgbouncer(host: str, uid: int, roles: Mapping[str, str]) -> Iterator[str]:
    """The socket directory of one with two connections per role, which knows verifiers only.

    `host` is the server's socket directory, which user `uid` may enter.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed: apt-get install pgbouncer")
    with tempfile.TemporaryDirectory(prefix="dims-pb-") as directory:
        place = Path(directory)
        (place / "users.txt").write_text("".join(f'"{r}" "{k}"\n' for r, k in roles.items()))
        lines = [
            "[databases]", f"* = host={host} port=5432", "[pgbouncer]", "listen_addr =",
            f"unix_socket_dir = {place}", "listen_port = 5432", "auth_type = scram-sha-256",
            f"auth_file = {place}/users.txt", "pool_mode = transaction", "default_pool_size = 2",
            "max_client_conn = 50", f"logfile = {place}/log",
            "ignore_startup_parameters = extra_float_digits",
        ]  # fmt: skip
        if IS_ROOT:
            lines.append(f"user = {pwd.getpwuid(uid).pw_name}")
        (place / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        if IS_ROOT:
            for path in (place, *place.iterdir()):
                os.chown(path, uid, -1)
        process = subprocess.Popen(
            [program, place / "pgbouncer.ini"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until((place / ".s.PGSQL.5432").exists, "PgBouncer listens")
            yield directory
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
