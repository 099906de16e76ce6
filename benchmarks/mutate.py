"""Whether each guard of the pure modules has a test that fails without it.

    python benchmarks/mutate.py [--jobs 2] [--only lifecycle] [--list]

Pure is what says so: every module of `dims` whose docstring has that word, so a new one is covered
by itself. Changes one thing at a time in these modules (a condition becomes True or False, a
boundary shifts, a statement goes, an operand of `and` goes, ...) and runs the tests that reach the
changed function: of the unit and property tests those that import the module, or a pure one above
it, and need no event loop; the module's own first, then the quick ones, without random seeds. A
change that no test notices is a survivor. Prints the survivors and exits with 1 if there are any.
Changes that change no behaviour are in `EQUIVALENT`, each with its reason.

Every mutant is a forked child that loads the changed module instead of the file's.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
KINDS = ("unit", "properties")
LIMIT_S = 10
"""CPU seconds that a mutant may take beyond three times what its tests take without it: it hangs,
which is noticed too."""
WALL_S = 300
"""Seconds after which it is given up whatever it takes: it waits for something."""
ENOUGH_S = 15.0
"""CPU seconds of tests per mutant; the slowest beyond that are left out."""

EQUIVALENT = {
    "fleet._enqueue: min(missing) => max(missing)": "any missing service will do to wait for",
    "step.note: if not self._own => True": "a second copy costs time and nothing else",
    "step.note: self._own = True => pass": "a second copy costs time and nothing else",
}
"""Mutants that no test can notice, by name, with the reason."""


@dataclass(frozen=True)
class Source:
    """A Python file of the project: its module name, and the modules and files that it imports."""

    path: Path
    imports: frozenset[str]
    docstring: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """Reads the file; `from a import b` counts as an import of both `a` and `a.b`."""
        tree = ast.parse(path.read_text("utf-8"), str(path))
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
        return cls(path, frozenset(found), ast.get_docstring(tree) or "")


class PureModules:
    """The modules that say that they are pure, and the tests that reach them without a loop."""

    def __init__(self) -> None:
        sources = {_module_of(path): Source.read(path) for path in (ROOT / "dims").rglob("*.py")}
        self.sources = {
            name: source
            for name, source in sorted(sources.items())
            if re.search(r"\bPure\b", source.docstring)
        }
        stems = Counter(name.rpartition(".")[2] for name in self.sources)
        self.shown = {
            name: ".".join(name.split(".")[-1 if stems[name.rpartition(".")[2]] == 1 else -2 :])
            for name in self.sources
        }

    def below(self, names: Iterable[str]) -> set[str]:
        """Those of the pure modules that are among `names`, or imported by such a one."""
        found: set[str] = set()
        left = [name for name in names if name in self.sources]
        while left:
            name = left.pop()
            if name not in found:
                found.add(name)
                left += [one for one in self.sources[name].imports if one in self.sources]
        return found

    @cached_property
    def tests(self) -> dict[Path, set[str]]:
        """By test file the pure modules that it reaches."""
        helpers = {
            path.stem: Source.read(path)
            for path in TESTS.rglob("*.py")
            if not path.name.startswith("test_")
        }
        reached = {}
        for kind in KINDS:
            for path in sorted((TESTS / kind).rglob("test_*.py")):
                if "async def test_" not in path.read_text("utf-8"):
                    reached[path] = self.below(_with_helpers(Source.read(path), helpers))
        return {path: modules for path, modules in reached.items() if modules}


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _with_helpers(source: Source, helpers: Mapping[str, Source]) -> set[str]:
    """What a test imports itself and through what lies beside it."""
    found: set[str] = set()
    left = [source]
    while left:
        for name in left.pop().imports - found:
            found.add(name)
            if name in helpers:
                left.append(helpers[name])
    return found


@dataclass(frozen=True)
class Reach:
    """What one test file does without any change: CPU seconds, and the functions that it runs."""

    test: Path
    cpu_s: float
    functions: frozenset[tuple[str, str]]


class _Watch:
    """Notes which functions of the pure modules are called."""

    def __init__(self, pure: PureModules) -> None:
        self._modules = {str(source.path): name for name, source in pure.sources.items()}
        self._seen: set[CodeType] = set()
        self.functions: set[tuple[str, str]] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in self._seen:
            self._seen.add(code)
            module = self._modules.get(code.co_filename)
            if module is not None:
                self.functions.add((module, code.co_qualname.partition(".<locals>")[0]))


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self.mutant.module:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        code = compile(self.mutant.source, self.mutant.module, "exec")
        exec(code, module.__dict__)  # noqa: S102 (our own)


def run_tests(tests: Iterable[Path]) -> int:
    """pytest's exit code for these files, in this process, without chance."""
    settings.register_profile(
        "mutate",
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        max_examples=150,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutate")
    names = ("cacheprovider", "asyncio", "timeout", "hypothesispytest", "xdist")
    plugins = [f"-pno:{name}" for name in names]
    options = ["-x", "-q", "--no-header", "--tb=no", "--noconftest", "-c", os.devnull]
    return int(pytest.main([*options, "--rootdir", str(ROOT), *plugins, *map(str, tests)]))


def fork(task: Callable[[], int], cpu_s: float) -> int:
    """Does the task in a child that says nothing; its exit code is what the task returns, 99 when
    that raises. Returns the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        limit_s = int(cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        signal.alarm(WALL_S)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = task()
    finally:
        os._exit(code)


def side_by_side(
    tasks: Iterable[tuple[Callable[[], int], float]], jobs: int
) -> Iterator[tuple[int, int, float]]:
    """Does each task, with its limit in CPU seconds, in a child; at most `jobs` at the same time.
    Yields, as they end, its number, its wait status and the CPU seconds that it took."""
    running: dict[int, int] = {}
    left = enumerate(tasks)
    while True:
        for number, (task, cpu_s) in left:
            running[fork(task, cpu_s)] = number
            if len(running) >= jobs:
                break
        if not running:
            return
        pid, status, usage = os.wait4(-1, 0)
        yield running.pop(pid), status, usage.ru_utime + usage.ru_stime


def reaches(pure: PureModules, tests: Sequence[Path], jobs: int) -> list[Reach]:
    """What each test file does without any change. Exits when one of them fails."""
    pipes = [os.pipe() for _ in tests]

    def task(number: int) -> Callable[[], int]:
        def run() -> int:
            watch = _Watch(pure)
            sys.setprofile(watch)
            code = run_tests([tests[number]])
            sys.setprofile(None)
            with os.fdopen(pipes[number][1], "w") as end:
                json.dump(sorted(watch.functions), end)
            return code

        return run

    found = []
    for number, status, cpu_s in side_by_side(
        ((task(number), WALL_S) for number in range(len(tests))), jobs
    ):
        if status:
            sys.exit(f"{tests[number]} fails without any change")
        os.close(pipes[number][1])
        with os.fdopen(pipes[number][0]) as end:
            functions = frozenset((module, name) for module, name in json.load(end))
        found.append(Reach(tests[number], cpu_s, functions))
    return found


Pair = tuple[Mutant, list[Reach]]


def tests_for(mutant: Mutant, shown: str, reached: Iterable[Reach]) -> list[Reach]:
    """The tests that run what is changed: the module's own first, then the quick ones."""
    stem = shown.rpartition(".")[2]
    found = [one for one in reached if (mutant.module, mutant.function) in one.functions]
    found.sort(key=lambda one: (stem not in one.test.stem, one.cpu_s))
    chosen, sum_s = [], 0.0
    for one in found:
        if not chosen or sum_s + one.cpu_s <= ENOUGH_S:
            chosen.append(one)
            sum_s += one.cpu_s
    return chosen


def attempt(mutant: Mutant, tests: list[Reach]) -> tuple[Callable[[], int], float]:
    """The task that tells whether the tests notice the mutant, and its limit in CPU seconds."""

    def run() -> int:
        sys.meta_path.insert(0, _Loader(mutant))
        return run_tests(one.test for one in tests)

    return run, LIMIT_S + 3 * sum(one.cpu_s for one in tests)


def unchanged(pure: PureModules, reached: Sequence[Reach], modules: Iterable[str]) -> list[Pair]:
    """Each module as it is, loaded as a mutant is, with the tests that reach it."""
    pairs = []
    for name in sorted(modules):
        source = ast.unparse(ast.parse(pure.sources[name].path.read_text("utf-8")))
        tests = [one for one in reached if name in {module for module, _ in one.functions}]
        pairs.append((Mutant(name, "", f"{pure.shown[name]} unchanged", source), tests))
    return pairs


def survivors(mutants: list[Mutant], pure: PureModules, jobs: int) -> list[str]:
    """The names of those that no test noticed. Exits when tests fail without any change."""
    wanted = {mutant.module for mutant in mutants}
    tests = [path for path, modules in pure.tests.items() if modules & wanted]
    reached = reaches(pure, tests, jobs)
    found, pairs = [], []
    for mutant in mutants:
        chosen = tests_for(mutant, pure.shown[mutant.module], reached)
        if chosen:
            pairs.append((mutant, chosen))
        else:
            found.append(mutant.name)
            print(f"no test reaches: {mutant.name}", flush=True)
    controls = unchanged(pure, reached, {mutant.module for mutant, _ in pairs})
    unnoticed = {mutant.name for mutant in unnoticed_of(controls, jobs)}
    if failing := [mutant.name for mutant, _ in controls if mutant.name not in unnoticed]:
        sys.exit(f"tests fail with {failing}")
    for mutant in unnoticed_of(pairs, jobs):
        found.append(mutant.name)
        print(f"survives: {mutant.name}", flush=True)
    return found


def unnoticed_of(pairs: Sequence[Pair], jobs: int) -> Iterator[Mutant]:
    """Those whose tests all pass, as they are found."""
    for number, status, _ in side_by_side((attempt(*pair) for pair in pairs), jobs):
        if status == 0:
            yield pairs[number][0]


def main() -> int:
    """Runs all mutants; 0 when none survives but those that are equivalent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="names that contain this text")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    arguments = parser.parse_args()
    sys.path[:0] = [str(ROOT), *sorted({str(path.parent) for path in TESTS.rglob("*.py")})]
    os.chdir(ROOT)
    pure = PureModules()
    mutants = [
        mutant
        for name, source in pure.sources.items()
        for mutant in mutants_of(name, pure.shown[name], source.path)
    ]
    names = {mutant.name for mutant in mutants}
    stale = [name for name in EQUIVALENT if name not in names]
    mutants = [mutant for mutant in mutants if arguments.only in mutant.name]
    tried = [mutant for mutant in mutants if mutant.name not in EQUIVALENT]
    if arguments.list:
        print("\n".join(mutant.name for mutant in tried))
        return 0
    began_s = time.monotonic()
    found = survivors(tried, pure, arguments.jobs)
    took_s = time.monotonic() - began_s
    modules = len({mutant.module for mutant in tried})
    print(f"{len(tried)} mutants of {modules} modules, {len(found)} survive, {took_s:.0f} s")
    print(f"{len(mutants) - len(tried)} more are known to change nothing")
    for name in stale:
        print(f"listed as equivalent, but does not exist: {name}")
    return 1 if found or stale else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
