"""Whom a bot may speak as; at most one of them is active, which the database sees to."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from dims.errors import UsageError
from dims.storage.bot.repositories.repository import (
    UNSET,
    Repository,
    Unset,
    as_json,
    bounded,
    columns,
    given,
    said,
    save_statement,
)


@dataclass(frozen=True, slots=True)
class Persona:
    """One of them."""

    name: str
    prompt: str = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    is_active: bool
    created_at: datetime
    updated_at: datetime


_ROW = columns(Persona)
_GET = f"SELECT {_ROW} FROM dims.personas WHERE bot_id = $1 AND name = $2"
_ACTIVE = f"SELECT {_ROW} FROM dims.personas WHERE bot_id = $1 AND is_active"
_LIST = f"SELECT {_ROW} FROM dims.personas WHERE bot_id = $1 ORDER BY name LIMIT $2"
# The index allows one active row at any moment, also inside a statement: `former` is counted, so
# that it has run before the update that follows.
_ACTIVATE = (
    "WITH former AS (UPDATE dims.personas SET is_active = false, updated_at = now() "
    "WHERE bot_id = $2 AND is_active AND name <> $3 AND EXISTS "
    "(SELECT FROM dims.personas WHERE bot_id = $2 AND name = $3) RETURNING 1) "
    "UPDATE dims.personas SET is_active = true, updated_at = now() WHERE bot_id = $2 AND name = $3 "
    f"AND (SELECT count(*) FROM former) >= 0 RETURNING {_ROW}, {said()}"
)
_DEACTIVATE = (
    "UPDATE dims.personas SET is_active = false, updated_at = now() "
    f"WHERE bot_id = $2 AND is_active RETURNING {said()}"
)
_DELETE = f"DELETE FROM dims.personas WHERE bot_id = $2 AND name = $3 RETURNING {said()}"


@cache
def saving(names: tuple[str, ...]) -> str:
    """The statement that saves these columns."""
    return save_statement("personas", "name", Persona, names)


class Personas(Repository[Persona]):
    """`bot.db.personas`."""

    __slots__ = ()
    row = Persona

    async def get(self, name: str) -> Persona | None:
        """The persona, None when there is none of this name."""
        return await self._one(_GET, name)

    async def active(self) -> Persona | None:
        """The one that is active, if any."""
        return await self._one(_ACTIVE)

    async def save(
        self,
        name: str,
        *,
        prompt: str | Unset = UNSET,
        settings: dict[str, Any] | Unset = UNSET,
    ) -> Persona:
        """The persona after what is given was stored; what is not given stays."""
        values = given(
            {
                "prompt": prompt,
                "settings": UNSET if settings is UNSET else as_json(settings, "settings"),
            }
        )
        saved = await self._changed(saving(tuple(values)), name, *values.values())
        assert saved is not None  # noqa: S101 (an upsert always returns its row)
        return saved

    async def activate(self, name: str) -> Persona:
        """Makes this the active one, in one step. Raises UsageError when there is none of this
        name; then the former one stays."""
        persona = await self._changed(_ACTIVATE, name)
        if persona is None:
            raise UsageError(f"{self._bot_id}: no persona {name!r}", hint="save it first")
        return persona

    async def deactivate(self) -> bool:
        """Leaves none active; False when there was none."""
        return await self._done(_DEACTIVATE) > 0

    async def delete(self, name: str) -> bool:
        """Removes it; False when there was none."""
        return await self._done(_DELETE, name) > 0

    async def list(self, limit: int = 100) -> list[Persona]:
        """All, by name; at most 1,000."""
        return await self._all(_LIST, bounded(limit))
