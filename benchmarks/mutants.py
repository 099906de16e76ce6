"""Changes of a module, one at a time: what `mutate` has the tests notice.

Knows syntax trees; refuses to know tests and processes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
OPPOSITES = {"min": "max", "max": "min"}
REMOVABLE = (ast.Expr, ast.AugAssign, ast.Delete, ast.Return, ast.Continue, ast.Break)


@dataclass(frozen=True)
class Mutant:
    """One change of one module: a name that survives edits elsewhere, and the changed source.

    `function` is the qualified name of what is changed.
    """

    module: str
    function: str
    name: str
    source: str


def mutants_of(module: str, shown: str, path: Path) -> list[Mutant]:
    """All changes of the module `module`, which is called `shown` in their names."""
    return _Maker(module, shown, path).all()


class _Maker:
    """Walks a module and makes every change there is, one per copy of the tree."""

    def __init__(self, module: str, shown: str, path: Path) -> None:
        self.module = module
        self.shown = shown
        self.tree = ast.parse(path.read_text("utf-8"), str(path))
        self.made: list[Mutant] = []
        self.names: dict[str, int] = {}

    def all(self) -> list[Mutant]:
        for name, function in self._functions():
            self._statements(name, function)
            for statement in function.body:
                for node in ast.walk(statement):
                    self._change(name, node)
        return self.made

    def _functions(self) -> Iterator[tuple[str, ast.FunctionDef]]:
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef):
                yield node.name, node
            elif isinstance(node, ast.ClassDef):
                for one in node.body:
                    if isinstance(one, ast.FunctionDef):
                        yield f"{node.name}.{one.name}", one

    def _save(self, where: str, before: str, after: str) -> None:
        """The tree as it is at this moment, changed, becomes one mutant."""
        name = f"{self.shown}.{where.rpartition('.')[2]}: {before} => {after}"
        count = self.names[name] = self.names.get(name, 0) + 1
        name = name if count == 1 else f"{name} #{count}"
        self.made.append(Mutant(self.module, where, name, ast.unparse(self.tree)))

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
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            self._swap(where, node, "op", OPERATORS[type(node.op)]())
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
                is_end = isinstance(node, ast.FunctionDef) and old is node.body[-1]
                if self._removable(old) and not (is_end and _returns_nothing(old)):
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


def _returns_nothing(statement: ast.stmt) -> bool:
    """Whether it does what the end of a function does without it."""
    if not isinstance(statement, ast.Return):
        return False
    return statement.value is None or (
        isinstance(statement.value, ast.Constant) and statement.value.value is None
    )
