"""Whether each guard of the pure modules has a test that fails without it.

    python benchmarks/mutate.py [--jobs 2] [--only lifecycle step] [--list]

Pure is what says so: every module of `dims` whose docstring has that word, so a new one is covered
by itself. Changes one thing at a time in these modules (a condition becomes True or False, a
boundary shifts, a statement goes, an operand of `and` goes, ...) and runs the tests that reach the
changed function: of the unit and property tests those that import its module, or a pure one above
it, and need no event loop; the module's own first, then the quick ones, without random seeds. A
change that no test notices is a survivor. Prints the survivors and exits with 1 if there are any.
Changes that change no behaviour are in `EQUIVALENT`, each with its reason.

Tests are collected once. Every mutant is a forked child that gives the function another code.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType, FunctionType
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, settings
from mutants import Mutant, mutants_of

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
KINDS = ("unit", "properties")
LIMIT_S = 3
"""CPU seconds that a mutant may take beyond what its tests take without it, while it is noted what
they call: it hangs, which is noticed too."""
WALL_S = 1_200
"""Seconds after which it is given up whatever it takes: it waits for something."""
ENOUGH_S = 90.0
"""CPU seconds of tests per mutant, as they take while it is noted what they call, which is some
times as long; the slowest beyond that are left out."""
UNNOTICED, NOTICED, BROKEN = 0, 1, 99
"""How a child ends: no test failed, one did, or it could not be asked."""

SEARCH = "a search that finds nobody costs time and nothing else"
SHORT_CUT = "a short cut: what follows comes to the same, later"
EQUIVALENT = {
    "answers.error_from: isinstance(kind, type) and issubclass(kind, DimsError)"
    " => isinstance(kind, type)": "no class of dims.errors is anything but an error",
    "framing.encode_payload: b'null' in payload and _has_no_number(envelope.body)"
    " => _has_no_number(envelope.body)": SHORT_CUT,
    "framing._has_no_number: return False => pass": "None is no more true than False",
    "keyring.add: if key.account_id is not None => True": "nobody asks for the keys of nobody",
    "keyring.bind: if account_id is not None => True": "nobody asks for the keys of nobody",
    "box.forget_oldest: if message.random_id is not None => True": "nothing has no message",
    "world.create_bot: if bot.token != token => True": "the same token replaces itself",
    "world.access_hash: if found is None => True": SHORT_CUT,
    "world.access_hash: self._hashes[viewer, viewed] = found => pass": SHORT_CUT,
    "world.access_hash: int.from_bytes(digest[:8], 'little', signed=True) or 1"
    " => int.from_bytes(digest[:8], 'little', signed=True)": "one digest in 2**64 is 0",
    "world.difference: continue => pass": "nothing follows",
    "statements.checked: sql.split(maxsplit=1) => sql.split()": SHORT_CUT,
    "meter.add: if second != self._last_s => True": SHORT_CUT,
    "queue._next_class: most_impatient >= 0 => most_impatient > 0": "the first class is first",
    "frames.feed: if not rest and len(data) >= _HEADER_BYTES => False": SHORT_CUT,
    "frames.feed: if length == len(data) - _HEADER_BYTES and magic == MAGIC"
    " and self._is_sound(length) => False": SHORT_CUT,
    "frames.feed: len(data) >= _HEADER_BYTES => len(data) > _HEADER_BYTES": SHORT_CUT,
    "frames.feed: len(data) - _HEADER_BYTES => len(data) + _HEADER_BYTES": SHORT_CUT,
    "frames.feed: position < size => position <= size": SHORT_CUT,
    "frames.feed: return [data[_HEADER_BYTES:]] => pass": SHORT_CUT,
    "frames.feed: if rest => True": SHORT_CUT,
    "frames.feed: if len(rest) < self._needed() => False": SHORT_CUT,
    "frames.feed: return [] => pass": SHORT_CUT,
    "frames.feed: if position < size => True": SHORT_CUT,
    "frames._is_sound: return not self._broken and length <= self._limit_bytes => pass": SHORT_CUT,
    "frames._is_sound: length <= self._limit_bytes => length < self._limit_bytes": SHORT_CUT,
    "frames._needed: if len(self._rest) < _HEADER_BYTES => True": SHORT_CUT,
    "frames._needed: len(self._rest) < _HEADER_BYTES"
    " => len(self._rest) <= _HEADER_BYTES": SHORT_CUT,
    "frames._needed: if length > self._limit_bytes => True": SHORT_CUT,
    "frames._needed: length > self._limit_bytes => length >= self._limit_bytes": SHORT_CUT,
    "frames._needed: _HEADER_BYTES + length => _HEADER_BYTES - length": SHORT_CUT,
    "pacing._enqueue: min(missing) => max(missing)": "any missing service will do to wait for",
    "budget._ask_back: if in_vain is not None and granted >= in_vain => False": SEARCH,
    "budget._ask_back: granted >= in_vain => granted > in_vain": SEARCH,
    "budget._ask_back: continue => pass": SEARCH,
    "budget._ask_back: if record.granted => True": SEARCH,
    "budget._ask_back: if not granted => False": SEARCH,
    "budget._ask_back: return => pass #2": SEARCH,
    "budget._richest: key > best_key => key >= best_key": "of two that are alike either will do",
    "borrowing.__init__: self._until_s = 0.0 => pass": "it is not read before it is set",
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
    has_coroutines: bool

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
        waits = any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree))
        return cls(path, frozenset(found), ast.get_docstring(tree) or "", waits)


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
                source = Source.read(path)
                if "asyncio" not in source.imports and not source.has_coroutines:
                    reached[path] = self.below(_with_helpers(source, helpers))
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


Function = tuple[str, str]
"""A module, and the qualified name of a function in it."""


@dataclass
class Reach:
    """What one test does without any change: CPU seconds, and the functions that it runs."""

    item: pytest.Item
    cpu_s: float = 0.0
    functions: frozenset[Function] = field(default=frozenset())


class _Watch:
    """Notes which functions of the pure modules are called."""

    def __init__(self, pure: PureModules) -> None:
        self._modules = {str(source.path): name for name, source in pure.sources.items()}
        self._seen: set[CodeType] = set()
        self.functions: set[Function] = set()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in self._seen:
            self._seen.add(code)
            module = self._modules.get(code.co_filename)
            if module is not None:
                self.functions.add((module, code.co_qualname.partition(".<locals>")[0]))


def _function(module: str, name: str) -> FunctionType:
    """The function itself, below whatever decorates it."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    for inner in ("fget", "func", "__func__", "__wrapped__"):
        found = getattr(found, inner, found)
    assert isinstance(found, FunctionType), f"{module}.{name} is no function"
    return found


