"""Draws tables of docs/json.md from the types of what the brain tells operators.

python docs/draw_json.py

A table stands between `<!-- NAME -->` and `<!-- end -->`, where NAME is a type of
`dims.ipc.words.operator`. It has the type's own fields, in their order: the docstring of each is
its meaning, and what follows "None:" says when it is null.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from enum import EnumType
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from dims.ipc.words import operator

PAGE = Path(__file__).parent / "json.md"
_TABLE = re.compile(r"(?s)(<!-- (\w+) -->\n).*?(<!-- end -->)")
_NAMES = {bool: "boolean", int: "number", float: "number", str: "text"}


def page(text: str) -> str:
    """The page with all its tables as the types have them now."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(found[2])}{found[3]}", text)


def drawn(text: str) -> list[str]:
    """The names of the types that the page has tables of."""
    return [found[2] for found in _TABLE.finditer(text)]


def table(name: str) -> str:
    """The fields of one type as a Markdown table."""
    hints = get_type_hints(getattr(operator, name))
    rows = [("field", "type", "meaning", "null"), ("---",) * 4]
    for field, said in _docstrings(name):
        meaning, _, null = " ".join(said.split()).partition(". None: ")
        rows.append((f"`{field}`", kind(hints[field]), meaning, null or "never"))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows).replace("| --- ", "|---")


def kind(hint: Any) -> str:
    """What a reader of JSON calls it."""
    if hint in _NAMES:
        return _NAMES[hint]
    if isinstance(hint, EnumType):
        return "text: " + ", ".join(f"`{choice.value}`" for choice in hint)
    choices = [choice for choice in get_args(hint) if choice not in (type(None), Ellipsis)]
    if get_origin(hint) is tuple:
        return f"list of {kind(choices[0])}s"
    if len(choices) == 1:
        return kind(choices[0])
    if is_dataclass(hint) or get_origin(hint) is Mapping:
        return "object"
    raise TypeError(f"what is {hint} in JSON?")


def _docstrings(name: str) -> Iterator[tuple[str, str]]:
    """The fields that the type itself has, and what is said of each. Raises ValueError for one of
    which nothing is said."""
    [body] = [
        node.body
        for node in ast.parse(inspect.getsource(operator)).body
        if isinstance(node, ast.ClassDef) and node.name == name
    ]
    for field, after in zip(body, [*body[1:], None], strict=True):
        match field, after:
            case ast.AnnAssign(target=ast.Name(id=named)), ast.Expr(ast.Constant(str(said))):
                yield named, said
            case ast.AnnAssign(), _:
                raise ValueError(f"{name} has a field without a docstring")


def main() -> None:
    """Replaces the tables in the page."""
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
