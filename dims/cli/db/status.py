"""`dims db status`: what the server, the sealed file and the brain say, gathered."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from dims.cli.db import text as db_render
from dims.cli.db.place import with_database
from dims.cli.where import Where, as_json, located
from dims.errors import DimsError, NotRunningError, ServiceError, StateError
from dims.system.clock import SYSTEM

if TYPE_CHECKING:
    from dims.config import Config
    from dims.migrations.runner import Status
    from dims.storage.admin.administration import Reached
    from dims.storage.admin.inspection import Connection

BRAIN_WITHIN_S = 3.0


@click.command()
@located
@as_json
def status(place: Where, json_: bool) -> None:
    """Show server, revision, roles, pools, sizes, slow queries and what needs care."""
    brain, trouble = _asked(place)

    async def work(config: Config, reached: Reached) -> dict[str, Any]:
        from dims.migrations.runner import Migrations  # noqa: PLC0415 (Alembic and SQLAlchemy)
        from dims.storage.admin.administration import connected, shape_of  # noqa: PLC0415

        found = await Migrations(reached.address, shape=shape_of(config)).status()
        async with connected(reached.address) as connection:
            answer = await _database(config, reached, found, connection)
            answer["roles"] = await _roles(config, place, found, connection)
        answer["replica"] = await _replica(config)
        return answer

    answer = with_database(place, work)
    answer["brain"], answer["brain_trouble"] = brain, trouble
    click.echo(json.dumps(answer) if json_ else "\n".join(db_render.status(answer)))


def _asked(place: Where) -> tuple[dict[str, Any] | None, str]:
    """What the brain says of the storage; None, and why, when it says nothing."""
    try:
        with place.brain(timeout_s=BRAIN_WITHIN_S) as brain:
            return brain.request("storage"), ""
    except NotRunningError:
        return None, "no supervisor runs"
    except DimsError as error:
        return None, str(error)


async def _database(
    config: Config, reached: Reached, found: Status, connection: Connection
) -> dict[str, Any]:
    from dims.storage.admin import inspection  # noqa: PLC0415

    server = await inspection.server_facts(connection, found.shape)
    answer: dict[str, Any] = {
        "server": {
            "kind": config.storage.database_kind.value,
            "address": str(reached.address),
            "started_for_this": reached.is_ours,
            "socket": reached.address.is_local,
            **dataclasses.asdict(server),
        },
        "revision": {
            "current": found.revision,
            "head": found.head,
            "pending": list(found.pending),
            "made": found.is_made,
            "ahead": found.is_ahead,
            "migrating": found.migrating or None,
            "partitions": found.shape.partitions,
            "prefix": found.shape.prefix,
        },
        "running": [dataclasses.asdict(one) for one in await inspection.running(connection)],
        "tables": None,
        "tidiness": None,
        "audit": None,
    }
    if found.revision is not None and not found.is_ahead:
        sizes = await inspection.table_sizes(connection, found.shape)
        answer["tables"] = [dataclasses.asdict(one) for one in sizes]
        answer["tidiness"] = dataclasses.asdict(await inspection.tidiness(connection))
        answer["audit"] = dataclasses.asdict(await inspection.audit_facts(connection))
    return answer


async def _roles(
    config: Config, place: Where, found: Status, connection: Connection
) -> dict[str, Any]:
    from dims.storage.admin import inspection, sealed_roles  # noqa: PLC0415

    trouble = ""
    path = sealed_roles.roles_file(place.layout.state)
    try:
        sealed = sealed_roles.SealedRoles.load(path)
    except StateError as error:
        sealed, trouble = sealed_roles.SealedRoles(path), str(error)
    there = set(await inspection.login_roles(connection, found.shape))
    now = SYSTEM.utc()
    keys = {
        sealed_roles.OPERATOR: found.shape.operator,
        sealed_roles.AUDITOR: found.shape.auditor,
        **{bot.id: found.shape.bot_role(bot.id) for bot in config.bots},
    }
    roles = []
    for id_, role in keys.items():
        known = sealed.get(id_)
        roles.append(
            {
                "id": id_,
                "role": role,
                "exists": role in there,
                "sealed": known is not None,
                "password_age_s": None if known is None else max(0.0, now - known.since),
            }
        )
    bots_of_ours = {name for name in there if name.startswith(found.shape.bot_prefix)}
    return {
        "known": roles,
        "strangers": sorted(bots_of_ours - set(keys.values())),
        "trouble": trouble or None,
    }


async def _replica(config: Config) -> dict[str, Any] | None:
    """How the replica does; None when there is none. Its trouble is not ours."""
    from dims.storage.admin import inspection  # noqa: PLC0415
    from dims.storage.admin.administration import connected  # noqa: PLC0415

    address = config.storage.replica_address
    if address is None:
        return None
    answer: Mapping[str, Any] = {"lag_s": None, "trouble": None}
    try:
        async with connected(address) as connection:
            answer = {**answer, "lag_s": await inspection.replica_lag_s(connection)}
    except ServiceError as error:
        answer = {**answer, "trouble": str(error)}
    return {"address": str(address), **answer}