def _code_of(source: str, name: str, *, has_super: bool) -> CodeType:
    """The code of the function of that qualified name; with the cell that `super()` needs, whether
    the function still says that or not, if it did: a function keeps its number of cells."""
    tree = ast.parse(source)
    if has_super:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == name.rpartition(".")[2]:
                node.body.append(ast.parse("__class__").body[0])
    left = [compile(ast.fix_missing_locations(tree), name, "exec")]
    while left:
        code = left.pop()
        if code.co_qualname == name:
            return code
        left += [one for one in code.co_consts if isinstance(one, CodeType)]
    raise LookupError(name)


def change(mutant: Mutant) -> None:
    """From now on the function does what the mutant does."""
    function = _function(mutant.module, mutant.function)
    has_super = "__class__" in function.__code__.co_freevars
    function.__code__ = _code_of(mutant.source, mutant.function, has_super=has_super)


def fork(task: Callable[[], int], cpu_s: float) -> int:
    """Does the task in a child that says nothing; its exit code is what the task returns, BROKEN
    when that raises. Returns the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = BROKEN
    try:
        # What a changed module signals by mistake, such as pid 0, must not be us.
        os.setpgid(0, 0)
        limit_s = int(cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
        signal.alarm(WALL_S)
        code = task()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def side_by_side(
    tasks: Iterable[tuple[Callable[[], int], float]], jobs: int
) -> Iterator[tuple[int, int]]:
    """Does each task, with its limit in CPU seconds, in a child; at most `jobs` at the same time.
    Yields, as they end, the number of the task and its exit code, negative for a signal."""
    running: dict[int, int] = {}
    left = enumerate(tasks)
    try:
        while True:
            for number, (task, cpu_s) in left:
                running[fork(task, cpu_s)] = number
                if len(running) >= jobs:
                    break
            if not running:
                return
            pid, status = os.wait()
            yield running.pop(pid), os.waitstatus_to_exitcode(status)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _give_up(why: str) -> NoReturn:
    print(why, file=sys.__stderr__)
    pytest.exit(why, BROKEN)


class Trial:
    """As a plugin of pytest: takes its tests when they are collected, and tries all mutants."""

    def __init__(self, mutants: list[Mutant], pure: PureModules, jobs: int) -> None:
        self._mutants = mutants
        self._pure = pure
        self._jobs = jobs
        self._has_failed = False
        self.survivors: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Asked for each file; nobody else says what is wrong with one."""
        if report.failed:
            print(report.longreprtext, file=sys.stderr)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Asked for each part of each test."""
        self._has_failed = self._has_failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of running the tests."""
        by_file: dict[Path, list[pytest.Item]] = defaultdict(list)
        for item in session.items:
            by_file[item.path].append(item)
        reached = list(self._reaches(list(by_file.values())))
        pairs = []
        for mutant in self._mutants:
            chosen = self._tests_for(mutant, reached)
            if chosen:
                pairs.append((mutant, chosen))
            else:
                self._survives(mutant, "no test reaches")
        tasks = (self._attempt(*pair) for pair in pairs)
        for number, code in side_by_side(tasks, self._jobs):
            mutant = pairs[number][0]
            if code == UNNOTICED:
                self._survives(mutant, "survives")
            elif code not in {NOTICED, -signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM}:
                _give_up(f"cannot be tried: {mutant.name}: {code}")
        return True

    def _survives(self, mutant: Mutant, how: str) -> None:
        self.survivors.append(mutant.name)
        print(f"{how}: {mutant.name}", file=sys.__stderr__, flush=True)

    def _run(self, item: pytest.Item) -> bool:
        """Whether the test passes."""
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self._has_failed

    def _reaches(self, files: list[list[pytest.Item]]) -> Iterator[Reach]:
        """What each test does without any change. Ends everything when one of them fails."""
        with TemporaryDirectory() as place:
            notes = [Path(place, str(number)) for number in range(len(files))]
            tasks = [
                (partial(self._watch, items, note), WALL_S)
                for items, note in zip(files, notes, strict=True)
            ]
            for number, code in side_by_side(tasks, self._jobs):
                if code != UNNOTICED:
                    _give_up(f"fails without any change: {files[number][0].path}")
                told = json.loads(notes[number].read_text("utf-8"))
                for item, (cpu_s, functions) in zip(files[number], told, strict=True):
                    yield Reach(item, cpu_s, frozenset((where, name) for where, name in functions))

    def _watch(self, items: list[pytest.Item], note: Path) -> int:
        told = []
        for item in items:
            watch, began_s = _Watch(self._pure), time.process_time()
            sys.setprofile(watch)
            passed = self._run(item)
            sys.setprofile(None)
            if not passed:
                return NOTICED
            told.append((time.process_time() - began_s, sorted(watch.functions)))
        note.write_text(json.dumps(told), "utf-8")
        return UNNOTICED

    def _tests_for(self, mutant: Mutant, reached: Iterable[Reach]) -> list[Reach]:
        """The tests that run what is changed: the module's own first, then the quick ones."""
        stem = self._pure.shown[mutant.module].rpartition(".")[2]
        found = [one for one in reached if (mutant.module, mutant.function) in one.functions]
        found.sort(key=lambda one: (stem not in one.item.path.stem, one.cpu_s))
        chosen, sum_s = [], 0.0
        for one in found:
            if not chosen or sum_s + one.cpu_s <= ENOUGH_S:
                chosen.append(one)
                sum_s += one.cpu_s
        return chosen

    def _attempt(self, mutant: Mutant, tests: list[Reach]) -> tuple[Callable[[], int], float]:
        """The task that tells whether the tests notice the mutant, and its limit in CPU seconds."""

        def task() -> int:
            change(mutant)
            return UNNOTICED if all(self._run(one.item) for one in tests) else NOTICED

        return task, LIMIT_S + sum(one.cpu_s for one in tests)


def survivors(mutants: list[Mutant], pure: PureModules, jobs: int) -> list[str]:
    """The names of those that no test noticed. Exits when the tests fail without any change."""
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
    wanted = {mutant.module for mutant in mutants}
    tests = [str(path) for path, modules in pure.tests.items() if modules & wanted]
    names = ("cacheprovider", "asyncio", "timeout", "hypothesispytest", "xdist", "terminal")
    plugins = [f"-pno:{name}" for name in names]
    options = ["--noconftest", "-c", os.devnull, "--rootdir", str(ROOT)]
    trial = Trial(mutants, pure, jobs)
    if code := pytest.main([*options, *plugins, *tests], [trial]):
        sys.exit(f"the tests cannot be asked: {code}")
    return trial.survivors


def main() -> int:
    """Runs all mutants; 0 when none survives but those that are equivalent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="those with such a text in the name"
    )
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
    mutants = [mutant for mutant in mutants if any(text in mutant.name for text in arguments.only)]
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
