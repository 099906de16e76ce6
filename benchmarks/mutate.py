"""Whether each guard of the decision core has a test that fails without it.

    python benchmarks/mutate.py [--jobs 2] [--only lifecycle] [--list]

Changes one thing at a time in the modules below (a condition becomes True or False, a boundary
shifts, a statement goes, an operand of `and` goes, ...) and runs the tests of these modules: unit
tests first, properties next, without random seeds. A change that no test notices is a survivor.
Prints the survivors and exits with 1 if there are any. Changes that change no behaviour are in
`EQUIVALENT`, each with its reason.

Every mutant is a forked child that loads the changed module instead of the file's.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).parents[1]
_LIFE = [
    "unit/test_lifecycle.py",
    "unit/test_lifecycle_ends.py",
    "properties/test_lifecycle_table.py",
    "properties/test_lifecycle_machine.py",
]
MODULES = {
    "backoff": ["unit/test_backoff.py", "unit/test_lifecycle_ends.py"],
    "fleet": ["unit/test_fleet.py", "properties/test_fleet_machine.py"],
    "step": _LIFE,
    "lifecycle": _LIFE,
}
LIMIT_S = 15
"""A mutant that takes more CPU time hangs, which is noticed too."""

EQUIVALENT = {
    "fleet._enqueue: min(missing) => max(missing)": "any missing service will do to wait for",
    "step.note: if not self._own => True": "a second copy costs time and nothing else",
    "step.note: self._own = True => pass": "a second copy costs time and nothing else",
}
"""Mutants that no test can notice, by name, with the reason."""

SWAPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPPOSITES = {"min": "max", "max": "min"}
REMOVABLE = (ast.Expr, ast.AugAssign, ast.Delete, ast.Return, ast.Continue, ast.Break)


@dataclass(frozen=True)
class Mutant:
    """One change of one module: a name that survives edits elsewhere, and the changed source."""

    module: str
    name: str
    source: str


class _Maker:
    """Walks a module and makes every change there is, one per copy of the tree."""

    def __init__(self, module: str) -> None:
        self.module = module
        path = ROOT / "dims" / "supervisor" / f"{module}.py"
        self.tree = ast.parse(path.read_text("utf-8"), str(path))
        self.made: list[Mutant] = []
        self.names: dict[str, int] = {}

    def all(self) -> list[Mutant]:
        for function in self._functions():
            for node in ast.walk(function):
                self._change(function.name, node)
        return self.made

    def _functions(self) -> Iterator[ast.FunctionDef]:
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef):
                yield node
            elif isinstance(node, ast.ClassDef):
                yield from (one for one in node.body if isinstance(one, ast.FunctionDef))

    def _save(self, where: str, before: str, after: str) -> None:
        """The tree as it is at this moment, changed, becomes one mutant."""
        name = f"{self.module}.{where}: {before} => {after}"
        count = self.names[name] = self.names.get(name, 0) + 1
        name = name if count == 1 else f"{name} #{count}"
        self.made.append(Mutant(self.module, name, ast.unparse(self.tree)))

    def _swap(self, where: str, node: ast.AST, field: str, new: object) -> None:
        """Puts `new` into a field of `node` for the time of one copy."""
        old = getattr(node, field)
        shown = node if isinstance(node, ast.expr) else old
        before = ast.unparse(shown) if isinstance(shown, ast.AST) else str(shown)
        setattr(node, field, new)
        changed = node if isinstance(node, ast.expr) else new
        after = ast.unparse(changed) if isinstance(changed, ast.AST) else str(changed)
        self._save(where, before, after)
        setattr(node, field, old)

    def _change(self, where: str, node: ast.AST) -> None:
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            self._conditions(where, node)
        if isinstance(node, ast.match_case):
            self._case(where, node)
        if isinstance(node, ast.comprehension):
            for index in range(len(node.ifs)):
                self._item(where, node.ifs, index, ast.Constant(value=True))
        if isinstance(node, ast.BoolOp):
            self._operands(where, node)
        if isinstance(node, ast.Compare):
            for index, op in enumerate(node.ops):
                ops = [*node.ops]
                ops[index] = SWAPS[type(op)]()
                self._swap(where, node, "ops", ops)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            opposite = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            self._swap(where, node, "op", opposite)
        if isinstance(node, ast.Call):
            self._call(where, node)
        self._statements(where, node)

    def _conditions(self, where: str, node: ast.If | ast.IfExp | ast.While) -> None:
        for value in (True, False):
            if not (isinstance(node, ast.While) and value):
                old = node.test
                node.test = ast.Constant(value=value)
                self._save(where, f"if {ast.unparse(old)}", str(value))
                node.test = old

    def _case(self, where: str, node: ast.match_case) -> None:
        pattern = node.pattern
        if isinstance(pattern, ast.MatchOr):
            for index in range(len(pattern.patterns)):
                old = pattern.patterns
                left = [*old[:index], *old[index + 1 :]]
                node.pattern = ast.MatchOr(left) if len(left) > 1 else left[0]
                self._save(where, f"case {ast.unparse(pattern)}", ast.unparse(node.pattern))
                node.pattern = pattern

    def _operands(self, where: str, node: ast.BoolOp) -> None:
        for index in range(len(node.values)):
            self._swap(where, node, "values", [*node.values[:index], *node.values[index + 1 :]])

    def _call(self, where: str, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in OPPOSITES:
            self._swap(where, node, "func", ast.Name(OPPOSITES[node.func.id], ast.Load()))
        for index in range(len(node.keywords)):
            left = [*node.keywords[:index], *node.keywords[index + 1 :]]
            self._swap(where, node, "keywords", left)

    def _item(self, where: str, items: list[ast.expr], index: int, new: ast.expr) -> None:
        old = items[index]
        items[index] = new
        self._save(where, ast.unparse(old), ast.unparse(new))
        items[index] = old

    def _statements(self, where: str, node: ast.AST) -> None:
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            for index, old in enumerate(block if isinstance(block, list) else []):
                if self._removable(old):
                    block[index] = ast.Pass()
                    self._save(where, ast.unparse(old), "pass")
                    block[index] = old

    @staticmethod
    def _removable(statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return False
        if isinstance(statement, ast.Assign):
            return not any(isinstance(target, ast.Name) for target in statement.targets)
        return isinstance(statement, REMOVABLE)


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.name = f"dims.supervisor.{mutant.module}"

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, self.name, "exec"), module.__dict__)  # noqa: S102 (our own)


def run_tests(tests: list[str]) -> int:
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
    plugins = [
        f"-pno:{name}" for name in ("cacheprovider", "asyncio", "timeout", "hypothesispytest")
    ]
    files = [str(ROOT / "tests" / name) for name in tests]
    options = ["-x", "-q", "--no-header", "--tb=no", "-c", os.devnull, "--rootdir", str(ROOT)]
    return int(pytest.main([*options, *plugins, *files]))


def child(mutant: Mutant | None, tests: list[str]) -> int:
    """Forks; the child's exit code is 0 when all tests passed. Answers its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        if mutant is not None:
            sys.meta_path.insert(0, _Loader(mutant))
        code = run_tests(tests)
    finally:
        os._exit(code)


