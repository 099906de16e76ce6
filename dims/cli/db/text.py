"""Turns what `dims db` gathered into text for people: gets JSON objects, returns lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dims.cli.render import clock, duration, size, table

_INDENT = 10
SQL_SHOWN = 90
TABLES_SHOWN = 8
SLOW_SHOWN = 5
POOLS_SHOWN = 12
WRAPAROUND_PERCENT = 50
"""From here on somebody has to find out what keeps VACUUM from its work."""

Answer = Mapping[str, Any]


def status(answer: Answer) -> list[str]:
    """The text of `dims db status`."""
    brain = answer["brain"]
    sections = [
        ("server", _server(answer)),
        ("revision", _revision(answer["revision"])),
        ("roles", [*_roles(answer["roles"]), *_refused(brain or {})]),
        ("budget", _budget(brain, answer["brain_trouble"])),
        ("pools", _pools(brain or {})),
        ("tables", _tables(answer["tables"])),
        ("slow", _slow(answer["running"], (brain or {}).get("slow") or [])),
        ("upkeep", _upkeep(answer["tidiness"])),
        ("audit", _audit(answer["audit"])),
    ]
    return [line for name, texts in sections for line in _section(name, list(texts))]


def _section(name: str, texts: Sequence[str]) -> list[str]:
    heads = [name, *[""] * (len(texts) - 1)]
    return [f"{head:<{_INDENT}}{text}" for head, text in zip(heads, texts, strict=False)]


def _server(answer: Answer) -> Iterator[str]:
    server = answer["server"]
    source = f", embedded ({server['source'] or '?'})" if server["kind"] == "embedded" else ""
    up = "started for this command" if server["started_for_this"] else (
        f"up {duration(server['uptime_s'])}"
    )  # fmt: skip
    yield f"PostgreSQL {server['version']}{source}, {up}"
    tls = "a socket" if server["socket"] else server["tls"] or "NOT ENCRYPTED"
    yield f"{server['address']} ({tls})"
    usable = server["max_connections"] - server["reserved"]
    kinds = ", ".join(f"{kind} {n}" for kind, n in server["connections"].items())
    used = sum(server["connections"].values())
    yield f"{size(server['database_bytes'])}; {used} of {usable} connections: {kinds}"
    if server["is_replica"]:
        yield "IT IS A REPLICA: nothing can be written; name the primary as `storage.database`"
    replica = answer["replica"]
    if replica is not None:
        lag_s = replica["lag_s"]
        behind = "is no replica" if lag_s is None else f"{duration(lag_s)} behind"
        yield f"replica {replica['address']}: {replica['trouble'] or behind}"


def _revision(revision: Answer) -> Iterator[str]:
    shape = f"{revision['partitions']} partitions, roles {revision['prefix']}_*"
    if not revision["made"]:
        yield "never migrated: `dims db migrate`"
    elif revision["ahead"]:
        yield f"{revision['current']}, AHEAD of this DIMS, which knows up to {revision['head']}"
    elif revision["pending"]:
        pending = ", ".join(revision["pending"])
        yield f"{revision['current'] or 'base'}, PENDING {pending}: `dims db migrate`; {shape}"
    else:
        yield f"{revision['current']}, the newest; {shape}"
    if revision["migrating"]:
        yield f"a migration runs: {revision['migrating']}"


def _roles(answer: Answer) -> Iterator[str]:
    bots = [role for role in answer["known"] if not role["id"].startswith("#")]
    fine = [role for role in bots if role["exists"] and role["sealed"]]
    ages_s = [role["password_age_s"] for role in fine]
    oldest = f"; oldest password {duration(max(ages_s))}" if ages_s else ""
    yield f"{len(fine)} of {len(bots)} bots have theirs{oldest}"
    lost = [role["id"] for role in bots if role["exists"] and not role["sealed"]]
    if lost:
        yield f"password unknown here: {_few(lost)}"
    missing = [role["id"] for role in bots if not role["exists"]]
    if missing and len(missing) < len(bots):
        yield f"without: {_few(missing)} (a start of the fleet makes them)"
    elif missing:
        yield "a start of the fleet makes them"
    if answer["strangers"]:
        yield f"of bots that are not in bots.yaml: {_few(answer['strangers'])}"
    if answer["trouble"]:
        yield answer["trouble"]


def _refused(brain: Answer) -> Iterator[str]:
    for bot, why in (brain.get("refused") or {}).items():
        yield f"{bot} gets none: {why}"


def _budget(brain: Answer | None, trouble: str) -> Iterator[str]:
    if brain is None:
        yield f"unknown: {trouble}"
        return
    budget = brain.get("budget") or {}
    if not budget:
        yield "none given yet"
        return
    waited_s = budget.get("waited_max_s")
    longest = f", the longest wait was {duration(waited_s)}" if waited_s else ""
    yield (
        f"{budget.get('total', '?')} connections: {budget.get('share', '?')} for each bot, "
        f"{budget.get('leased', '?')} of {budget.get('lendable', '?')} more are lent; "
        f"{budget.get('waiting', 0)} bots wait{longest}"
    )


def _pools(brain: Answer) -> Iterator[str]:
    pools = brain.get("pools") or []
    if not pools:
        return
    keys = ("open", "in_use", "waiting", "waited_max_s", "connects", "slow")
    head = ("BOT", "OPEN", "IN USE", "WAITING", "WAITED", "CONNECTS", "SLOW")
    # Those with the longest waits are who one looks for.
    ordered = sorted(pools, key=lambda pool: -(pool.get("waited_max_s") or 0))
    rows = [
        (
            str(pool.get("bot", "?")),
            *(
                duration(pool.get(key)) if key == "waited_max_s" else _count(pool.get(key))
                for key in keys
            ),
        )
        for pool in ordered[:POOLS_SHOWN]
    ]
    yield from table(head, rows)
    if len(pools) > POOLS_SHOWN:
        yield f"and {len(pools) - POOLS_SHOWN} more; --json has all"


def _tables(tables: Sequence[Answer] | None) -> Iterator[str]:
    if tables is None:
        yield "none yet"
        return
    head = ("TABLE", "SIZE", "ROWS, ABOUT", "LARGEST PART", "BALANCE")
    rows = [
        (
            one["table"],
            size(one["bytes"]),
            f"{one['rows_estimate']:,}",
            f"{one['largest_percent']:g} %",
            one["note"],
        )
        for one in tables[:TABLES_SHOWN]
    ]
    yield from table(head, rows)
    rest = tables[TABLES_SHOWN:]
    if rest:
        yield f"and {len(rest)} smaller ones, {size(sum(one['bytes'] for one in rest))} in all"


def _slow(running: Sequence[Answer], recent: Sequence[Answer]) -> Iterator[str]:
    if not running and not recent:
        yield "nothing"
    for one in running[:SLOW_SHOWN]:
        state = "" if one["state"] == "active" else f" ({one['state']})"
        yield f"now {duration(one['took_s'])}, pid {one['pid']}, {one['role']}{state}: {_sql(one)}"
    newest = sorted(recent, key=lambda one: -(one.get("at") or 0))
    for one in newest[:SLOW_SHOWN]:
        when = clock(one["at"]) if one.get("at") else "-"
        yield f"{when} {one.get('bot', '?')} {duration(one.get('took_s'))}: {_sql(one)}"
    hidden = max(0, len(running) - SLOW_SHOWN) + max(0, len(newest) - SLOW_SHOWN)
    if hidden:
        yield f"and {hidden} more; --json has all"


def _upkeep(tidiness: Answer | None) -> Iterator[str]:
    if tidiness is None:
        return
    dead, live = tidiness["dead_rows"], tidiness["live_rows"]
    vacuumed = tidiness["vacuumed_s"]
    when = "never vacuumed" if vacuumed is None else f"vacuumed {duration(vacuumed)} ago"
    oldest = tidiness["oldest_transaction_s"]
    transaction = "" if oldest is None else f", oldest transaction {duration(oldest)}"
    yield f"{dead:,} dead rows beside {live:,}, {when}{transaction}"
    if tidiness["wraparound_percent"] > WRAPAROUND_PERCENT:
        yield (
            f"{tidiness['wraparound_percent']:.0f} % of the way to a stop for wraparound: "
            "`dims db maintain`"
        )


def _audit(audit: Answer | None) -> Iterator[str]:
    if audit is None:
        return
    months = audit["months"]
    span = f"{months[0]} to {months[-1]}" if months else "no months: `dims db maintain`"
    yield f"{span}, {size(audit['bytes'])}"
    if audit["unplaced_rows"]:
        yield f"about {audit['unplaced_rows']:,} rows in no month: nobody made theirs in time"


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"


def _sql(one: Answer) -> str:
    text = " ".join(str(one.get("sql", "")).split())
    return text if len(text) <= SQL_SHOWN else text[: SQL_SHOWN - 1] + "…"
