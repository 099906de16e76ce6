"""Turns answers into text for people: gets JSON objects, returns lines. Knows the time zone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from dims.ipc.words.states import Manner, State

_SHARING = {
    Manner.IMMORTAL: "shares what the zygote has",
    Manner.COPY: "copies what it uses of the zygote's",
    None: "no zygote is ready",
}
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def duration(seconds: float | None) -> str:
    """`3d4h`, `5m10s`, `1.4s`, `12ms`, or `-` for None."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for index, (size, name) in enumerate(_UNITS):
        if whole >= size:
            smaller_size, smaller = (*_UNITS, (1, "s"))[index + 1]
            rest = whole % size // smaller_size
            return f"{whole // size}{name}" + (f"{rest}{smaller}" if rest else "")
    return f"{whole}s"


def size(amount_bytes: int | None) -> str:
    """`2.3 MB`, or `-` for None; a MB is 10**6 bytes."""
    return "-" if amount_bytes is None else f"{amount_bytes / 1e6:.1f} MB"


def percent(share: float | None) -> str:
    """`12.5 %`, or `-` for None."""
    return "-" if share is None else f"{share:.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns; the last column is not padded."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    lines = []
    for row in (head, *rows):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*padded, row[-1]]).rstrip())
    return lines


def status(answer: Mapping[str, Any]) -> list[str]:
    """The text of `dims status`."""
    supervisor = answer["supervisor"]
    lines = [_headline(supervisor)]
    if supervisor["keeper_pid"] is None:
        lines.append("DEGRADED: the keeper is gone; `dims stop`, then `dims start`")
    lines += ["", *bots(answer["bots"]), *_machine(answer["machine"])]
    weak = [s for s in answer["services"] if s["state"] != State.READY]
    lines += [f"service {s['id']} is {s['state']}: {s['reason']}" for s in weak]
    return lines


def bots(units: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of bots."""
    head = ("BOT", "STATE", "PID", "UP", "READY IN", "RESTARTS", "MEMORY", "CPU", "WHY")
    return table(head, [_row(unit) for unit in units])


def health(answer: Mapping[str, Any]) -> list[str]:
    """The text of `dims health`."""
    counted = f"{answer['serving']} of {answer['wanted']} wanted bots serve"
    return [f"{answer['level']}: {counted}", *(f"  - {text}" for text in answer["problems"])]


def explanation(answer: Mapping[str, Any]) -> list[str]:
    """The text of `dims bot explain`."""
    failure = f" [{answer['failure']}]" if answer["failure"] else ""
    history = f"incarnation {answer['incarnation']}, {answer['restarts']} restarts"
    uses = f"{size(answer['unshared_bytes'])}, CPU {percent(answer['cpu_percent'])}"
    lines = [
        f"{answer['id']} is {answer['state']} (wanted: {answer['desired']})",
        f"  why    {answer['reason']}{failure}",
        f"  next   {answer['next']}",
        f"  now    {history}, pid {answer['pid'] or '-'}, {uses}",
        f"  memory {_SHARING[answer['sharing']]}{_because(answer['sharing_reason'])}",
        "  events",
    ]
    rows = [
        (clock(event["at"]), f"#{event['incarnation']}", event["state"], event["reason"])
        for event in answer["events"]
    ]
    return lines + ["    " + line for line in table(("UTC", "INC", "STATE", "WHY"), rows)]


def _because(reason: str | None) -> str:
    return f": {reason}" if reason else ""


def _headline(supervisor: Mapping[str, Any]) -> str:
    mark = "SANDBOX  " if supervisor["sandbox"] else ""
    where = "the local Telegram" if supervisor["sandbox"] else f"server {supervisor['server']}"
    stopping = ", stopping" if supervisor["stopping"] else ""
    return (
        f"{mark}supervisor pid {supervisor['pid']}, up {duration(supervisor['uptime_s'])},"
        f" {where}{stopping}"
    )


def _machine(machine: Mapping[str, Any] | None) -> list[str]:
    if machine is None:
        return []
    cores = f"CPU {percent(machine['cpu_percent'])} of {machine['cores']} x 100 %"
    memory = f"{size(machine['memory_available_bytes'])} of {size(machine['memory_bytes'])} free"
    return ["", f"machine: {cores}, load {machine['load']:.2f}, memory {memory}"]


def _row(unit: Mapping[str, Any]) -> tuple[str, ...]:
    why = "" if unit["state"] == State.READY else unit["reason"]
    if unit["retry_in_s"] is not None:
        why = f"again in {duration(unit['retry_in_s'])}: {why}"
    return (
        unit["id"],
        unit["state"],
        str(unit["pid"] or "-"),
        duration(unit["uptime_s"]),
        duration(unit["ready_s"]),
        str(unit["restarts"]),
        size(unit["unshared_bytes"]),
        percent(unit["cpu_percent"]),
        why,
    )


def clock(at: float) -> str:
    """Month, day and time in UTC, of seconds since 1970."""
    return time.strftime("%m-%d %H:%M:%S", time.gmtime(at))