def survivors(mutants: list[Mutant], jobs: int) -> list[str]:
    """The names of those that no test noticed; at most `jobs` run at the same time."""
    running: dict[int, Mutant] = {}
    left, found = list(reversed(mutants)), []
    while left or running:
        while left and len(running) < jobs:
            mutant = left.pop()
            running[child(mutant, MODULES[mutant.module])] = mutant
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0:
            found.append(mutant.name)
            print(f"survives: {mutant.name}", flush=True)
    return found


def main() -> int:
    """Runs all mutants; 0 when none survives but those that are equivalent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", help="names that contain this text")
    parser.add_argument("--list", action="store_true", help="print the mutants, run none")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    mutants = [mutant for module in MODULES for mutant in _Maker(module).all()]
    names = {mutant.name for mutant in mutants}
    stale = [name for name in EQUIVALENT if name not in names]
    mutants = [mutant for mutant in mutants if (arguments.only or "") in mutant.name]
    tried = [mutant for mutant in mutants if mutant.name not in EQUIVALENT]
    if arguments.list:
        print("\n".join(mutant.name for mutant in tried))
        return 0
    for tests in MODULES.values():
        if os.waitpid(child(None, tests), 0)[1]:
            print(f"the tests fail without any change: {tests}")
            return 1
    began_s = time.monotonic()
    found = survivors(tried, arguments.jobs)
    took_s = time.monotonic() - began_s
    print(f"{len(tried)} mutants, {len(found)} survive, {took_s:.0f} s")
    print(f"{len(mutants) - len(tried)} more are known to change nothing")
    for name in stale:
        print(f"listed as equivalent, but does not exist: {name}")
    return 1 if found or stale else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
