"""The roles of a fleet's bots on a real PostgreSQL, as a superuser and as one who is none."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from roles import put_bot
from storage_site import StorageSite, becomes, storage_site

from dims.addresses import PostgresAddress
from dims.migrations.runner import Migrations
from dims.services.steward.preparation import prepare
from dims.services.steward.roles import DAY_S, Roles
from dims.storage.admin.sealed_roles import OPERATOR, SealedRole, SealedRoles, roles_file
from dims.storage.connections.connecting import connect
from dims.storage.connections.storage_errors import StorageError
from dims.storage.names import Shape
from dims.system.clock import SYSTEM

_numbers = itertools.count()
BOTS = ("ada", "bob")


@pytest.fixture(scope="module")
def server() -> Iterator[StorageSite]:
    with storage_site() as site:
        yield site


@dataclass
class Place:
    """A migrated database of its own, an administrator's connection, and a state directory."""

    address: PostgresAddress
    shape: Shape
    admin: asyncpg.Connection
    root: asyncpg.Connection
    """Of the superuser, who sees what servers keep of passwords."""
    state: Path

    def sealed(self) -> SealedRoles:
        return SealedRoles.load(roles_file(self.state))

    def roles(self, *bots: str) -> Roles:
        """As a steward has them that has just started."""
        return Roles(self.sealed(), self.shape, bots or BOTS, SYSTEM.utc)

    def seals(self, bot: str) -> SealedRole:
        found = self.sealed().get(bot)
        assert found is not None
        return found

    def changes(self, bot: str, **changes: Any) -> None:
        """Puts another state of things into the sealed file."""
        sealed = self.sealed()
        sealed.set(bot, replace(self.seals(bot), **changes))
        sealed.save()

    async def comes_in(self, roles: Roles, bot: str) -> asyncpg.Connection:
        """A connection of the bot, with what the brain is told."""
        role, password = roles.handed().roles[bot]
        return await connect(
            self.address.as_user(role, password), timeout_s=10, application_name="test"
        )

    async def may_come_in(self, roles: Roles, *bots: str) -> None:
        for bot in bots or roles.bots:
            connection = await self.comes_in(roles, bot)
            await connection.close()

    async def there(self) -> set[str]:
        """All bots that have a role."""
        names = await self.root.fetch(
            "SELECT rolname::text AS name FROM pg_roles WHERE starts_with(rolname::text, $1)",
            self.shape.bot_prefix,
        )
        return {row["name"].removeprefix(self.shape.bot_prefix) for row in names}

    async def writes(self) -> str:
        """Where the transaction is that changed roles last."""
        return str(await self.root.fetchval("SELECT max(xmin::text::bigint) FROM pg_authid"))


@pytest.fixture(params=["superuser", "ordinary"])
async def place(
    server: StorageSite, request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Place]:
    name = f"s{next(_numbers)}"
    shape = Shape(partitions=2, prefix=name)
    address = replace(server.owner, database=name)
    root = await server.admin()
    await root.execute(f"CREATE ROLE {name}_dba LOGIN CREATEROLE PASSWORD 'dba'")
    owner = f"{name}_dba" if request.param == "ordinary" else "dims"
    await root.execute(f"CREATE DATABASE {name} OWNER {owner}")
    if request.param == "ordinary":
        address = address.as_user(owner, "dba")
    await Migrations(address, shape=shape).migrate()
    admin = await connect(address, timeout_s=10, application_name="test")
    yield Place(address, shape, admin, root, tmp_path)
    await admin.close()
    await root.close()


@pytest.fixture
def superuser(place: Place) -> Place:
    if place.address.user != "dims":
        pytest.skip("only a superuser sees what the server keeps of a password")
    return place


async def test_each_bot_gets_a_role_that_lets_it_in(place: Place) -> None:
    roles = place.roles()
    assert not roles.is_complete
    assert await roles.settle(place.admin) == len(BOTS) + 2, "the operator's and the auditor's too"
    assert roles.is_complete
    assert roles.handed().refused == {}
    await place.may_come_in(roles)
    assert await place.there() == set(BOTS)
    assert all(place.seals(key).applied for key in (*BOTS, OPERATOR))
    assert place.seals("ada").password not in repr(roles.handed())


