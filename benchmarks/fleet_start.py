"""How long a bot takes to start and how much memory it holds, under DIMS and under its peers.

One run, contenders interleaved, medians. See docs/benchmarks.md for the method.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ground import (
    ENVIRONMENT,
    FIRST,
    Ground,
    bot_names,
    make_template,
    when_authorised,
    write_config,
)
from measures import (
    MB,
    BenchmarkError,
    Verdict,
    at_least,
    at_most,
    machine,
    memory,
    ratio,
    ratios_of,
    spread,
    table,
    write_json,
)
from peers import DIMS, Contender, Dims, Make, Script, install_pm2, peers

from dims.ipc.links.control_client import ControlClient
from dims.layout import Layout

UPDATES = 500
TREE_UPDATES = 10
"""Per bot, before the memory of a large fleet is read: each has handled some, and it takes no
hour."""
IS_SHARING = sys.version_info >= (3, 12)
"""From here on CPython's objects can be immortal, and the zygote's pages stay shared."""
START_WITHIN_S = 180.0
OURS = "DIMS"


@dataclass(slots=True)
class Figures:
    """One contender: a number per round. Times in seconds, memory in bytes per bot."""

    script: Script | None
    sizes: tuple[int, int]
    marginal_s: list[float] = field(default_factory=list)
    marginal_ready_s: list[float] = field(default_factory=list)
    """The same until ready in the brain's eyes; for DIMS only."""
    fixed_s: list[float] = field(default_factory=list)
    unshared: list[float] = field(default_factory=list)
    tree_pss: list[float] = field(default_factory=list)

    def median(self, name: str) -> float | None:
        """Of one of the lists; None when it is empty."""
        values = getattr(self, name)
        return statistics.median(values) if values else None


