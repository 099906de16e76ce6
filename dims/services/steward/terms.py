"""What the steward is told by the brain. A frozen value; its repr shows no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dims.addresses import PostgresAddress
from dims.storage.names import Shape


@dataclass(frozen=True, slots=True)
class StewardTerms:
    """The database, the bots that are to have roles in it, and where passwords are sealed."""

    address: PostgresAddress | None
    """As an administrator; None until the embedded server serves."""
    password_file: Path | None
    """Holds the administrator's password of an embedded server."""
    roles_file: Path
    server_file: Path
    """Keeps what the server allows, for a start while it is away."""
    bots: tuple[str, ...]
    shape: Shape
    migrates: bool
    rotate_days: int
    """Age at which a password is replaced; 0: never."""


def read_terms(wire: Mapping[str, Any]) -> StewardTerms:
    """The terms in a welcome; raises KeyError, TypeError or ValueError."""
    address, password_file = wire["address"], wire["password_file"]
    return StewardTerms(
        address=PostgresAddress.from_wire(address) if address else None,
        password_file=Path(password_file) if password_file else None,
        roles_file=Path(wire["roles_file"]),
        server_file=Path(wire["server_file"]),
        bots=tuple(wire["bots"]),
        shape=Shape(int(wire["partitions"]), str(wire["prefix"])),
        migrates=bool(wire["migrates"]),
        rotate_days=int(wire["rotate_days"]),
    )
