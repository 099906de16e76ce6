"""docs/json.md says what the brain tells operators: every type, every field, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

import pytest

from dims.ipc.words.operator import Explanation, FleetHealth, FleetStatus, StorageStatus

DOCS = Path(__file__).parents[4] / "docs"
ANSWERS = (FleetStatus, FleetHealth, Explanation, StorageStatus)


@pytest.fixture(scope="module")
def draw_json() -> Iterator[ModuleType]:
    spec = spec_from_file_location("draw_json", DOCS / "draw_json.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("draw_json", None)


def inside(hint: Any) -> Iterator[type[Any]]:
    """The type, and all types in its fields."""
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
        for field in get_type_hints(hint).values():
            yield from inside(field)
    for argument in get_args(hint):
        yield from inside(argument)


def test_the_page_shows_the_types(draw_json: ModuleType) -> None:
    text = draw_json.PAGE.read_text("utf-8")
    assert draw_json.page(text) == text, "run `python docs/draw_json.py`"


def test_the_page_shows_every_type_once(draw_json: ModuleType) -> None:
    shown = draw_json.drawn(draw_json.PAGE.read_text("utf-8"))
    assert sorted(shown) == sorted({one.__name__ for answer in ANSWERS for one in inside(answer)})


def test_a_table_has_types_meanings_and_nulls(draw_json: ModuleType) -> None:
    rows = draw_json.table("FleetHealth").splitlines()
    assert rows[:2] == ["| field | type | meaning | null |", "|---|---|---|---|"]
    assert rows[2].startswith("| `level` | text: `well`, `degraded`, `down` | ")
    assert rows[3].startswith("| `problems` | list of texts | ")
    assert "| `pid` | number | its process | no process, or not known yet |" in draw_json.table(
        "UnitStatus"
    )
