"""A YAML text as a tree in which every key and value knows its line and column.

Knows YAML and nothing of bots. Refuses what a configuration never needs and an attacker
would: tags, several documents, self-references, deep nesting, and aliases that expand
beyond `MOST_NODES`. Only true, false, null, numbers and text exist: yes, no, on, off, dates
and 12:30 are text, as in YAML 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from dims.config.text.faults import Fault, Mark
from dims.wording import quoted

MOST_BYTES = 4_000_000
MOST_NODES = 200_000
MOST_DEPTH = 32

ItemPath = tuple[str | int, ...]
"""Keys and list positions from the root of the file to a value."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+)")
_BARE_REFERENCE = re.compile(r"(?<!['\"$])\$\{")
_NAME_IN_PHRASE = re.compile(r"(['\"])\w[^'\"]+\1")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    spelling: word == "true"
    for word in ("true", "false")
    for spelling in (word, word.capitalize(), word.upper())
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value; `plain` means written without quotes."""

    mark: Mark
    text: str
    plain: bool
    size: int = 1

    def value(self) -> str | int | float | bool | None:
        """The value it stands for; anything but a plain number or word is text."""
        if not self.plain:
            return self.text
        if self.text in _WORDS:
            return _WORDS[self.text]
        if _INT.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.fullmatch(self.text) else self.text


@dataclass(slots=True)
class Listing:
    """A sequence."""

    mark: Mark
    items: list[Node] = field(default_factory=list)
    size: int = 1


@dataclass(slots=True)
class Table:
    """A mapping: each key with the place of the key and the node of its value."""

    mark: Mark
    entries: dict[str, tuple[Mark, Node]] = field(default_factory=dict)
    merges: list[tuple[Mark, Node]] = field(default_factory=list)
    size: int = 1


Node = Scalar | Listing | Table


class _StopError(Exception):
    """Reading cannot go on; carries where and why."""

    def __init__(self, mark: Mark, text: str) -> None:
        super().__init__(text)
        self.mark = mark


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet; in a table `key` waits for its value."""

    node: Listing | Table
    anchor: str | None
    key: Scalar | None = None


