"""Who there is: bots and personas. Plain records; the rules are in `world`."""

from __future__ import annotations

from dataclasses import dataclass, field

from dims.sandbox.telegram.box import Box, UserId

FIRST_PTS = 1
"""Telethon takes a pts of 0 for "no state"."""


@dataclass(frozen=True, slots=True)
class Persona:
    """A human of the sandbox; acts through the control API only."""

    id: UserId
    name: str
    username: str | None


@dataclass(slots=True)
class Bot:
    """A bot account; `repr` does not show the token."""

    id: UserId
    name: str
    username: str
    token: str = field(repr=False)
    token_generation: int = 0
    pts: int = FIRST_PTS
    last_message_id: int = 0
    delivered_pts: int = FIRST_PTS
    commands: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    undelivered: set[int] = field(default_factory=set)
    box: Box | None = field(default=None, repr=False)
