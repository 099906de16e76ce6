"""Who may send what to whom. Pure: names, kinds and globs, no settings.

Without a grant nobody may send anything, except a bot to itself and the operator to all.
A glob never reaches DIMS's own names: what may talk to the brain is written out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache, partial

BRAIN = "brain"
"""The recipient of control commands."""
OPERATOR = "operator"
"""The sender of what a human asks for: always allowed."""
MOST_DECISIONS = 8_192
"""Decisions kept in memory; those not asked for the longest are made anew."""

_OWN_NAMES = frozenset(
    {BRAIN, "cli", "keeper", OPERATOR, "postgres", "sandbox", "steward", "valkey", "zygote"}
)


@dataclass(frozen=True, slots=True)
class Grant:
    """Any of `senders` may send any of `kinds` to any of `recipients`: all globs (*, ?)."""

    senders: tuple[str, ...]
    recipients: tuple[str, ...]
    kinds: tuple[str, ...]

    def allows(self, sender: str, recipient: str, kind: str) -> bool:
        """Whether this grant alone is enough; for the brain the kind must be written out."""
        if recipient == BRAIN and kind not in self.kinds:
            return False
        return (
            _has(self.senders, sender)
            and _has(self.recipients, recipient)
            and any(fnmatchcase(kind, glob) for glob in self.kinds)
        )

    def concerns(self, bot: str) -> bool:
        """Whether that bot is among the senders or the recipients."""
        return _has(self.senders, bot) or _has(self.recipients, bot)


@dataclass(frozen=True)
class Grants:
    """All grants of a fleet, or those that concern one bot; remembers what it decided."""

    grants: tuple[Grant, ...] = ()
    _decided: Callable[[str, str, str], bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        decide = lru_cache(MOST_DECISIONS)(partial(_decide, self.grants))
        object.__setattr__(self, "_decided", decide)

    def allows(self, sender: str, recipient: str, kind: str) -> bool:
        """Whether that message may be sent; names are bot ids, `brain` or `operator`."""
        return self._decided(sender, recipient, kind)

    def of(self, bot: str) -> Grants:
        """The grants that can matter to a message from or to that bot."""
        return Grants(tuple(grant for grant in self.grants if grant.concerns(bot)))


def _decide(grants: tuple[Grant, ...], sender: str, recipient: str, kind: str) -> bool:
    if sender in {recipient, OPERATOR}:
        return True
    return any(grant.allows(sender, recipient, kind) for grant in grants)


def _has(globs: tuple[str, ...], name: str) -> bool:
    if name in _OWN_NAMES:
        return name in globs
    return any(fnmatchcase(name, glob) for glob in globs)
