"""What is measured and how it is printed: processes' memory and time, medians, tables, verdicts.

Knows /proc and statistics; knows nothing of Telegram or of any supervisor.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

MB = 1_000_000


class BenchmarkError(Exception):
    """A measurement could not be made; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Sums over processes, in bytes; `pss` counts each shared page once over all that share it."""

    unshared: int
    pss: int


def memory(pids: Iterable[int]) -> Memory:
    """Memory of processes that all exist, from smaps_rollup (proc(5)); needs their user or root.

    Raises BenchmarkError where the kernel refuses.
    """
    unshared = pss = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except PermissionError as error:
            raise BenchmarkError(
                "the memory of DIMS workers cannot be read: they forbid it to all but root"
            ) from error
        except (FileNotFoundError, ProcessLookupError) as error:
            raise BenchmarkError(f"process {pid} ended while it was measured") from error
        for line in lines:
            name, _, rest = line.partition(":")
            if name in {"Private_Clean", "Private_Dirty"}:
                unshared += int(rest.split()[0]) * 1024
            elif name == "Pss":
                pss += int(rest.split()[0]) * 1024
    return Memory(unshared, pss)


def cpu_s(pids: Iterable[int]) -> float:
    """Time that processes have been on a processor so far, in seconds, their reaped children left
    out.

    From schedstat, in nanoseconds per thread: stat counts whole ticks of 10 ms, and a warm start of
    a bot takes less.
    """
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return (
        sum(
            int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads
        )
        / 1e9
    )


def tree(root: int) -> list[psutil.Process]:
    """A process and all below it; empty when it is gone."""
    try:
        top = psutil.Process(root)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_all(processes: Sequence[psutil.Process], within_s: float = 5.0) -> list[psutil.Process]:
    """Waits for processes to end, then kills the rest; returns those that had to be killed.

    psutil compares start times: a pid that was given to somebody else is left alone.
    """
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=within_s)
    return alive


def wait_until(done: Callable[[], bool], within_s: float, every_s: float, what: str) -> None:
    """Returns when `done()`; raises BenchmarkError naming `what` when the time is up."""
    until_s = time.monotonic() + within_s
    while not done():
        if time.monotonic() >= until_s:
            raise BenchmarkError(f"{what}: not within {within_s:g} s")
        time.sleep(every_s)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -int(-share * len(ordered) // 1)
    return ordered[max(0, rank - 1)]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    """`median (min-max)`, each divided by `scale`; `-` for no values."""
    if not values:
        return "-"
    middle, low, high = statistics.median(values), min(values), max(values)
    return " ".join(
        (
            f"{middle / scale:,.{digits}f}",
            f"({low / scale:,.{digits}f}-{high / scale:,.{digits}f})",
        )
    )


def machine() -> str:
    """One line about where this ran."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    load = os.getloadavg()[0]
    return (
        f"machine: {os.cpu_count()} cores ({model}), kernel {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.2f} at the start"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text; the first is left-aligned, the others right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure that may be held against the same one of another day; smaller is better, or not."""

    value: float
    smaller_is_better: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was measured, in words and as a number, and whether that reaches it."""

    target: str
    measured: str
    reached: bool | None
    ratio: Ratio | None

    def __str__(self) -> str:
        word = {True: "reached", False: "missed", None: "not measured"}[self.reached]
        return f"{word:>12}  {self.target}: {self.measured}"


def at_most(target: str, value: float | None, limit: float, unit: str) -> Verdict:
    """A target with an upper limit; `value` None was not measured."""
    if value is None:
        return Verdict(target, "-", None, None)
    measured = f"{value:.2f} {unit} (limit {limit:g})"
    return Verdict(target, measured, value <= limit, Ratio(value, smaller_is_better=True))


def at_least(target: str, value: float | None, limit: float) -> Verdict:
    """A target for a ratio; `value` None was not measured."""
    if value is None:
        return Verdict(target, "-", None, None)
    measured = f"{value:.1f} times (wanted {limit:g})"
    return Verdict(target, measured, value >= limit, Ratio(value, smaller_is_better=False))


def ratios_of(verdicts: Iterable[Verdict]) -> dict[str, Ratio]:
    """What was measured, by target."""
    return {each.target: each.ratio for each in verdicts if each.ratio is not None}


def write_json(path: Path, where: str, figures: object, ratios: Mapping[str, Ratio]) -> None:
    """What a benchmark found: `machine`, `figures` in its own form, and `ratios`, which `all.py`
    reads."""
    content = {
        "machine": where,
        "figures": figures,
        "ratios": {name: asdict(each) for name, each in ratios.items()},
    }
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def ratio(value: float | None, base: float | None) -> float | None:
    """`value / base`, or None where either is missing or the base is not positive."""
    return value / base if value is not None and base is not None and base > 0 else None
