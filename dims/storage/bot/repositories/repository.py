"""What all repositories share: how they ask, and the checks of what goes in and comes out.

Knows no connection and no pool: a `Statements` runs what it is given, in a transaction or not.
Every statement names the bot, though the policy of the database would find it alone: partitions
and indexes are chosen by what the statement says. The id is written out: PostgreSQL would plan a
statement with a parameter in its place anew each time, 100 µs, as no plan for all bots is as cheap.
"""

# Statements are put together from names in this package.
# ruff: noqa: S608

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from dims.errors import StateError, UsageError
from dims.storage.names import literal

How = Literal["fetch", "fetchrow", "fetchval", "execute"]
"""A method of asyncpg's Connection."""
LIMIT = 1_000
"""Rows that one call gives at most."""
MANY = 10_000
"""Rows that one call takes at most: one statement, which is done as a whole or not at all."""

_PARAMETER = re.compile(r"\$(\d+)")

R = TypeVar("R")
C = TypeVar("C", bound=StrEnum)


class Unset(Enum):
    """Stands for an argument that was not given, where None is a value."""

    UNSET = "unset"


UNSET = Unset.UNSET


class Statements(Protocol):
    """What runs statements for one bot: a Database, or a Transaction."""

    @property
    def bot_id(self) -> str:
        """The tenant."""

    def correlation_id(self) -> str:
        """What is being worked on, empty for nothing."""

    async def read(self, how: How, sql: str, *args: Any) -> Any:
        """Runs what changes nothing, again if the connection breaks."""

    async def write(self, how: How, sql: str, *args: Any) -> Any:
        """Runs anything, once."""

    async def attempt(self, how: How, sql: str, *args: Any) -> Any:
        """As `write`; when it fails, a transaction around it can go on."""


class Repository(Generic[R]):
    """The rows of one bot in one table, each an `R`."""

    __slots__ = ("_bot_id", "_on")
    row: ClassVar[type[Any]]
    """The dataclass, whose fields are the columns."""

    def __init__(self, on: Statements) -> None:
        self._on = on
        self._bot_id = on.bot_id

    async def _one(self, sql: str, *args: Any) -> R | None:
        return self._made(await self._on.read("fetchrow", for_bot(sql, self._bot_id, 1), *args))

    async def _all(self, sql: str, *args: Any) -> list[R]:
        rows = await self._on.read("fetch", for_bot(sql, self._bot_id, 1), *args)
        return [self._own(row) for row in rows]

    async def _number(self, sql: str, *args: Any) -> int:
        number: int = await self._on.read("fetchval", for_bot(sql, self._bot_id, 1), *args)
        return number

    async def _changed(self, sql: str, *args: Any) -> R | None:
        """Runs what returns `columns(...)` and, last, `said(1)`: $1 is what is worked on."""
        on, sql = self._on, for_bot(sql, self._bot_id, 2)
        return self._made(await on.write("fetchrow", sql, on.correlation_id(), *args))

    async def _done(self, sql: str, *args: Any) -> int:
        """How many rows a statement changed whose $1 is what is worked on."""
        on, sql = self._on, for_bot(sql, self._bot_id, 2)
        tag = await on.write("execute", sql, on.correlation_id(), *args)
        return changed(tag)

    def _made(self, row: Any) -> R | None:
        return None if row is None else self._own(row)

    def _own(self, row: Any) -> R:
        if row[0] != self._bot_id:
            # The wall is the policy of the database; this one is for the day it has a hole.
            raise StateError(
                f"{self._bot_id}: the database gave a row of another bot; it is not shown",
                hint="tell the operator: `dims db status` checks the policies",
            )
        made: R = self.row(*row[1 : 1 + len(self.row.__slots__)])
        return made


@lru_cache(maxsize=512)
def for_bot(sql: str, bot_id: str, number: int) -> str:
    """The statement with the bot's id in place of parameter `number`; those after it move up."""

    def moved(match: re.Match[str]) -> str:
        at = int(match[1])
        return literal(bot_id) if at == number else f"${at - (at > number)}"

    return _PARAMETER.sub(moved, sql)


def columns(row: type[Any], prefix: str = "") -> str:
    """All columns of a dataclass as SQL, `bot_id` first."""
    names = ("bot_id", *(field.name for field in fields(row)))
    return ", ".join(f"{prefix}{name}" for name in names)


def said(number: int = 1) -> str:
    """SQL for a RETURNING clause: tells the audit trigger, which runs after it, what is worked on.

    For this statement's transaction only, so that a pooler hands nothing on."""
    text = f"${number}::text"
    return f"CASE WHEN {text} <> '' THEN set_config('dims.correlation_id', {text}, true) END"


def changed(tag: str) -> int:
    """The number of rows in a command tag such as `UPDATE 3`."""
    return int(tag.rpartition(" ")[2])


def bounded(limit: int, most: int = LIMIT) -> int:
    """The limit itself. Raises UsageError for one that is not from 1 to `most`."""
    if not 1 <= limit <= most:
        raise UsageError(f"limit must be 1 to {most}, not {limit}", hint="ask page by page")
    return limit


def as_json(value: Any, what: str) -> str:
    """As JSON text. Raises UsageError for what is none."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} is no JSON: {error}") from error
    if "\\u0000" in text:
        raise UsageError(f"{what} has a NUL character, which PostgreSQL stores in no text")
    return text


def as_text(value: str) -> str:
    """Without NUL characters, which Telegram lets through and PostgreSQL does not."""
    return value.replace("\x00", "") if "\x00" in value else value


def aware(moment: datetime, what: str) -> datetime:
    """The moment itself. Raises UsageError for one without a time zone."""
    if moment.tzinfo is None:
        raise UsageError(f"{what} has no time zone", hint="datetime.now(UTC)")
    return moment


def one_of(choices: type[C], value: C | str, what: str) -> C:
    """The choice itself, or of that value. Raises UsageError for what is none."""
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(choice.value for choice in choices)
        raise UsageError(f"{what} must be one of {known}, not {value!r}") from None


def given(values: dict[str, Any]) -> dict[str, Any]:
    """What is not UNSET."""
    return {name: value for name, value in values.items() if value is not UNSET}


def save_statement(
    table: str, key: str, row: type[Any], names: Iterable[str], first: Iterable[str] = ()
) -> str:
    """Inserts a row or changes the columns `names` of the one there is; $1 is what is worked on,
    $2 the bot, $3 the key, then the columns in order, and those that only a new row takes
    (`first`). `data` takes in what is given."""
    listed = tuple(names)
    taken = (key, *listed, *first)
    places = ", ".join(f"${number}" for number in range(3, 3 + len(taken)))
    sets = [f"{name} = {_new(table, name)}" for name in listed]
    return (
        f"INSERT INTO dims.{table} (bot_id, {', '.join(taken)}) VALUES ($2, {places}) "
        f"ON CONFLICT (bot_id, {key}) DO UPDATE SET {', '.join((*sets, _touched(row)))} "
        f"RETURNING {columns(row, table + '.')}, {said()}"
    )


def _touched(row: type[Any]) -> str:
    name = "last_seen_at" if "last_seen_at" in row.__slots__ else "updated_at"
    return f"{name} = now()"


def _new(table: str, name: str) -> str:
    return f"{table}.data || EXCLUDED.data" if name == "data" else f"EXCLUDED.{name}"
