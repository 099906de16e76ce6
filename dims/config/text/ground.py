"""The ground one reading stands on: the tree, its plain values, their sources, and the faults.

Turns nodes into plain data with ${NAME} filled in, and paths into places. Judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dims.config.text import document
from dims.config.text.complaints import validate
from dims.config.text.document import ItemPath, Node, Table
from dims.config.text.faults import Fault, Mark
from dims.config.text.variables import FromVariable, fill

_CHECKED_AGAINST: dict[str | int, str] = {
    "stuck_after_s": "heartbeat_s",
    "max_delay_s": "first_delay_s",
    "retry_max_s": "retry_first_s",
    "kinds": "to",
}


class Ground:
    """One file being read; `data` is its plain content, `fault()` notes what is wrong where."""

    def __init__(
        self, path: Path, root: Table, variables: Mapping[str, str], faults: list[Fault]
    ) -> None:
        self.path = path
        self.directory = path.parent.resolve()
        self.root = root
        self.variables = variables
        self.faults = faults
        self.sources: dict[ItemPath, str] = {}
        self.data: dict[str, Any] = self._plain(root, ())
        # A value whose variable is missing has its fault: what follows from that is noise.
        self._told = frozenset(fault.mark for fault in faults)

    def mark(self, path: ItemPath, *, of_key: bool = False) -> Mark:
        """The place of the value (or key) at that path, or the nearest that is written."""
        return document.place(self.root, path, of_key=of_key)

    def has(self, path: ItemPath) -> bool:
        """Whether something is written at that path."""
        return document.has(self.root, path)

    def written(self, path: ItemPath) -> ItemPath:
        """The path, or that of the value it is checked against if only that one is written."""
        if self.has(path) or not path or path[-1] not in _CHECKED_AGAINST:
            return path
        other = (*path[:-1], _CHECKED_AGAINST[path[-1]])
        return other if self.has(other) else path

    def fault(self, path: ItemPath, text: str, *, of_key: bool = False) -> None:
        """Notes a fault at the value (or key) of that path."""
        path = self.written(path)
        mark = self.mark(path, of_key=of_key)
        text = text.replace("the variable", self.sources.get(path, "the variable"))
        if mark not in self._told or not self.has(path):
            self.faults.append(Fault(self.path.name, mark, text))

    def faulty(self, path: ItemPath) -> bool:
        """Whether a fault is noted at that path already."""
        path = self.written(path)
        marks = {self.mark(path, of_key=True), self.mark(path)}
        return any(fault.mark in marks for fault in self.faults)

    def section(self, model: type[Any], path: ItemPath, raw: Any) -> Any:
        """The model made from the raw section, or None; notes every fault below `path`."""
        made, complaints = validate(model, raw, str(path[-1]))
        for inner, of_key, text in complaints:
            self.fault((*path, *inner), text, of_key=of_key)
        return made

    def _plain(self, node: Node, path: ItemPath) -> Any:
        match node:
            case Table():
                entries = node.entries.items()
                return {key: self._plain(value, (*path, key)) for key, (_, value) in entries}
            case document.Listing():
                return [self._plain(item, (*path, i)) for i, item in enumerate(node.items)]
        value = node.value()
        if not isinstance(value, str):
            return value
        filled = fill(value, self.variables)
        self.faults += [Fault(self.path.name, node.mark, text) for text in filled.faults]
        if filled.names:
            self.sources[path] = "variable " + ", ".join(filled.names)
        return filled.value


def tidy(raw: Any) -> Any:
    """A raw `defaults` or bot section, ready to be validated.

    restart, limits and settings with nothing below them say nothing; `settings` is the bot's
    own, so the mark that a text came from a variable is taken off.
    """
    if not isinstance(raw, dict):
        return raw
    optional = {"restart", "limits", "settings"}
    kept = {key: value for key, value in raw.items() if value is not None or key not in optional}
    if "settings" in kept:
        kept["settings"] = _without_origin(kept["settings"])
    return kept


def _without_origin(value: Any) -> Any:
    match value:
        case FromVariable():
            return str(value)
        case dict():
            return {key: _without_origin(inner) for key, inner in value.items()}
        case list():
            return [_without_origin(inner) for inner in value]
    return value
