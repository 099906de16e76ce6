"""The user a server runs as. Knows the password file, no directories.

Both initdb and postgres refuse root. An ordinary user's fleet runs its servers as that user.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass

from dims.errors import ServiceError

POSTGRES_ACCOUNTS = ("postgres", "dims", "nobody")
VALKEY_ACCOUNTS = ("valkey", "redis", "dims", "postgres", "nobody")
"""Whom root takes, the first that exists. `nobody` is last: others run as nobody, too, and who is
the same user reaches the files and the socket, where only the password is left to stop it."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user to become, with its groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def choose_account(names: tuple[str, ...], owner_uid: int | None = None) -> Account | None:
    """Whom root makes the server run as; None for an ordinary user, who stays who it is.

    `owner_uid` owns data that exist already: they decide, so that a user `postgres` that a package
    brings later changes nothing. Raises ServiceError when there is nobody to become.
    """
    if os.geteuid() != 0:
        _check_ourselves()
        return None
    present = [entry for name in names if (entry := _entry(name)) and entry.pw_uid != 0]
    entry = next((one for one in present if one.pw_uid == owner_uid), None)
    entry = entry or next(iter(present), None)
    if entry is None:
        raise ServiceError(
            f"root needs a user for the server to run as, none of {', '.join(names)} exists",
            hint="`useradd --system dims` makes one",
        )
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def _check_ourselves() -> None:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError as error:
        raise ServiceError(
            f"user {os.geteuid()} has no entry in /etc/passwd, which PostgreSQL asks for",
            hint="add one, or name a server: `storage.database: postgresql://...`",
        ) from error


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None
