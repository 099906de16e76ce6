"""What a thousand bots cost, against a hundred, without storage and with it.

Per fleet: a cold start (every bot logs in with a fresh key), warm starts, an answer of each bot,
memory, idle time, `dims status`, the stop. The floor of a cold start is the key exchanges alone, in
the same run. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import key_exchanges
from cli_speed import HEARTBEATS_S
from fleet_start import say
from ground import ENVIRONMENT, FIRST, Ground, bot_names, make_template
from measures import (
    MB,
    BenchmarkError,
    Verdict,
    at_most,
    cpu_s,
    machine,
    memory,
    ratio,
    ratios_of,
    spread,
    table,
    write_json,
)
from peers import DIMS, Dims

OFF, ON = "off", "on"
STORAGE: Mapping[str, Mapping[str, Any]] = {
    OFF: {"database": "off", "redis": "off"},
    ON: {"database": "embedded", "redis": "embedded"},
}
START_WITHIN_S = 600.0
LOOK_S = 1.0
"""How often is asked who is ready: an answer about a thousand bots takes the brain a while, and it
notes the moments itself."""
REST_S = 1.5
STATUS_REPEATS = 5
GB = 1_000 * MB
PROCESSES = ("brain", "zygote", "sandbox")


@dataclass(slots=True)
class Figures:
    """One fleet. Times in seconds, memory in bytes, idle time as a share of one core."""

    bots: int
    storage: str
    exchanges_s: float | None = None
    exchanges_cpu_s: float | None = None
    cold_s: float | None = None
    cold_cpu_s: float | None = None
    warm_s: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Of the last warm start: by process, the workers together as `all bots`."""
    answered_s: float | None = None
    """Until each bot has answered one message."""
    tree_pss: int | None = None
    unshared: dict[str, int] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    status_s: list[float] = field(default_factory=list)
    stop_s: float | None = None

    @property
    def warm_bot_s(self) -> float | None:
        """Per bot, of the median warm start."""
        return statistics.median(self.warm_s) / (self.bots - 1) if self.warm_s else None

    @property
    def cold_share(self) -> float | None:
        """The cold start against the key exchanges alone."""
        return ratio(self.cold_s, self.exchanges_s)

    @property
    def cold_cpu_share(self) -> float | None:
        """The same in CPU, which does not ask who else uses the machine meanwhile."""
        return ratio(self.cold_cpu_s, self.exchanges_cpu_s)

    @property
    def cpu_bot_s(self) -> float | None:
        """CPU per bot of the last warm start, in all processes."""
        return sum(self.cpu_s.values()) / (self.bots - 1) if self.cpu_s else None


