"""Passwords in files that only the fleet's user can read. Knows files, not what they open."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dims.errors import ServiceError
from dims.layout import PRIVATE_FILE

PASSWORD_BYTES = 32
"""Of chance; as text 43 characters of A-Z, a-z, 0-9, `-` and `_`."""
WRITE_HINT = "make room on its disk, or let this user write there"


def new_password() -> str:
    """A random password without characters that any of our formats would have to quote."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def read(path: Path) -> str | None:
    """The password in the file; None when there is no file. Raises ServiceError."""
    try:
        password = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ServiceError(f"cannot read the password in {path}: {error}") from error
    if not password:
        raise ServiceError(f"{path} holds no password", hint="restore it from a backup")
    return password


def write(path: Path, text: str, mode: int = PRIVATE_FILE) -> None:
    """Puts a text into a file, a private one by default, whole or not at all, even if the power
    fails."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(partial, flags, PRIVATE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    move(partial, path)


def move(old: Path, new: Path) -> None:
    """Renames durably, within one directory."""
    old.rename(new)
    directory = os.open(new.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