class Bench:
    """The whole run: contenders, a template, and the processes that were left behind."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self._options = options
        self._work = work
        self._count = 0
        self._until_s = time.monotonic() + options.budget_s
        self.left_behind: list[str] = []
        self.makers: dict[str, Make] = {}
        self.figures: dict[str, Figures] = {}
        self.with_sandbox_s: list[float] = []
        self._choose()
        largest = max(max(each.sizes) for each in self.figures.values())
        largest = max(largest, options.memory_bots)
        began_s = time.monotonic()
        self._template = make_template(work / "template", largest)
        say(f"{largest + 1} bots logged in once in {time.monotonic() - began_s:.0f} s")

    def _choose(self) -> None:
        options = self._options
        plain = (options.small, options.large)
        fat = (options.small_fat, options.large_fat)
        wanted: list[tuple[str, Make, Figures]] = [(OURS, Dims, Figures(None, plain))]
        pm2 = install_pm2(self._work / "npm") if _is_wanted(options, "pm2") else None
        for script, sizes in ((Script.PLAIN, plain), (Script.FAT, fat)):
            for name, make in peers(script, pm2).items():
                wanted.append((f"{name}, {script}", make, Figures(script, sizes)))
        for name, make, figures in wanted:
            if _is_wanted(options, name):
                self.makers[name], self.figures[name] = make, figures

    def run(self) -> None:
        """All rounds of starts, then memory, while the budget lasts."""
        for number in range(1, self._options.rounds + 1):
            for name in self.makers:
                if self._is_late():
                    say(f"the budget of {self._options.budget_s:g} s is used up: fewer rounds")
                    break
                self._try(f"round {number}, {name}", self._one_round, name)
            if OURS in self.makers and not self._is_late():
                self._try(f"round {number}, DIMS with its sandbox", self._start_with_sandbox)
        for name in self.makers:
            self._try(f"memory, {name}", self._measure_memory, name)

    def _is_late(self) -> bool:
        # Memory takes about 15 s per contender and comes last.
        return time.monotonic() + 15 * len(self.makers) > self._until_s

    def _try(self, what: str, measure: Any, *arguments: str) -> None:
        try:
            said = measure(*arguments)
        except (BenchmarkError, OSError, subprocess.SubprocessError) as error:
            said = f"not measured: {error}"
        say(f"{what}: {said}")

    @contextmanager
    def _contender(self, name: str, count: int) -> Iterator[tuple[Ground, Contender]]:
        """A contender on fresh ground, whose processes are gone afterwards."""
        with self._ground() as ground:
            contender = self.makers[name](ground, bot_names(count))
            try:
                yield ground, contender
            finally:
                self._note_left(name, contender.end())

    def _ground(self) -> Ground:
        self._count += 1
        return Ground(self._template, self._work / f"g{self._count}")

    def _note_left(self, name: str, killed: list[psutil.Process]) -> None:
        self.left_behind += [f"{name}: process {process.pid}" for process in killed]

    def _one_round(self, name: str) -> str:
        figures = self.figures[name]
        small, large = figures.sizes
        took = {size: self._start(name, size, read_tree=size == large) for size in (small, large)}
        marginal_s = (took[large][0] - took[small][0]) / (large - small)
        figures.marginal_s.append(marginal_s)
        figures.fixed_s += [took[size][2] - marginal_s for size in (small, large)]
        if name == OURS:
            figures.marginal_ready_s.append((took[large][1] - took[small][1]) / (large - small))
        return (
            f"{marginal_s * 1000:.1f} ms per bot, "
            f"{figures.tree_pss[-1] / MB:.1f} MB PSS per bot with everything"
        )

    def _start(
        self, name: str, count: int, *, read_tree: bool = False
    ) -> tuple[float, float, float]:
        """Seconds: order to last authorised, to last ready (DIMS), daemon to first authorised.

        With `read_tree` the memory of everything is noted as well, afterwards.
        """
        names = bot_names(count)
        with self._contender(name, count) as (ground, contender):
            began_s = time.monotonic()
            contender.begin()
            first = ground.sandbox.when_authorised([FIRST], began_s, 60.0, 0.02)
            fixed_s = first[FIRST] - began_s
            # The daemon and the first bot come to rest, so that their work is not the others'.
            time.sleep(1.5)
            ordered_s = time.monotonic()
            contender.start(names)
            at_s = ground.sandbox.when_authorised(names, ordered_s, START_WITHIN_S)
            took_s = max(at_s.values()) - ordered_s
            ready_s = 0.0
            if isinstance(contender, Dims):
                ready_s = max(contender.when_ready(names).values()) - ordered_s
            if read_tree:
                ground.sandbox.flood([FIRST, *names], TREE_UPDATES, 120.0)
                everything = memory(process.pid for process in contender.processes())
                self.figures[name].tree_pss.append(everything.pss / (count + 1))
        return took_s, ready_s, fixed_s

    def _start_with_sandbox(self) -> str:
        """The fixed cost when the sandbox is a service of DIMS: from command to a warm bot."""
        self._count += 1
        directory = self._work / f"g{self._count}"
        directory.mkdir()
        bots = [{"id": FIRST, "handlers": "echo_handlers.py"}]
        config = write_config(directory, {"telegram": {"server": "sandbox"}, "bots": bots}, None)
        layout = Layout(directory / ".dims")
        try:
            _dims("start", config)
            _dims("stop", config)
            began_s = time.monotonic()
            _dims("start", config)
            with ControlClient(layout.sandbox_socket) as sandbox:
                at_s = when_authorised(sandbox, [FIRST], began_s, 10.0, 0.02)
        finally:
            _dims("stop", config)
            shutil.rmtree(directory, ignore_errors=True)
        self.with_sandbox_s.append(at_s[FIRST] - began_s)
        return f"{self.with_sandbox_s[-1]:.2f} s to the first warm bot"

    def _measure_memory(self, name: str) -> str:
        figures, count = self.figures[name], self._options.memory_bots
        names = bot_names(count)
        with self._contender(name, count) as (ground, contender):
            began_s = time.monotonic()
            contender.begin()
            ground.sandbox.when_authorised([FIRST], began_s, 60.0)
            contender.start(names)
            ground.sandbox.when_authorised(names, began_s, START_WITHIN_S)
            ground.sandbox.flood([FIRST, *names], UPDATES, 120.0)
            time.sleep(1.0)
            for pid in contender.workers([FIRST, *names]).values():
                figures.unshared.append(memory([pid]).unshared)
        return f"{statistics.median(figures.unshared) / MB:.1f} MB unshared per bot"

    # What it says

    def report(self) -> str:
        """Tables and verdicts."""
        head = ["contender", "bots", "ms per warm bot", "fixed start s"]
        head += ["MB unshared per bot", "MB PSS per bot, all", "time / DIMS", "memory / DIMS"]
        ours = self.figures.get(OURS)
        rows = []
        for name, each in self.figures.items():
            rows.append(
                [
                    name,
                    f"{each.sizes[0]} to {each.sizes[1]}",
                    spread(each.marginal_s, 0.001),
                    spread(each.fixed_s, 1, 2),
                    spread(each.unshared, MB),
                    spread(each.tree_pss, MB),
                    _times(_against(each, ours, "marginal_s")),
                    _times(_against(each, ours, "unshared")),
                ]
            )
        lines = [table(head, rows), ""]
        if ours is not None:
            lines.append(f"DIMS, until ready: {spread(ours.marginal_ready_s, 0.001)} ms per bot")
            lines.append(f"DIMS, sandbox as a service: {spread(self.with_sandbox_s, 1, 2)} s fixed")
        lines += ["", *(str(verdict) for verdict in self.verdicts())]
        return "\n".join(lines)

    def verdicts(self) -> list[Verdict]:
        """Each target against the best peer of its kind."""
        ours = self.figures.get(OURS)
        found = []
        plain = (20, 6.5, 5) if IS_SHARING else (10, 3.8, 4)
        for script, (faster, leaner, tree) in ((Script.PLAIN, plain), (Script.FAT, (40, 5, 5))):
            for field_, times, what in (
                ("marginal_s", faster, "faster per warm bot than the best peer with the"),
                ("unshared", leaner, "less unshared memory than the best peer with the"),
                ("tree_pss", tree, "less PSS, everything counted, than the best peer with the"),
            ):
                values = [
                    _against(each, ours, field_)
                    for each in self.figures.values()
                    if each.script is script
                ]
                known = [value for value in values if value is not None]
                found.append(at_least(f"{what} {script}", min(known, default=None), times))
        fixed_s = [*(ours.fixed_s if ours else ()), *self.with_sandbox_s]
        slowest = max(fixed_s, default=None)
        found.append(at_most("fixed start at most 4 s, the slowest of all", slowest, 4.0, "s"))
        return found


def say(text: str) -> None:
    """One line of progress, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _against(each: Figures, ours: Figures | None, name: str) -> float | None:
    return ratio(each.median(name), ours.median(name)) if ours is not None else None


