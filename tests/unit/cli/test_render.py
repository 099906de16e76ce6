"""What operators read: durations, sizes, tables, and texts that others may have written."""

from __future__ import annotations

from typing import Any

import pytest

from dims.cli import render

BOT: dict[str, Any] = {
    "id": "echo",
    "state": "ready",
    "desired": "running",
    "pid": 7,
    "incarnation": 2,
    "restarts": 1,
    "uptime_s": 61.0,
    "ready_s": 0.012,
    "unshared_bytes": 2_300_000,
    "cpu_percent": 12.5,
    "loop_lag_s": 0.0,
    "updates": 3,
    "failure": None,
    "retry_in_s": None,
    "reason": "may serve",
}
SUPERVISOR: dict[str, Any] = {
    "pid": 1,
    "keeper_pid": 2,
    "uptime_s": 5.0,
    "server": "sandbox",
    "sandbox": True,
    "stopping": False,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "-"), (0, "0ms"), (0.0123, "12ms"), (1, "1.0s"), (59.94, "59.9s")),
        *((60, "1m"), (310, "5m10s"), (3_600, "1h"), (3_661, "1h1m"), (274_000, "3d4h")),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float | None, text: str) -> None:
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"), [(None, "-"), (0, "0.0 MB"), (2_345_678, "2.3 MB"), (10**9, "1000.0 MB")]
)
def test_a_size_is_in_megabytes(amount: int | None, text: str) -> None:
    assert render.size(amount) == text


def test_columns_are_aligned_and_lines_have_no_trailing_blanks() -> None:
    lines = render.table(("A", "B"), [("long", "x"), ("s", "")])
    assert lines == ["A     B", "long  x", "s"]


def test_a_ready_bot_needs_no_reason_and_a_waiting_one_says_when() -> None:
    waiting = {**BOT, "state": "waiting", "retry_in_s": 90.0, "reason": "flood wait", "pid": None}
    _, ready, line = render.bots([BOT, waiting])
    assert ready.split() == ["echo", "ready", "7", "1m1s", "12ms", "1", "2.3", "MB", "12.5", "%"]
    assert line.endswith("again in 1m30s: flood wait")


def test_the_status_marks_the_sandbox_and_a_lost_keeper_and_weak_services() -> None:
    service = {**BOT, "id": "sandbox", "state": "backing_off", "reason": "exit code 1"}
    answer = {
        "supervisor": {**SUPERVISOR, "keeper_pid": None},
        "machine": None,
        "bots": [BOT],
        "services": [service, {**BOT, "id": "zygote"}],
    }
    lines = render.status(answer)
    assert lines[0] == "SANDBOX  supervisor pid 1, up 5.0s, the local Telegram"
    assert lines[1].startswith("DEGRADED: the keeper is gone")
    assert lines[-1] == "service sandbox is backing_off: exit code 1"
    real = {"supervisor": {**SUPERVISOR, "sandbox": False, "server": "production"}}
    assert render.status({**answer, **real})[0].startswith("supervisor pid 1")


def test_the_machine_is_a_line_once_the_brain_has_looked_at_it() -> None:
    machine: dict[str, Any] = {
        "cpu_percent": None,
        "interval_s": None,
        "cores": 4,
        "load": 0.5,
        "memory_bytes": 8_000_000_000,
        "memory_available_bytes": 6_000_000_000,
    }
    answer: dict[str, Any] = {"supervisor": SUPERVISOR, "bots": [BOT], "services": []}
    answer["machine"] = machine
    line = "machine: CPU - of 4 x 100 %, load 0.50, memory 6000.0 MB of 8000.0 MB free"
    assert render.status(answer)[-2:] == ["", line]
    used = {**answer, "machine": {**machine, "cpu_percent": 250.04}}
    assert "CPU 250.0 % of 4" in render.status(used)[-1]


@pytest.mark.parametrize(
    ("sharing", "reason", "line"),
    [
        ("immortal", "", "  memory shares what the zygote has"),
        ("copy", "no way", "  memory copies what it uses of the zygote's: no way"),
        (None, None, "  memory no zygote is ready"),
    ],
)
def test_an_explanation_says_how_memory_is_shared(
    sharing: str | None, reason: str | None, line: str
) -> None:
    told = {**BOT, "next": "serves", "events": [], "sharing": sharing, "sharing_reason": reason}
    lines = render.explanation(told)
    assert line in lines
    assert "  now    incarnation 2, 1 restarts, pid 7, 2.3 MB, CPU 12.5 %" in lines


def test_health_is_a_line_and_one_more_for_each_problem() -> None:
    answer = {"level": "degraded", "serving": 1, "wanted": 2, "problems": ["a", "b"]}
    assert render.health(answer) == ["degraded: 1 of 2 wanted bots serve", "  - a", "  - b"]
