"""How long a bot is away after `kill -9`, under DIMS and under its peers.

All contenders run at the same time, each with a sandbox of its own; they are idle but for the one
whose bot was killed. Each kill hits a bot that was never killed before. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fleet_start import say
from ground import FIRST, Ground, bot_names, make_template
from measures import (
    BenchmarkError,
    Verdict,
    at_least,
    at_most,
    machine,
    percentile,
    ratio,
    ratios_of,
    spread,
    table,
    write_json,
)
from peers import Contender, Dims, Make, Script, install_pm2, peers

DEFAULT, AT_ONCE = "DIMS, default settings", "DIMS, first_delay_s 0"
BACK_WITHIN_S = 30.0
REST_S = 1.5
"""After the start of a contender: supervisord calls a bot running after 1 s (startsecs)."""


@dataclass(slots=True)
class Running:
    """A contender that runs, and its times so far in seconds."""

    contender: Contender
    ground: Ground
    pids: Mapping[str, int]
    away_s: list[float] = field(default_factory=list)
    """From the kill until the sandbox saw the bot authorised again."""
    unready_s: list[float] = field(default_factory=list)
    """From the kill until the brain called it ready; DIMS only."""
    missed: int = 0


def kill_one(running: Running, name: str) -> None:
    """Kills one bot and waits until it is back; raises BenchmarkError when it does not come."""
    killed_s = time.monotonic()
    os.kill(running.pids[name], signal.SIGKILL)
    # Asked every 5 ms at first: a process that looks on hard would disturb what it looks at.
    at_s = running.ground.sandbox.when_authorised([name], killed_s, BACK_WITHIN_S, 0.005)
    running.away_s.append(at_s[name] - killed_s)
    if isinstance(running.contender, Dims):
        ready_s = running.contender.when_ready([name])[name]
        running.unready_s.append(ready_s - killed_s)


def makers(options: argparse.Namespace, work: Path) -> dict[str, Make]:
    """The contenders of this run, by name."""
    at_once = {"defaults": {"restart": {"first_delay_s": 0}}}
    found: dict[str, Make] = {DEFAULT: Dims, AT_ONCE: partial(Dims, more=at_once)}
    pm2 = None if options.no_pm2 else install_pm2(work / "npm")
    return found | peers(Script.PLAIN, pm2)


def begin(contender: Contender, ground: Ground, names: list[str]) -> Running:
    """Starts a contender with all its bots."""
    began_s = time.monotonic()
    contender.begin()
    ground.sandbox.when_authorised([FIRST], began_s, 60.0)
    time.sleep(REST_S)
    contender.start(names)
    ground.sandbox.when_authorised(names, began_s, 120.0)
    if isinstance(contender, Dims):
        contender.when_ready(names)
    return Running(contender, ground, contender.workers(names))


def verdicts(found: Mapping[str, Running]) -> list[Verdict]:
    """The targets of DIMS without delay."""
    medians = {name: statistics.median(each.away_s) for name, each in found.items() if each.away_s}
    peer_s = [value for name, value in medians.items() if not name.startswith("DIMS")]
    ours_s = medians.get(AT_ONCE)
    unready_s = found[AT_ONCE].unready_s if AT_ONCE in found else []
    ready_ms = statistics.median(unready_s) * 1000 if unready_s else None
    away_ms = ours_s * 1000 if ours_s is not None else None
    best = ratio(min(peer_s, default=None), ours_s)
    return [
        at_most("authorised again under 100 ms at delay 0, median", away_ms, 100.0, "ms"),
        at_most("ready again under 100 ms at delay 0, median", ready_ms, 100.0, "ms"),
        at_least("15 times faster at delay 0 than the best peer, medians", best, 15.0),
    ]


def report(found: Mapping[str, Running]) -> str:
    """A table and the verdicts."""
    head = ["contender", "kills", "ms until authorised", "p90", "ms until ready", "not back"]
    rows = [
        [
            name,
            str(len(each.away_s)),
            spread(each.away_s, 0.001, 0),
            f"{percentile(each.away_s, 0.9) * 1000:,.0f}" if each.away_s else "-",
            spread(each.unready_s, 0.001, 0),
            str(each.missed),
        ]
        for name, each in found.items()
    ]
    return "\n".join([table(head, rows), "", *(str(verdict) for verdict in verdicts(found))])


def run(options: argparse.Namespace, work: Path) -> tuple[dict[str, Running], list[str]]:
    """Starts all, kills in turn, ends all; the second value names what had to be killed."""
    names = bot_names(options.kills)
    template = make_template(work / "template", options.kills)
    found: dict[str, Running] = {}
    left: list[str] = []
    until_s = time.monotonic() + options.budget_s

    def end(name: str, contender: Contender) -> None:
        left.extend(f"{name}: process {process.pid}" for process in contender.end())

    with ExitStack() as stack:
        for number, (name, make) in enumerate(makers(options, work).items()):
            ground = stack.enter_context(Ground(template, work / f"g{number}"))
            contender = make(ground, names)
            stack.callback(end, name, contender)
            try:
                found[name] = begin(contender, ground, names)
                say(f"{name}: runs {len(names)} bots")
            except (BenchmarkError, OSError) as error:
                say(f"{name}: not measured: {error}")
        time.sleep(REST_S)
        for bot in names:
            if time.monotonic() > until_s:
                say(f"the budget of {options.budget_s:g} s is used up: fewer kills")
                break
            for name, running in found.items():
                try:
                    kill_one(running, bot)
                except BenchmarkError as error:
                    running.missed += 1
                    say(f"{name}: {error}")
                # The dead bot's supervisor comes to rest before the next contender's turn.
                time.sleep(options.pause_s)
    return found, left


def main() -> int:
    """Exit code 0 when every contender came back every time and nothing stayed behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=15, help="per contender; [default: 15]")
    parser.add_argument("--pause-s", type=float, default=0.5, help="between two kills")
    parser.add_argument("--budget-s", type=float, default=480.0, help="fewer kills beyond it")
    parser.add_argument("--no-pm2", action="store_true", help="do not install pm2 by npm")
    parser.add_argument("--quick", action="store_true", help="three kills: a trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, as JSON")
    options = parser.parse_args()
    options.kills = 3 if options.quick else options.kills
    # So that processes and files go when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = machine()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="dims-bench-") as work:
        found, left = run(options, Path(work))
    print(f"\n{where}\nkill -9 of one bot after another, contenders in turn\n")
    print(report(found))
    print("\nleft behind:", ", ".join(left) or "no process")
    if options.json:
        figures = {
            name: {"away_s": each.away_s, "unready_s": each.unready_s, "missed": each.missed}
            for name, each in found.items()
        }
        write_json(options.json, where, figures, ratios_of(verdicts(found)))
    complete = all(each.away_s and not each.missed for each in found.values())
    return 0 if complete and not left else 1


if __name__ == "__main__":
    sys.exit(main())