class _Builder:
    """Builds the tree from parser events; a stack instead of recursion, so depth is bounded."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.faults: list[Fault] = []
        self.root: Node | None = None
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._documents = 0

    def take(self, event: Any) -> None:
        mark = _mark(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _StopError(mark, "a second document starts here; keep one, without '---'")
            case yaml.AliasEvent():
                self._add(self._alias(event.anchor, mark), None)
            case yaml.ScalarEvent():
                self._refuse_tag(event, mark, event.implicit[0] or event.implicit[1])
                self._add(Scalar(mark, event.value, not event.style), event.anchor)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._refuse_tag(event, mark, event.implicit)
                is_list = isinstance(event, yaml.SequenceStartEvent)
                self._open(Listing(mark) if is_list else Table(mark), event.anchor)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self._close()

    def _refuse_tag(self, event: Any, mark: Mark, implicit: bool) -> None:
        if event.tag is not None and not implicit:
            raise _StopError(mark, "tags (words that start with '!') are not allowed; remove it")

    def _alias(self, anchor: str | None, mark: Mark) -> Node:
        if anchor is None or anchor not in self._anchors:
            raise _StopError(mark, "this alias ('*') names no anchor ('&') above it")
        node = self._anchors[anchor]
        if node is None:
            raise _StopError(mark, "this alias contains itself")
        return node

    def _open(self, node: Listing | Table, anchor: str | None) -> None:
        if len(self._stack) >= MOST_DEPTH:
            raise _StopError(node.mark, f"nested more than {MOST_DEPTH} levels deep")
        if anchor is not None:
            self._anchors[anchor] = None
        self._stack.append(_Open(node, anchor))

    def _close(self) -> None:
        closed = self._stack.pop()
        if isinstance(closed.node, Table):
            self._merge(closed.node)
        self._add(closed.node, closed.anchor)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self.root = node
            return
        top = self._stack[-1]
        top.node.size += node.size
        if top.node.size > MOST_NODES:
            raise _StopError(node.mark, f"more than {MOST_NODES:,} values (aliases count in full)")
        if isinstance(top.node, Listing):
            top.node.items.append(node)
        elif top.key is None:
            top.key = self._key(node)
        else:
            self._set(top.node, top.key, node)
            top.key = None

    def _key(self, node: Node) -> Scalar:
        if isinstance(node, Scalar):
            return node
        raise _StopError(node.mark, "a key must be a single word, not a list or a mapping")

    def _set(self, table: Table, key: Scalar, value: Node) -> None:
        if key.text == "<<" and key.plain:
            table.merges.append((key.mark, value))
        elif key.text in table.entries:
            first = table.entries[key.text][0]
            text = f"the key {quoted(key.text)} is already on line {first.line}; keep one of them"
            self.faults.append(Fault(self.file, key.mark, text))
        else:
            table.entries[key.text] = (key.mark, value)

    def _merge(self, table: Table) -> None:
        """`<<: *base` adds what the table does not say itself; the first of several wins."""
        for mark, value in table.merges:
            for base in value.items if isinstance(value, Listing) else [value]:
                if not isinstance(base, Table):
                    raise _StopError(mark, "'<<' merges mappings only")
                for key, entry in base.entries.items():
                    table.entries.setdefault(key, entry)


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def parse(text: str, file: str) -> tuple[Node | None, list[Fault]]:
    """The tree of the text (None when it is empty or cannot be read) and the faults met.

    Duplicate keys are all reported and the tree still comes; any other fault ends the reading.
    """
    builder = _Builder(file)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except _StopError as stop:
        return None, [*builder.faults, Fault(file, stop.mark, str(stop))]
    except yaml.MarkedYAMLError as error:
        return None, [*builder.faults, _syntax_fault(error, text, file)]
    except yaml.YAMLError:
        return None, [Fault(file, _unprintable(text), "a control character that YAML forbids")]
    return builder.root, builder.faults


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, file: str) -> Fault:
    """The parser's finding in one line, with the usual slips named by their cause."""
    where = error.problem_mark or error.context_mark
    mark = _mark(where) if where is not None else Mark(1, 1)
    rows = text.split("\n")
    row = rows[mark.line - 1] if mark.line <= len(rows) else ""
    at = row[mark.column - 1 : mark.column]
    indentation = row[: len(row) - len(row.lstrip())]
    if "\t" in indentation or at == "\t":
        column = row.index("\t") + 1
        return Fault(file, Mark(mark.line, column), "a tab; YAML wants spaces for indentation")
    if at and at in "@`%":
        return Fault(file, mark, f"a value that starts with '{at}' must stand in quotes")
    reference = _BARE_REFERENCE.search(row)
    if reference and "flow" in (error.context or ""):
        place = Mark(mark.line, reference.start() + 1)
        return Fault(file, place, "between { } or [ ], ${NAME} must stand in quotes: '${NAME}'")
    return Fault(file, mark, f"not valid YAML: {_phrase(error)}")


def _phrase(error: yaml.MarkedYAMLError) -> str:
    """The parser's own words; names from the file, which could be secrets, are left out."""
    phrase = error.problem or "unknown problem"
    if error.context:
        line = (
            f" that begins on line {_mark(error.context_mark).line}" if error.context_mark else ""
        )
        phrase = f"{error.context}{line}, {phrase}"
    return _NAME_IN_PHRASE.sub("a name", phrase)


def _unprintable(text: str) -> Mark:
    match = yaml.reader.Reader.NON_PRINTABLE.search(text)
    before = text[: match.start()] if match else ""
    return Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def scalars(node: Node | None) -> Iterator[Scalar]:
    """Every single value in the tree, keys left out."""
    match node:
        case Scalar():
            yield node
        case Listing():
            for item in node.items:
                yield from scalars(item)
        case Table():
            for _, value in node.entries.values():
                yield from scalars(value)


def place(node: Node, path: ItemPath, *, of_key: bool = False) -> Mark:
    """Where the value at that path stands, or as near to it as the tree goes.

    With `of_key` the place of the last key of the path, if it is one.
    """
    mark = node.mark
    for index, step in enumerate(path):
        if isinstance(node, Table) and step in node.entries:
            key_mark, node = node.entries[str(step)]
            mark = key_mark if of_key or index < len(path) - 1 else node.mark
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            mark = node.mark
        else:
            break
    return mark


def has(node: Node, path: ItemPath) -> bool:
    """Whether the path leads to something that is written in the file."""
    for step in path:
        if isinstance(node, Table) and step in node.entries:
            node = node.entries[str(step)][1]
        elif isinstance(node, Listing) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
        else:
            return False
    return True