class Fleet:
    """One fleet on ground of its own, and what is measured of it."""

    def __init__(self, ground: Ground, bots: int, storage: str) -> None:
        self.figures = Figures(bots, storage)
        self._ground = ground
        self._others = bot_names(bots - 1)
        self.dims = Dims(ground, self._others, {"storage": STORAGE[storage]})

    def cold(self) -> str:
        """The first start, between two halves of its floor; the fleet is stopped afterwards."""
        count = len(self._others)
        before = key_exchanges.measure(self._ground.sandbox, count // 2)
        cold_s = self._start()
        self.figures.cold_s, self.figures.cold_cpu_s = cold_s, sum(self.figures.cpu_s.values())
        self._put_down()
        after = key_exchanges.measure(self._ground.sandbox, count - count // 2)
        floor = before + after
        self.figures.exchanges_s, self.figures.exchanges_cpu_s = floor.took_s, floor.cpu_s
        return f"{cold_s:.1f} s, key exchanges alone {before.took_s:.1f} + {after.took_s:.1f} s"

    def warm(self, *, last: bool) -> str:
        """One more start; after the last one the fleet stays."""
        self.figures.warm_s.append(self._start())
        if not last:
            self._put_down()
        return f"{self.figures.warm_s[-1]:.2f} s"

    def _start(self) -> float:
        """Seconds from the order to the last bot ready. The first bot runs before, so that nothing
        that is fixed counts."""
        self.dims.begin()
        self.dims.when_ready([FIRST], 60.0)
        time.sleep(REST_S)
        before = {which: cpu_s([pid]) for which, pid in self._pids().items()}
        ordered_s = time.monotonic()
        self.dims.start(self._others)
        at_s = self.dims.when_ready(self._others, START_WITHIN_S, LOOK_S)
        self.figures.cpu_s = {
            which: cpu_s([pid]) - before[which] for which, pid in self._pids().items()
        } | {"all bots": cpu_s(self._workers())}
        return max(at_s.values()) - ordered_s

    def _put_down(self) -> None:
        """Stops the fleet, and all bots but the first for good: `dims start` brings back what
        ran."""
        with self.dims.brain() as brain:
            brain.request("stop", {"bots": self._others})
        self.dims.stop()

    def _pids(self) -> dict[str, int]:
        found = {which: self.dims.pid(which) for which in ("brain", "zygote")}
        return found | {"sandbox": self._ground.sandbox.pid}

    def _workers(self) -> list[int]:
        return list(self.dims.workers([FIRST, *self._others]).values())

    def rest(self, idle_s: float) -> str:
        """Answers, memory, idle time and commands of the running fleet, then its stop."""
        began_s = time.monotonic()
        self._ground.sandbox.flood([FIRST, *self._others], 1, 120.0)
        self.figures.answered_s = time.monotonic() - began_s
        time.sleep(HEARTBEATS_S)
        self._idle(idle_s)
        self._memory()
        self._status()
        began_s = time.monotonic()
        self.dims.stop()
        self.figures.stop_s = time.monotonic() - began_s
        return f"brain {self.figures.idle['brain'] * 100:.2f} % of a core"

    def _idle(self, idle_s: float) -> None:
        groups = {which: [pid] for which, pid in self._pids().items()}
        groups |= {"all bots": self._workers()}
        before = {which: cpu_s(group) for which, group in groups.items()}
        began_s = time.monotonic()
        time.sleep(idle_s)
        took_s = time.monotonic() - began_s
        self.figures.idle = {
            which: (cpu_s(group) - before[which]) / took_s for which, group in groups.items()
        }

    def _memory(self) -> None:
        for which, pid in self._pids().items():
            self.figures.unshared[which] = memory([pid]).unshared
        workers = self._workers()
        self.figures.unshared["one bot"] = memory(workers).unshared // len(workers)
        self.figures.tree_pss = memory(process.pid for process in self.dims.processes()).pss

    def _status(self) -> None:
        argv = [DIMS, "status", "--state-dir", str(self.dims.layout.state)]
        for turn in range(STATUS_REPEATS + 1):
            began_s = time.monotonic()
            subprocess.run(argv, env=ENVIRONMENT, stdout=subprocess.DEVNULL, check=True)
            if turn:
                self.figures.status_s.append(time.monotonic() - began_s)


class Bench:
    """The whole run, and the processes that were left behind."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self._options = options
        self._work = work
        self.found: dict[tuple[str, int], Figures] = {}
        self.failed: list[str] = []
        self.left_behind: list[str] = []

    def run(self) -> None:
        """All fleets in turn; only one of them runs at a time."""
        options = self._options
        template = make_template(self._work / "template", max(options.sizes) - 1, signed_in=False)
        with ExitStack() as stack:
            fleets = []
            for storage in options.storage:
                for bots in options.sizes:
                    ground = Ground(template, self._work / f"{storage}-{bots}")
                    fleet = Fleet(stack.enter_context(ground), bots, storage)
                    stack.callback(self._end, fleet)
                    self.found[storage, bots] = fleet.figures
                    fleets.append(fleet)
            fleets = [fleet for fleet in fleets if self._try(fleet, "cold start", fleet.cold)]
            for number in range(1, options.rounds + 1):
                last = number == options.rounds
                for fleet in tuple(fleets):
                    warm = partial(fleet.warm, last=last)
                    is_well = self._try(fleet, f"warm start {number}", warm)
                    if is_well and last:
                        is_well = self._try(fleet, "idle", partial(fleet.rest, options.idle_s))
                    if not is_well:
                        fleets.remove(fleet)

    def _try(self, fleet: Fleet, what: str, measure: Callable[[], str]) -> bool:
        """Whether it could be measured; what could not is ended, so as not to stand in the way."""
        name = f"{fleet.figures.bots} bots, storage {fleet.figures.storage}, {what}"
        try:
            say(f"{name}: {measure()}")
        except (BenchmarkError, OSError, subprocess.SubprocessError) as error:
            self.failed.append(name)
            say(f"{name}: not measured: {error}")
            self._end(fleet)
            return False
        return True

    def _end(self, fleet: Fleet) -> None:
        self.left_behind += [f"process {process.pid}" for process in fleet.dims.end()]

    # What it says

    def report(self) -> str:
        """Tables and verdicts."""
        head = ["fleet", *(f"{bots} bots, storage {storage}" for storage, bots in self.found)]
        columns = [dict(_rows(figures)) for figures in self.found.values()]
        rows = [[what, *(column[what] for column in columns)] for what in columns[0]]
        return "\n".join([table(head, rows), "", *(str(each) for each in self.verdicts())])

    def verdicts(self) -> list[Verdict]:
        """The targets, each of the largest fleet."""
        small, large = min(self._options.sizes), max(self._options.sizes)
        found = []
        for storage in self._options.storage:
            few, many = self.found[storage, small], self.found[storage, large]
            found += _of_fleet(few, many)
        if {OFF, ON} <= set(self._options.storage):
            found += _with_storage(self.found[OFF, large], self.found[ON, large])
        return found


def _rows(figures: Figures) -> Iterator[tuple[str, str]]:
    """One column of the table."""
    yield "key exchanges alone, s", _number(figures.exchanges_s)
    yield "s of CPU, key exchanges alone", _number(figures.exchanges_cpu_s)
    yield "cold start, s", _number(figures.cold_s)
    yield "s of CPU, cold start", _number(figures.cold_cpu_s)
    yield "warm start, s", spread(figures.warm_s, 1.0, 2)
    yield "ms per warm bot", _number(figures.warm_bot_s, 0.001)
    yield "ms of CPU per warm bot", _number(figures.cpu_bot_s, 0.001)
    for which in (*PROCESSES, "all bots"):
        spent_s = figures.cpu_s.get(which)
        each_s = None if spent_s is None else spent_s / (figures.bots - 1)
        yield f"… {which}", _number(each_s, 0.001)
    yield "s until each has answered", _number(figures.answered_s)
    yield "whole tree, GB PSS", _number(figures.tree_pss, GB)
    for which in (*PROCESSES, "one bot"):
        yield f"MB unshared, {which}", _number(figures.unshared.get(which), MB)
    for which in (*PROCESSES, "all bots"):
        yield f"% of a core when idle, {which}", _number(figures.idle.get(which), 0.01)
    yield "dims status, s", spread(figures.status_s, 1.0, 2)
    yield "dims stop, s", _number(figures.stop_s)


def _number(value: float | None, scale: float = 1.0) -> str:
    return "-" if value is None else f"{value / scale:,.2f}"


def _of_fleet(few: Figures, many: Figures) -> list[Verdict]:
    """The targets of one kind of storage."""
    fleet = f"{many.bots} bots, storage {many.storage}"
    grown = ratio(many.warm_bot_s, few.warm_bot_s)
    cpu = ratio(many.cpu_bot_s, few.cpu_bot_s)
    found = [
        at_most(f"{fleet}: a warm bot against one of {few.bots}", grown, 1.3, "times"),
        at_most(f"{fleet}: CPU of a warm bot against one of {few.bots}", cpu, 1.3, "times"),
        at_most(f"{fleet}: cold start against its key exchanges", many.cold_share, 1.5, "times"),
        at_most(f"{fleet}: CPU of a cold start, the same", many.cold_cpu_share, 1.5, "times"),
    ]
    if many.storage == OFF:
        brain, idle = many.unshared.get("brain"), many.idle.get("brain")
        found += [
            at_most(f"{fleet}: the whole tree, PSS", _over(many.tree_pss, GB), 7.0, "GB"),
            at_most(f"{fleet}: brain, unshared", _over(brain, MB), 60.0, "MB"),
            at_most(f"{fleet}: brain, idle", _over(idle, 0.01), 1.5, "% of a core"),
        ]
    return found


def _with_storage(off: Figures, on: Figures) -> list[Verdict]:
    """What storage may cost."""
    pairs = {
        "cold start, each against its key exchanges": (on.cold_share, off.cold_share),
        "CPU of a cold start": (on.cold_cpu_s, off.cold_cpu_s),
        "warm start": (on.warm_bot_s, off.warm_bot_s),
        "CPU of a warm bot": (on.cpu_bot_s, off.cpu_bot_s),
        "the whole tree, PSS": (on.tree_pss, off.tree_pss),
        "brain, unshared": (on.unshared.get("brain"), off.unshared.get("brain")),
        "brain, idle": (on.idle.get("brain"), off.idle.get("brain")),
    }
    return [
        at_most(f"{on.bots} bots, with storage against without: {what}", ratio(*both), 1.3, "times")
        for what, both in pairs.items()
    ]


def _over(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bots", type=int, default=1000, help="[default: 1000]")
    parser.add_argument("--few", type=int, default=100, help="to compare with; [default: 100]")
    parser.add_argument("--rounds", type=int, default=3, help="of warm starts; [default: 3]")
    parser.add_argument("--idle-s", type=float, default=30.0, help="seconds of idling measured")
    parser.add_argument("--storage", choices=(OFF, ON), action="append", help="[default: both]")
    parser.add_argument("--quick", action="store_true", help="100 bots, one round: a trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, as JSON")
    options = parser.parse_args()
    options.storage = options.storage or [OFF, ON]
    if options.quick:
        options.bots, options.few, options.rounds, options.idle_s = 100, 20, 1, 5.0
    if not 1 < options.few < options.bots <= 1001:
        parser.error("--few must be below --bots, and those at most 1001")
    options.sizes = (options.few, options.bots)
    return options


def main() -> int:
    """Exit code 0 when everything was measured and nothing stayed behind."""
    options = _options()
    # So that processes and files go when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = machine()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="dims-bench-") as work:
        bench = Bench(options, Path(work))
        bench.run()
    print(f"\n{where}\n{options.rounds} warm starts, fleets in turn; median (lowest-highest)\n")
    print(bench.report())
    print("\nleft behind:", ", ".join(bench.left_behind) or "no process")
    if options.json:
        figures = [asdict(each) for each in bench.found.values()]
        write_json(options.json, where, figures, ratios_of(bench.verdicts()))
    return 1 if bench.failed or bench.left_behind else 0


if __name__ == "__main__":
    sys.exit(main())
