"""All benchmarks that end in ratios, one after another; their ratios against those of another day.

    python benchmarks/all.py --record ratios.json
    python benchmarks/all.py --compare ratios.json

A ratio is taken within one run, so it says more across days than any time or size does. Takes more
than an hour; `--quick` is a trial, to be compared with another trial only.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measures import BenchmarkError, machine, table

HERE = Path(__file__).parent
PROGRAMS = ("fleet_start", "recovery", "cli_speed", "ipc", "storage", "thousand")
BEYOND = 1.3
"""Two cores shared with other work move a ratio by less than this."""

Ratios = dict[str, dict[str, Any]]
"""`value` and `smaller_is_better`, by the name of the program and of the ratio."""


def run(program: str, *, quick: bool) -> Ratios:
    """The ratios of one program, which prints as ever. Raises BenchmarkError when it has none."""
    with tempfile.TemporaryDirectory(prefix="dims-bench-") as directory:
        file = Path(directory) / "found.json"
        argv = [sys.executable, str(HERE / f"{program}.py"), "--json", str(file)]
        process = subprocess.Popen([*argv, *(["--quick"] if quick else [])])
        try:
            code = process.wait()
        finally:
            # When this is ended, the program ends what it has started.
            process.terminate()
            process.wait(60)
        try:
            found: Ratios = json.loads(file.read_text("utf-8"))["ratios"]
        except FileNotFoundError as error:
            raise BenchmarkError(f"{program} ended with {code} and without figures") from error
    return {f"{program}: {name}": ratio for name, ratio in found.items()}


def outliers(now: Ratios, then: Ratios, beyond: float) -> list[list[str]]:
    """A row for each ratio that is `beyond` times what it was, or less than the reciprocal; and
    for each that one of the two runs does not have."""
    rows = []
    for name in sorted(now.keys() | then.keys()):
        if name not in now or name not in then:
            rows.append([name, _value(then.get(name)), _value(now.get(name)), "-", "not in both"])
            continue
        before, after = then[name]["value"], now[name]["value"]
        times = after / before if before > 0 else float("inf")
        if 1 / beyond <= times <= beyond:
            continue
        is_worse = (times > 1) == now[name]["smaller_is_better"]
        word = "worse" if is_worse else "better"
        rows.append([name, _value(then[name]), _value(now[name]), f"{times:.2f}", word])
    return rows


def _value(ratio: Mapping[str, Any] | None) -> str:
    return "-" if ratio is None else f"{ratio['value']:.3g}"


def _program(name: str) -> str:
    return name.partition(":")[0]


def compare(now: Mapping[str, Any], then: Mapping[str, Any], beyond: float) -> str:
    """What is to be said about two records."""
    head = f"then: {then['at']}, {then['machine']}\nnow: {now['at']}, {now['machine']}"
    if now["quick"] != then["quick"]:
        return f"{head}\none of them was a trial (--quick): they cannot be compared"
    programs = {_program(name) for name in now["ratios"]}
    earlier = {name: r for name, r in then["ratios"].items() if _program(name) in programs}
    rows = outliers(now["ratios"], earlier, beyond)
    if not rows:
        return f"{head}\nno outlier: all {len(now['ratios'])} ratios within {beyond:g} times"
    return f"{head}\n\n{table(['outlier', 'then', 'now', 'times', ''], rows)}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=PROGRAMS, help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="each as a trial, of minutes")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write all ratios, as JSON")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="with a record; names outliers"
    )
    parser.add_argument("--beyond", type=float, default=BEYOND, help=f"[default: {BEYOND:g}]")
    options = parser.parse_args()
    if options.beyond <= 1:
        parser.error("--beyond must be above 1")
    # Read before the hour, so that a wrong name costs none; and FILE may be the same for both.
    options.then = json.loads(options.compare.read_text("utf-8")) if options.compare else None
    return options


def main() -> int:
    """Exit code 0 when each program gave its ratios, whatever they are."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ratios: Ratios = {}
    failed = []
    where, at = machine(), time.strftime("%Y-%m-%d %H:%M")
    for program in options.only or PROGRAMS:
        print(f"\n=== {program}\n", flush=True)
        try:
            ratios |= run(program, quick=options.quick)
        except BenchmarkError as error:
            failed.append(str(error))
    now = {"at": at, "machine": where, "quick": options.quick, "ratios": ratios}
    print(f"\n=== all: {len(ratios)} ratios\n")
    if options.then is not None:
        print(compare(now, options.then, options.beyond))
    if options.record:
        options.record.write_text(json.dumps(now, indent=1), encoding="utf-8")
    print("\nnot measured:", "; ".join(failed) or "nothing")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
