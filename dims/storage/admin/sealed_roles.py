"""The passwords of database roles, in one private file of the state directory. Knows no server.

    {"version": 1, "roles": {ID: {"role", "password", "verifier", "since", "applied"}}}

The steward writes it, commands read it. Read whole and replaced whole: who reads while it is
written gets the former one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dims.errors import ServiceError, StateError
from dims.system import sealed as seal

VERSION = 1
FILE = "roles.json"
OPERATOR = "#operator"
AUDITOR = "#auditor"
"""Keys of login roles that are no bots': no bot id begins with `#`."""
_HINT = "restore it from a backup, or remove it and start the fleet: all roles get new passwords"


def roles_file(state: Path) -> Path:
    """Where the passwords of a fleet's roles are sealed."""
    return state / FILE


@dataclass(frozen=True, slots=True)
class SealedRole:
    """One login role, and what it logs in with."""

    role: str
    password: str = field(repr=False)
    verifier: str = field(repr=False)
    """What the server keeps of the password (see `scram`)."""
    since: float
    """When the password was made, in UTC seconds."""
    applied: bool
    """Whether the server is known to have this verifier; sealed first, applied then."""


class SealedRoles:
    """All of them, by bot id or one of the keys above. Changes reach the file with `save`."""

    def __init__(self, path: Path, roles: Mapping[str, SealedRole] | None = None) -> None:
        self._path = path
        self._roles = dict(roles or {})

    @classmethod
    def load(cls, path: Path) -> Self:
        """What the file holds; nothing when there is none. Raises StateError."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path)
        except PermissionError as error:
            raise StateError(
                f"{path} may not be read", hint="use the user who started the fleet, or root"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise StateError(f"cannot read {path}: {error}", hint=_HINT) from error
        return cls(path, _read(path, text))

    def get(self, id_: str) -> SealedRole | None:
        """The role of a bot or key; None when nothing is sealed for it."""
        return self._roles.get(id_)

    def set(self, id_: str, role: SealedRole) -> None:
        """Puts a role in, or in place of the former."""
        self._roles[id_] = role

    def remove(self, id_: str) -> bool:
        """Takes a role out; False when there was none."""
        return self._roles.pop(id_, None) is not None

    def ids(self) -> list[str]:
        """All ids and keys, sorted."""
        return sorted(self._roles)

    def save(self) -> None:
        """Replaces the file, 0600, durably. Raises StateError; the former file stays then."""
        roles = {id_: _wire(role) for id_, role in sorted(self._roles.items())}
        try:
            seal.write(self._path, json.dumps({"version": VERSION, "roles": roles}, indent=1))
        except (OSError, ServiceError) as error:
            why = getattr(error, "strerror", None) or error
            raise StateError(f"cannot write {self._path}: {why}", hint=seal.WRITE_HINT) from error


def _wire(role: SealedRole) -> dict[str, Any]:
    return {name: getattr(role, name) for name in SealedRole.__slots__}


def _read(path: Path, text: str) -> dict[str, SealedRole]:
    # What is wrong is not said: a decoder's message repeats what it read, passwords included.
    try:
        document = json.loads(text)
        version = document["version"]
        roles = {str(id_): _role(wire) for id_, wire in document["roles"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StateError(f"{path} is damaged", hint=_HINT) from None
    if version != VERSION:
        raise StateError(
            f"{path} has version {version!r}, this DIMS reads {VERSION}",
            hint="run the DIMS that wrote it",
        )
    return roles


def _role(wire: Mapping[str, Any]) -> SealedRole:
    role, password, verifier = wire["role"], wire["password"], wire["verifier"]
    since, applied = wire["since"], wire["applied"]
    texts = all(isinstance(text, str) and text for text in (role, password, verifier))
    if not texts or not isinstance(applied, bool) or isinstance(since, (bool, str)):
        raise ValueError
    return SealedRole(role, password, verifier, float(since), applied)