async def test_the_next_start_keeps_the_passwords(place: Place) -> None:
    first = place.roles()
    await first.settle(place.admin)
    again = place.roles()
    assert again.is_complete, "known without asking the server"
    await again.settle(place.admin)
    assert again.handed().roles == first.handed().roles
    await place.may_come_in(again)


async def test_a_superuser_changes_nothing_that_is_as_it_should_be(superuser: Place) -> None:
    await superuser.roles().settle(superuser.admin)
    before = await superuser.writes()
    assert await superuser.roles().settle(superuser.admin) == 0
    assert await superuser.writes() == before


@pytest.mark.parametrize("bot", [*BOTS, OPERATOR])
async def test_what_was_sealed_before_a_kill_is_applied_at_the_next_start(
    place: Place, bot: str
) -> None:
    await place.roles().settle(place.admin)
    # Sealed, and killed: the server still has the former one.
    role = place.seals(bot).role
    await place.root.execute(f"ALTER ROLE {role} PASSWORD 'the former one'")
    place.changes(bot, applied=False)
    roles = place.roles()
    assert roles.is_complete is (bot not in BOTS)
    await roles.settle(place.admin)
    assert roles.is_complete
    assert place.seals(bot).applied
    await place.may_come_in(roles)


async def test_a_password_that_was_changed_at_the_server_is_put_right(place: Place) -> None:
    first = place.roles()
    await first.settle(place.admin)
    for bot in BOTS:
        await place.root.execute(f"ALTER ROLE {place.seals(bot).role} PASSWORD 'by somebody'")
    roles = place.roles()
    await roles.settle(place.admin)
    assert roles.handed().roles == first.handed().roles
    await place.may_come_in(roles)


async def test_a_role_that_was_dropped_at_the_server_is_made_again(place: Place) -> None:
    await place.roles().settle(place.admin)
    await place.root.execute(f"DROP ROLE {place.seals('ada').role}")
    roles = place.roles()
    await roles.settle(place.admin)
    await place.may_come_in(roles)


async def test_a_bot_that_is_gone_loses_its_role_and_keeps_its_rows(place: Place) -> None:
    roles = place.roles()
    revision = await prepare(place.admin, place.address, place.shape, roles, migrates=False)
    assert revision
    bob = await place.comes_in(roles, "bob")
    await bob.execute("INSERT INTO dims.users (bot_id, user_id) VALUES ('bob', 7)")
    await bob.close()
    left = place.roles("ada")
    await left.settle(place.admin)
    assert await place.there() == {"ada"}
    assert place.sealed().get("bob") is None
    await place.may_come_in(left)
    back = place.roles()
    await back.settle(place.admin)
    bob = await place.comes_in(back, "bob")
    assert await bob.fetchval("SELECT count(*) FROM dims.users") == 1
    await bob.close()


async def test_a_role_that_cannot_be_removed_keeps_nobody_out(place: Place) -> None:
    roles = place.roles()
    await roles.settle(place.admin)
    await place.root.execute(f"CREATE SCHEMA kept AUTHORIZATION {place.shape.bot_role('bob')}")
    # In the database of others: what it owns keeps it from being dropped.
    database = await place.root.fetchval("SELECT current_database()")
    assert database != place.address.database
    try:
        left = place.roles("ada", "eve")
        await left.settle(place.admin)
        await place.may_come_in(left)
        assert place.sealed().get("bob") is not None, "for the next time"
    finally:
        await place.root.execute("DROP SCHEMA kept")
    await place.roles("ada", "eve").settle(place.admin)
    assert await place.there() == {"ada", "eve"}


async def test_who_is_connected_as_a_bot_that_is_gone_keeps_nobody_out(place: Place) -> None:
    roles = place.roles()
    await roles.settle(place.admin)
    bob = await place.comes_in(roles, "bob")
    left = place.roles("ada")
    await left.settle(place.admin)
    await place.may_come_in(left)
    await bob.close()
    await place.roles("ada").settle(place.admin)
    assert await place.there() == {"ada"}


