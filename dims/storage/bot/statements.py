"""What the first word of a statement says: whether it reads, and whether a pool can serve it. Pure.

A pool lends each statement another connection, so what changes a connection, or begins or ends a
transaction by hand, would hit whoever comes next.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache

from dims.errors import UsageError

_FIRST = re.compile(
    r"(?:\s|\(|--[^\n]*(?:\n|\Z)|/\*(?:[^*]|\*(?!/))*\*/)*([A-Za-z]+)(?:\s+([A-Za-z]+))?"
)
_READS = frozenset({"SELECT", "VALUES", "TABLE", "SHOW"})
_CHANGES_SESSION = frozenset({"SET", "RESET", "LISTEN", "UNLISTEN", "DISCARD", "PREPARE",
                              "EXECUTE", "DEALLOCATE", "DECLARE", "LOAD"})  # fmt: skip
_TRANSACTION = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT",
                          "RELEASE"})  # fmt: skip
_OF_A_TRANSACTION = frozenset({"LOCAL", "TRANSACTION", "CONSTRAINTS"})
"""SET with these ends with the transaction."""


class Effect(Enum):
    """What a statement may do."""

    READS = auto()
    WRITES = auto()
    """Anything that is not known to read only."""
    SETS_LOCALLY = auto()
    """For the rest of a transaction; nothing outside of one."""
    CHANGES_SESSION = auto()
    ENDS_TRANSACTION = auto()


@lru_cache(maxsize=512)
def effect(sql: str) -> Effect:
    """What the statement does, as far as its first words say."""
    found = _FIRST.match(sql)
    first, second = (word and word.upper() for word in found.groups()) if found else ("", None)
    if first in _READS:
        return Effect.READS
    if first in _TRANSACTION:
        return Effect.ENDS_TRANSACTION
    if first == "SET" and second in _OF_A_TRANSACTION:
        return Effect.SETS_LOCALLY
    return Effect.CHANGES_SESSION if first in _CHANGES_SESSION else Effect.WRITES


def checked(sql: str, *, in_transaction: bool) -> Effect:
    """The effect. Raises UsageError for what no shared connection can serve."""
    found = effect(sql)
    match found:
        case Effect.READS | Effect.WRITES:
            return found
        case Effect.SETS_LOCALLY if in_transaction:
            return found
        case Effect.SETS_LOCALLY:
            hint = "put it into `async with bot.tx()`"
        case Effect.CHANGES_SESSION:
            hint = "SET LOCAL in `async with bot.tx()` lasts until the end of the block"
        case Effect.ENDS_TRANSACTION:
            hint = "`async with bot.tx()` begins and ends transactions, nested ones too"
    word = sql.split(maxsplit=1)[0].upper()
    raise UsageError(f"{word} cannot be run here: connections are shared", hint=hint)
