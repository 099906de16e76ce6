"""What a bot is told or remembers under a name: a value of JSON each. Every change is audited, the
values of secret ones are not in the audit log."""

# ruff: noqa: S608 (statements are put together from names in this package)

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dims.storage.bot.repositories.repository import LIMIT, Repository, as_json, columns, said


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. The repr shows no value: it may be secret."""

    key: str
    value: Any = field(repr=False)
    is_secret: bool
    updated_at: datetime


_ROW = columns(Setting)
_GET = f"SELECT {_ROW} FROM dims.bot_settings WHERE bot_id = $1 AND key = $2"
_ALL = f"SELECT {_ROW} FROM dims.bot_settings WHERE bot_id = $1 ORDER BY key LIMIT {LIMIT}"
_SET = (
    "INSERT INTO dims.bot_settings (bot_id, key, value, is_secret) VALUES ($2, $3, $4, $5) "
    "ON CONFLICT (bot_id, key) DO UPDATE SET value = EXCLUDED.value, "
    "is_secret = bot_settings.is_secret OR EXCLUDED.is_secret, updated_at = now() "
    "WHERE bot_settings.value <> EXCLUDED.value "
    "OR (EXCLUDED.is_secret AND NOT bot_settings.is_secret) "
    f"RETURNING {said()}"
)
_DELETE = f"DELETE FROM dims.bot_settings WHERE bot_id = $2 AND key = $3 RETURNING {said()}"


class Settings(Repository[Setting]):
    """`bot.db.settings`: like a dictionary that everybody of this bot shares."""

    __slots__ = ()
    row = Setting

    async def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default`. Asks the database each time."""
        setting = await self._one(_GET, key)
        return default if setting is None else setting.value

    async def describe(self, key: str) -> Setting | None:
        """The setting with when it was changed and whether it is secret; None without."""
        return await self._one(_GET, key)

    async def set(self, key: str, value: Any, *, secret: bool = False) -> None:
        """Stores any JSON value; the same value again is no change. What was stored as a secret
        stays one until it is deleted."""
        await self._done(_SET, key, as_json(value, f"the setting {key!r}"), secret)

    async def delete(self, key: str) -> bool:
        """Removes it; False when there was none."""
        return await self._done(_DELETE, key) > 0

    async def all(self, *, secrets: bool = False) -> dict[str, Any]:
        """The first 1,000 by name; secret ones only when asked for."""
        listed = await self._all(_ALL)
        return {one.key: one.value for one in listed if secrets or not one.is_secret}