async def test_a_role_in_use_that_is_not_ours_is_refused_with_the_reason(place: Place) -> None:
    password = await put_bot(place.admin, place.shape, "ada")
    address = place.address.as_user(place.shape.bot_role("ada"), password)
    other = await connect(address, timeout_s=10, application_name="another fleet")
    roles = place.roles()
    await roles.settle(place.admin)
    reason = roles.handed().refused["ada"]
    assert f"the database role {place.shape.prefix}_bot_ada is in use (1 connections)" in reason
    assert "another fleet runs this bot" in reason
    assert set(roles.handed().roles) == {"bob"}
    assert not roles.is_complete
    await place.may_come_in(roles, "bob")
    assert await other.fetchval("SELECT 1") == 1, "it is left alone"
    await other.close()

    async def is_free() -> bool:
        await roles.settle(place.admin)
        return not roles.handed().refused

    await becomes(is_free, "the role is ours")
    await place.may_come_in(roles)


async def test_a_role_that_nobody_uses_is_taken_over(place: Place) -> None:
    await put_bot(place.admin, place.shape, "ada")
    roles = place.roles()
    await roles.settle(place.admin)
    await place.may_come_in(roles)


async def test_a_role_that_is_taken_over_keeps_no_rights_that_no_bot_has(superuser: Place) -> None:
    place = superuser
    await put_bot(place.admin, place.shape, "ada")
    role = place.shape.bot_role("ada")
    await place.root.execute(f"ALTER ROLE {role} CREATEDB CREATEROLE")
    await place.roles().settle(place.admin)
    rights = "SELECT rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = $1"
    assert await place.root.fetchval(rights, role) is False


async def test_rotation_gives_new_passwords_and_leaves_connections_open(place: Place) -> None:
    roles = place.roles()
    await roles.settle(place.admin)
    before = dict(roles.handed().roles)
    ada = await place.comes_in(roles, "ada")
    assert await roles.rotate(place.admin, ["ada", "nobody"]) == ["ada"]
    assert await ada.fetchval("SELECT 1") == 1
    after = roles.handed().roles
    assert after["ada"] != before["ada"]
    assert after["bob"] == before["bob"]
    await place.may_come_in(roles)
    former = place.address.as_user(*before["ada"])
    with pytest.raises(StorageError, match="password"):
        await connect(former, timeout_s=10, application_name="test")
    if place.address.user == "dims":
        assert await roles.end_sessions(place.admin, ["ada"]) == 1
    ada.terminate()
    assert place.roles().handed().roles == after


async def test_a_rotation_that_fails_half_way_is_finished_at_the_next_look(place: Place) -> None:
    roles = place.roles()
    await roles.settle(place.admin)
    lost = await connect(place.address, timeout_s=10, application_name="test")
    lost.terminate()
    with pytest.raises((asyncpg.InterfaceError, OSError)):
        await roles.rotate(lost, BOTS)
    await roles.settle(place.admin)
    await place.may_come_in(roles)


async def test_passwords_are_old_after_so_many_days(place: Place) -> None:
    roles = place.roles()
    await roles.settle(place.admin)
    assert roles.older_than(30) == []
    place.changes("bob", since=place.seals("bob").since - 31 * DAY_S)
    assert place.roles().older_than(30) == ["bob"]
    assert place.roles().older_than(32) == []


async def test_another_prefix_is_another_set_of_roles(place: Place) -> None:
    await place.roles().settle(place.admin)
    other = replace(place.shape, prefix=f"{place.shape.prefix}x")
    roles = Roles(place.sealed(), other, BOTS, SYSTEM.utc)
    assert not roles.is_complete
    assert roles.handed().roles == {}


async def test_more_roles_than_fit_one_transaction(place: Place) -> None:
    bots = [f"bot{n}" for n in range(120)]
    roles = place.roles(*bots)
    assert await roles.settle(place.admin) == len(bots) + 2
    assert await place.there() == set(bots)
    await place.may_come_in(roles, "bot0", "bot50", "bot119")


async def test_a_role_without_a_password_gets_the_sealed_one(place: Place) -> None:
    await place.roles().settle(place.admin)
    # As the removal of a bot leaves it that was killed half way, before the bot came back.
    await place.root.execute(f"ALTER ROLE {place.seals('ada').role} NOLOGIN PASSWORD NULL")
    roles = place.roles()
    await roles.settle(place.admin)
    await place.may_come_in(roles)


async def test_who_cannot_see_passwords_puts_them_once_per_connection(place: Place) -> None:
    await place.roles().settle(place.admin)
    roles = place.roles()
    await roles.settle(place.admin)
    before = await place.writes()
    assert await roles.settle(place.admin) == 0
    assert await place.writes() == before
