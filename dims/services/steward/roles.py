"""The login roles of a fleet's bots: made, given passwords, removed. Sealed first, applied then.

A password is in the sealed file before the server hears of it, and marked when the server has it:
a process that is killed in between finds out at its next start, and does it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

import asyncpg

from dims.errors import DimsError, StateError
from dims.storage.admin.scram import verifier
from dims.storage.admin.sealed_roles import AUDITOR, OPERATOR, SealedRole, SealedRoles
from dims.storage.admin.tenancy import LoginRole, drop_bot_role, end_sessions, put_roles
from dims.storage.names import Shape
from dims.system.sealed import new_password

BATCH = 50
"""Roles per transaction: each locks rows of shared catalogues."""
DAY_S = 86_400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Handed:
    """What the brain gets: role and password by bot, and bots that get none, with the reason."""

    roles: Mapping[str, tuple[str, str]] = field(repr=False)
    refused: Mapping[str, str]


class Roles:
    """The roles of these bots, and of operators and auditors."""

    def __init__(
        self, sealed: SealedRoles, shape: Shape, bots: Collection[str], utc: Callable[[], float]
    ) -> None:
        """`utc` gives the time in seconds since 1970."""
        self._utc = utc
        self._sealed = sealed
        self._shape = shape
        self.bots = tuple(bots)
        self._refused: dict[str, str] = {}
        self._put_on: asyncpg.Connection | None = None
        self._put_there: set[str] = set()
        """Keys whose passwords went over that connection."""

    @property
    def is_complete(self) -> bool:
        """Whether the server is known to have had a role for each bot."""
        found = (self._known(bot) for bot in self.bots)
        return all(one is not None and one.applied for one in found)

    def handed(self) -> Handed:
        """All that bots log in with."""
        sealed = {bot: self._known(bot) for bot in self.bots}
        roles = {bot: (one.role, one.password) for bot, one in sealed.items() if one is not None}
        return Handed(roles, dict(self._refused))

    async def settle(self, connection: asyncpg.Connection) -> int:
        """Makes the server's roles what they should be; how many were made or changed.

        Raises ServiceError without the rights for it, and StateError.
        """
        there = await _verifiers(connection, self._shape)
        self._refused = {}
        due: dict[str, bool] = {}
        for key in (*self.bots, OPERATOR, AUDITOR):
            role, sealed = self._role(key), self._known(key)
            if sealed is None:
                if key in self.bots and role in there:
                    sessions = await _sessions(connection, role)
                    if sessions:
                        self._refused[key] = (
                            f"the database role {role} is in use ({sessions} connections) and not "
                            "ours: another fleet runs this bot, or shares `storage.prefix`"
                        )
                        continue
                due[key] = True
            elif not sealed.applied or not self._is_there(connection, key, there):
                due[key] = False
        await self._put(connection, due, there)
        await self._remove_others(connection)
        return len(due)

    async def rotate(self, connection: asyncpg.Connection, bots: Iterable[str]) -> list[str]:
        """Gives the roles of these bots new passwords; the bots that had one. Raises as `settle`.

        Connections that are open stay open.
        """
        due = dict.fromkeys((bot for bot in bots if self._known(bot) is not None), True)
        await self._put(connection, due, await _verifiers(connection, self._shape))
        return list(due)

    async def end_sessions(self, connection: asyncpg.Connection, bots: Iterable[str]) -> int:
        """Ends all connections of these bots; how many there were."""
        return sum([await end_sessions(connection, self._shape, bot) for bot in bots])

    def older_than(self, days: int) -> list[str]:
        """Bots whose passwords are older."""
        before_s = self._utc() - days * DAY_S
        sealed = {bot: self._known(bot) for bot in self.bots}
        return [bot for bot, one in sealed.items() if one is not None and one.since < before_s]

    async def _put(
        self,
        connection: asyncpg.Connection,
        due: Mapping[str, bool],
        there: Mapping[str, str | None],
    ) -> None:
        """Applies what is sealed; new passwords are made where `due` says so."""
        fresh = [key for key, is_new in due.items() if is_new]
        if fresh:
            # In a thread: a verifier is 4096 rounds of hashing, a thousand of them take seconds.
            self._seal(dict(await asyncio.to_thread(self._make, fresh)))
        rest = iter(due)
        while batch := tuple(islice(rest, BATCH)):
            roles = [self._login_role(key, there) for key in batch]
            await put_roles(connection, self._shape, roles)
            self._has_put(connection, batch)

    def _seal(self, made: Mapping[str, SealedRole]) -> None:
        """Seals them all, or none of them: what is not on the disk must not reach the server with
        the next look. Raises StateError."""
        former = {key: self._sealed.get(key) for key in made}
        try:
            self._put_in(made)
            self._sealed.save()
        except StateError:
            self._put_in(former)
            raise

    def _put_in(self, roles: Mapping[str, SealedRole | None]) -> None:
        for key, one in roles.items():
            if one is None:
                self._sealed.remove(key)
            else:
                self._sealed.set(key, one)

    def _has_put(self, connection: asyncpg.Connection, keys: Iterable[str]) -> None:
        if self._put_on is not connection:
            self._put_on, self._put_there = connection, set()
        for key in keys:
            self._put_there.add(key)
            self._sealed.set(key, replace(self._sure(key), applied=True))
        self._sealed.save()

    def _make(self, keys: list[str]) -> list[tuple[str, SealedRole]]:
        made = []
        for key in keys:
            password = new_password()
            made.append(
                (
                    key,
                    SealedRole(self._role(key), password, verifier(password), self._utc(), False),
                )
            )
        return made

    def _login_role(self, key: str, there: Mapping[str, str | None]) -> LoginRole:
        sealed = self._sure(key)
        is_bot = key in self.bots
        return LoginRole(sealed.role, sealed.verifier, is_bot, sealed.role in there)

    async def _remove_others(self, connection: asyncpg.Connection) -> None:
        """Roles that we made for bots that are no longer configured; their rows stay."""
        known = {*self.bots, OPERATOR, AUDITOR}
        gone = [key for key in self._sealed.ids() if key not in known]
        for key in gone:
            try:
                await drop_bot_role(connection, self._shape, key)
            except (DimsError, asyncpg.PostgresError) as error:
                # It owns something, or is in use and we may not end that: no reason to keep the
                # others out.
                _log.warning("the role of %s stays until the next start: %s", key, error)
                continue
            self._sealed.remove(key)
        if gone:
            self._sealed.save()

    def _known(self, key: str) -> SealedRole | None:
        """What is sealed for this bot or key, unless under another prefix."""
        sealed = self._sealed.get(key)
        return sealed if sealed is not None and sealed.role == self._role(key) else None

    def _sure(self, key: str) -> SealedRole:
        sealed = self._known(key)
        assert sealed is not None  # noqa: S101 (only what was made is put)
        return sealed

    def _is_there(
        self, connection: asyncpg.Connection, key: str, there: Mapping[str, str | None]
    ) -> bool:
        """Whether the server has this very password. Where only a superuser could see that, it has
        what we have put there ourselves: another server, or a backup of it, may have others."""
        sealed = self._sure(key)
        if sealed.role not in there:
            return False
        found = there[sealed.role]
        if found is None:
            return self._put_on is connection and key in self._put_there
        return found == sealed.verifier

    def _role(self, key: str) -> str:
        match key:
            case _ if key == OPERATOR:
                return self._shape.operator
            case _ if key == AUDITOR:
                return self._shape.auditor
        return self._shape.bot_role(key)


async def _verifiers(connection: asyncpg.Connection, shape: Shape) -> dict[str, str | None]:
    """Our roles that are there, with what the server keeps of the password: empty for none, None
    where only a superuser could see it."""
    is_superuser = await connection.fetchval(
        "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    )
    table, column = (
        ("pg_authid", "coalesce(rolpassword, '')") if is_superuser else ("pg_roles", "NULL")
    )
    rows = await connection.fetch(
        f"SELECT rolname::text AS name, {column} AS verifier "  # noqa: S608 (ours)
        f"FROM pg_catalog.{table} WHERE starts_with(rolname::text, $1)",
        f"{shape.prefix}_",
    )
    return {row["name"]: row["verifier"] for row in rows}


async def _sessions(connection: asyncpg.Connection, role: str) -> int:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usename = $1", role
    )
    return count
