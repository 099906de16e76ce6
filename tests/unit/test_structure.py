"""The house: no circle, no crowded folder, names that mean one thing, pure modules that are pure.

What must never import what is in pyproject.toml (import contracts);
tests/integration/test_contracts.py breaks each of them on purpose.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
MOST_FILES = 16
MOST_NAMES_TWICE = 5
IMPURE = {"asyncio", "time", "random", "secrets", "socket", "os", "subprocess", "threading"}
"""A pure module knows no clock, no chance, no loop and no I/O."""
CLOCKS = re.compile(
    r"\\b(time\\.(time|monotonic|perf_counter)(_ns)?|random\\.(random|uniform|choice)"
    r"|datetime\\.(now|today|utcnow))\\b"
)
"""Ways to read the time or to draw; loops have clocks of their own, which tests replace."""
ENTRANCES = {"__init__.py", "__main__.py"}
CLOCKS = re.compile(
    r"\b(time\.(time|monotonic|perf_counter)(_ns)?|random\.(random|uniform|choice)"
    r"|datetime\.(now|today|utcnow))\b"
)
"""Ways to read the time or to draw. Event loops have clocks of their own, which tests replace."""


def _sources() -> list[Path]:
    return sorted((ROOT / "dims").rglob("*.py"))


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("dims", include_external_packages=True, cache_dir=None)


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _pure_modules() -> list[str]:
    """Modules whose docstring says so, with the word itself."""
    return [
        _module(path)
        for path in _sources()
        if path.name not in ENTRANCES
        and re.search(r"\bPure\b", ast.get_docstring(ast.parse(path.read_text())) or "")
    ]


def _circles() -> Iterator[tuple[str, str]]:
    graph = _graph()
    inside = sorted(module for module in graph.modules if module.startswith("dims"))
    for module in inside:
        for imported in graph.find_modules_directly_imported_by(module):
            if imported.startswith("dims") and graph.find_shortest_chain(imported, module):
                yield module, imported


def test_no_module_reaches_itself() -> None:
    assert len(_graph().modules) > 200
    assert list(_circles()) == []


def test_no_folder_is_a_hall_of_many_doors() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in _sources())
    crowded = {str(folder): count for folder, count in counts.items() if count > MOST_FILES}
    assert crowded == {}


def test_file_names_are_used_once() -> None:
    folders = defaultdict(list)
    for path in _sources():
        if path.name not in ENTRANCES:
            folders[path.name].append(str(path.parent.relative_to(ROOT)))
    twice = {name: places for name, places in folders.items() if len(places) > 1}
    assert len(twice) <= MOST_NAMES_TWICE, twice


def test_class_names_are_used_once() -> None:
    modules = defaultdict(list)
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(_module(path))
    twice = {name: places for name, places in modules.items() if len(places) > 1}
    assert len(twice) <= MOST_NAMES_TWICE, twice


def test_what_says_that_it_is_pure_is_pure() -> None:
    pure = _pure_modules()
    assert len(pure) > 20
    graph = _graph()
    impure = {
        module: found
        for module in pure
        if (found := IMPURE & graph.find_modules_directly_imported_by(module))
    }
    assert impure == {}


def test_the_core_is_pure() -> None:
    core = {_module(path) for path in _sources() if path.parent.name == "core"}
    core.discard("dims.supervisor.core")
    assert core <= set(_pure_modules())


def test_tests_lie_in_the_folders_of_what_they_test() -> None:
    lost = [
        str(path.relative_to(ROOT))
        for kind in ("unit", "properties", "integration")
        for path in (ROOT / "tests" / kind).rglob("test_*.py")
        if not (ROOT / "dims" / path.parent.relative_to(ROOT / "tests" / kind)).is_dir()
    ]
    assert lost == []


def _code(path: Path) -> str:
    """The source without texts: a docstring or a hint may name a clock."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_nobody_reads_a_clock_but_the_clock() -> None:
    # And the ids, in which the time is part of a name: nothing is decided by it.
    readers = {
        f"{_module(path)}: {found.group()}"
        for path in _sources()
        if _module(path) not in {"dims.system.clock", "dims.ipc.wire.ids"}
        for found in CLOCKS.finditer(_code(path))
    }
    assert readers == set()


def test_files_of_tests_have_names_of_their_own() -> None:
    # pytest imports them by name: the second of two with one name is an error.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