def _times(value: float | None) -> str:
    return f"{value:.1f}" if value is not None else "-"


def _is_wanted(options: argparse.Namespace, name: str) -> bool:
    """Whether `--only` names this contender, by any part of its name."""
    if name == "pm2":
        return not options.only or any("pm2" in part or "script" in part for part in options.only)
    return not options.only or any(part.lower() in name.lower() for part in options.only)


def _dims(command: str, config: Path) -> None:
    done = subprocess.run(
        [DIMS, command, "--config", str(config)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"dims {command}: {done.stderr.strip()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", type=int, default=20, help="bots; [default: 20]")
    parser.add_argument("--large", type=int, default=100, help="bots; [default: 100]")
    parser.add_argument("--small-fat", type=int, default=5, help="for the slow fat worker")
    parser.add_argument("--large-fat", type=int, default=25, help="for the slow fat worker")
    parser.add_argument("--memory-bots", type=int, default=20, help="bots when memory is read")
    parser.add_argument("--budget-s", type=float, default=840.0, help="fewer rounds beyond it")
    parser.add_argument("--quick", action="store_true", help="one round of few bots: a trial")
    parser.add_argument("--only", action="append", metavar="PART", help="of a contender's name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, as JSON")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.small, options.large = 1, 5, 20
        options.small_fat, options.large_fat, options.memory_bots = 2, 6, 5
    if not 0 < options.small < options.large or not 0 < options.small_fat < options.large_fat:
        parser.error("the small number of bots must be below the large one")
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
    print(f"\n{where}\n{options.rounds} rounds, contenders interleaved; median (lowest-highest)\n")
    print(bench.report())
    print("\nleft behind:", ", ".join(bench.left_behind) or "no process")
    if options.json:
        figures = {name: asdict(each) for name, each in bench.figures.items()}
        figures["DIMS with its sandbox"] = {"fixed_s": bench.with_sandbox_s}
        write_json(options.json, where, figures, ratios_of(bench.verdicts()))
    complete = all(each.marginal_s and each.unshared for each in bench.figures.values())
    return 0 if complete and not bench.left_behind else 1


if __name__ == "__main__":
    sys.exit(main())
