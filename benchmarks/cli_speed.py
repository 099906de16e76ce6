"""How fast the `dims` command answers, and what keeper and brain cost with an idle fleet.

The floor is a bare `python -c "import click"`, run in turn with the commands. The fleet of idle
bots runs meanwhile. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleet_start import say
from ground import ENVIRONMENT, FIRST, Ground, bot_names, make_template
from measures import (
    MB,
    Verdict,
    at_most,
    cpu_s,
    machine,
    memory,
    percentile,
    ratios_of,
    spread,
    table,
    write_json,
)
from peers import DIMS, Dims

FLOOR = 'python -c "import click"'
STATUS, HELP = "dims status", "dims --help"
HEARTBEATS_S = 12.0
"""The fleet comes to rest: longer than one heartbeat of every bot (limits.heartbeat_s is 10)."""


@dataclass(slots=True)
class Idle:
    """What keeps a fleet: memory in bytes, and share of one core while nothing happens."""

    unshared: dict[str, int] = field(default_factory=dict)
    core: dict[str, float] = field(default_factory=dict)


def idle_cost(dims: Dims, seconds: float) -> Idle:
    """Keeper, brain and zygote of an idle fleet over `seconds`."""
    pids = {which: dims.pid(which) for which in ("keeper", "brain", "zygote")}
    bots = [bot["pid"] for bot in dims.status()["bots"] if bot["pid"]]
    groups = {which: [pid] for which, pid in pids.items()} | {"all bots": bots}
    before = {which: cpu_s(group) for which, group in groups.items()}
    began_s = time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    core = {which: (cpu_s(group) - before[which]) / took_s for which, group in groups.items()}
    return Idle({which: memory(group).unshared for which, group in groups.items()}, core)


def command_times(dims: Dims, repeats: int) -> dict[str, list[float]]:
    """Seconds from spawn to exit of each command, in turn; the first turn is not counted."""
    place = ["--state-dir", str(dims.layout.state)]
    commands = {
        FLOOR: [sys.executable, "-c", "import click"],
        STATUS: [DIMS, "status", *place],
        HELP: [DIMS, "--help"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(repeats + 1):
        for name, argv in commands.items():
            began_s = time.monotonic()
            # Without a time limit: with one, Popen polls at up to 50 ms and measures its own naps.
            # The commands have limits of their own.
            subprocess.run(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
            if turn:
                found[name].append(time.monotonic() - began_s)
    return found


def report(times: dict[str, list[float]], idle: Idle, bots: int) -> str:
    """Tables and verdicts."""
    floor_s = statistics.median(times[FLOOR])
    head = ["command", "ms", "p90", "times the floor"]
    rows = [
        [
            name,
            spread(values, 0.001),
            f"{percentile(values, 0.9) * 1000:.1f}",
            f"{statistics.median(values) / floor_s:.2f}",
        ]
        for name, values in times.items()
    ]
    costs = [
        [which, f"{idle.unshared[which] / MB:.1f}", f"{idle.core[which] * 100:.2f}"]
        for which in idle.unshared
    ]
    lines = [table(head, rows), "", f"with {bots} idle bots:"]
    lines += [table(["process", "MB unshared", "% of a core"], costs), ""]
    return "\n".join([*lines, *(str(verdict) for verdict in verdicts(times, idle))])


def verdicts(times: dict[str, list[float]], idle: Idle) -> list[Verdict]:
    """The targets."""
    floor_s = statistics.median(times[FLOOR])
    found = [
        at_most(
            f"`{name}` at most 1.5 times a bare import of click",
            statistics.median(times[name]) / floor_s,
            1.5,
            "times",
        )
        for name in (STATUS, HELP)
    ]
    unshared = (idle.unshared["keeper"] + idle.unshared["brain"]) / MB
    core = (idle.core["keeper"] + idle.core["brain"]) * 100
    found.append(at_most("keeper and brain under 45 MB unshared", unshared, 45.0, "MB"))
    found.append(at_most("keeper and brain under 1 % of a core, idle", core, 1.0, "%"))
    return found


def run(options: argparse.Namespace, work: Path) -> tuple[dict[str, list[float]], Idle, list[str]]:
    """Starts a fleet, lets it rest, measures, ends it; the third value names what was killed."""
    names: Sequence[str] = bot_names(options.bots - 1)
    left: list[str] = []
    with Ground(make_template(work / "template", len(names)), work / "ground") as ground:
        dims = Dims(ground, names)
        try:
            began_s = time.monotonic()
            dims.begin()
            dims.start(names)
            dims.when_ready([FIRST, *names], 120.0)
            say(f"{options.bots} bots ready after {time.monotonic() - began_s:.1f} s")
            time.sleep(HEARTBEATS_S)
            idle = idle_cost(dims, options.idle_s)
            say("idle cost measured")
            times = command_times(dims, options.repeats)
        finally:
            left = [f"process {process.pid}" for process in dims.end()]
    return times, idle, left


def main() -> int:
    """Exit code 0 when everything was measured and nothing stayed behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bots", type=int, default=100, help="idle ones; [default: 100]")
    parser.add_argument("--repeats", type=int, default=25, help="of each command; [default: 25]")
    parser.add_argument("--idle-s", type=float, default=30.0, help="seconds of idling measured")
    parser.add_argument("--quick", action="store_true", help="few bots, short: a trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, as JSON")
    options = parser.parse_args()
    if options.quick:
        options.bots, options.repeats, options.idle_s = 10, 5, 5.0
    # So that processes and files go when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = machine()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="dims-bench-") as work:
        times, idle, left = run(options, Path(work))
    print(f"\n{where}\n{options.repeats} runs of each command, in turn; median (lowest-highest)\n")
    print(report(times, idle, options.bots))
    print("\nleft behind:", ", ".join(left) or "no process")
    if options.json:
        figures = {"times_s": times, "unshared": idle.unshared, "core": idle.core}
        write_json(options.json, where, figures, ratios_of(verdicts(times, idle)))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
