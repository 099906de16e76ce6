"""The text of `dims db status`, whatever a brain of another version says or leaves out."""

from __future__ import annotations

from typing import Any

from dims.cli.db import text as db_render

ANSWER: dict[str, Any] = {
    "server": {
        "kind": "url", "address": "dims@db.example:5432/fleet", "socket": False, "tls": "",
        "version": "17.2", "source": "", "started_for_this": False, "uptime_s": 3_700.0,
        "database_bytes": 5_000_000, "max_connections": 100, "reserved": 3,
        "connections": {"bots": 7}, "is_replica": False,
    },
    "replica": None,
    "revision": {
        "current": "0001", "head": "0001", "pending": [], "made": True, "ahead": False,
        "migrating": None, "partitions": 10, "prefix": "dims",
    },
    "roles": {"known": [], "strangers": [], "trouble": None},
    "running": [],
    "tables": [],
    "tidiness": None,
    "audit": None,
    "brain": None,
    "brain_trouble": "no supervisor runs",
}  # fmt: skip


def text(**changed: Any) -> str:
    return "\n".join(db_render.status({**ANSWER, **changed}))


def test_a_connection_without_encryption_is_named() -> None:
    assert "NOT ENCRYPTED" in text()
    server = {**ANSWER["server"], "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384"}
    assert "TLSv1.3" in text(server=server)
    assert "NOT ENCRYPTED" not in text(server=server)


def test_a_brain_may_leave_everything_out() -> None:
    assert "none given yet" in text(brain={})
    shown = text(brain={"budget": {"total": 60}, "pools": [{}], "slow": [{}]})
    assert "60 connections" in shown


def test_only_the_pools_that_waited_longest_are_shown() -> None:
    pools = [{"bot": f"bot{n}", "waited_max_s": n / 10} for n in range(100)]
    shown = text(brain={"pools": pools})
    assert "bot99" in shown
    assert "bot1 " not in shown
    assert "and 88 more" in shown


def test_the_longest_and_the_newest_slow_statements_come_first() -> None:
    running = [{"pid": 1, "role": "dims_bot_a", "state": "active", "took_s": 9.0, "sql": "S " * 99}]
    recent = [{"bot": "a", "at": at, "took_s": 1.5, "sql": f"QQ{at}"} for at in (1.0, 3.0, 2.0)]
    lines = text(running=running, brain={"slow": recent}).splitlines()
    slow = [line for line in lines if "S S" in line or "QQ" in line]
    assert "now 9.0s, pid 1" in slow[0]
    assert len(slow[0]) < 160
    assert [line[-4:] for line in slow[1:]] == ["Q3.0", "Q2.0", "Q1.0"]


def test_what_needs_somebody_is_said() -> None:
    revision = {**ANSWER["revision"], "pending": ["0002"], "migrating": "pid 7"}
    shown = text(revision=revision)
    assert "PENDING 0002" in shown
    assert "a migration runs: pid 7" in shown
    tidiness = {"live_rows": 1, "dead_rows": 0, "vacuumed_s": None,
                "oldest_transaction_s": 90.0, "wraparound_percent": 70.0}  # fmt: skip
    assert "70 % of the way" in text(tidiness=tidiness)
    server = {**ANSWER["server"], "is_replica": True}
    assert "IT IS A REPLICA" in text(server=server)
    replica = {"address": "r", "lag_s": 2.5, "trouble": None}
    assert "replica r: 2.5s behind" in text(replica=replica)
    assert "echo gets none: no" in text(brain={"refused": {"echo": "no"}})
