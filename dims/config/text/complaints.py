"""Pydantic's findings in plain English: what is wrong and what would be right.

Knows pydantic's error types and no files. Values are repeated only where they are short,
simple and not from a variable.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from dims.config.text.document import ItemPath
from dims.config.text.variables import FromVariable
from dims.wording import did_you_mean, quoted

_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_too_short": "a text that is not empty",
    "too_short": "a text that is not empty",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "mapping_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}
_RANGES = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_MISSING = {
    "id": "give each bot a short name such as 'echo'",
    "handlers": "name the bot's code, such as examples/echo.py",
    "from": "say which bots may send",
    "to": "say which bots they may send to",
}
_LIKE_A_NUMBER = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?")
SECRETS = frozenset(
    {"token", "api_hash", "proxy", "settings", "database", "replica", "pooler", "redis"}
)


def validate(
    model: type[BaseModel], data: Any, section: str, also_known: tuple[str, ...] = ()
) -> tuple[Any, list[tuple[ItemPath, bool, str]]]:
    """The model made from the data, or None and (path, at the key?, text) for each fault.

    `section` is what the data is called; `also_known` are keys that the file may have beside
    the model's fields, to be suggested.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    return None, [_complaint(model, data, finding, section, also_known) for finding in found]


def _complaint(
    model: type[BaseModel], data: Any, finding: Any, section: str, also_known: tuple[str, ...]
) -> tuple[ItemPath, bool, str]:
    path: ItemPath = finding["loc"]
    name = str(path[-1]) if path else ""
    if finding["type"] == "extra_forbidden":
        known = [*_fields_at(model, path[:-1]), *also_known]
        return path, True, unknown_key(name, known)
    if finding["type"] == "missing":
        mend = _MISSING.get(name, "add it")
        return path, True, f"the key '{name}' is missing; {mend}"
    return path, False, _wrong_value(finding | {"input": _at(data, path)}, path, section)


def _at(data: Any, path: ItemPath) -> Any:
    """The value as it was before any validator touched it: only this one knows its origin."""
    for step in path:
        is_there = step in data if isinstance(data, dict) else isinstance(data, list)
        data = data[step] if is_there else None
    return data


def unknown_key(key: str, known: list[str]) -> str:
    """The fault text for a key that does not exist, with the nearest one or all of them."""
    suggestion = did_you_mean(key, known) or f" Possible here: {', '.join(known)}."
    return f"unknown key {quoted(key)}.{suggestion}"


def _fields_at(model: Any, path: ItemPath) -> list[str]:
    """The field names of the section that the path leads to."""
    for step in path:
        field = model.model_fields.get(step) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = field.annotation
    fields = getattr(model, "model_fields", {})
    return [field.alias or name for name, field in fields.items()]


def _wrong_value(finding: Any, path: ItemPath, section: str) -> str:
    kind, context, value = finding["type"], finding.get("ctx", {}), finding.get("input")
    name = next((str(step) for step in reversed(path) if isinstance(step, str)), section)
    shown = _shown(value, path)
    if kind in _RANGES:
        limit, words = _RANGES[kind]
        return f"{name} must be {words} {_digits(context[limit])}{shown}"
    if kind == "string_pattern_mismatch":
        return (
            f"{name} must be 1 to 32 lower-case letters, digits, '_' or '-', "
            f"and start with a letter{shown}"
        )
    if kind == "enum":
        return f"{name} must be {context['expected']}{shown}"
    if kind == "too_long":
        return f"{name} may have at most {context['max_length']} entries"
    if kind == "value_error":
        text = str(context["error"])
        return text if text.startswith(f"{name} ") else f"{name} {text}{shown}"
    wanted = _WANTED.get(kind)
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"{name} must be text{shown}; put it in quotes"
    return f"{name} must be {wanted}{shown}" if wanted else f"{name}: {finding['msg']}"


def _digits(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _shown(value: Any, path: ItemPath) -> str:
    """`, not 'x'` for harmless values; a number in quotes is told to drop them."""
    if SECRETS.intersection(map(str, path)):
        return ""
    shown = ""
    match value:
        case FromVariable():
            shown = ", which the value of the variable is not"
        case None | "":
            shown = ", not empty"
        case bool():
            shown = f", not {str(value).lower()}"
        case int() | float() if abs(value) < 1e15:
            shown = f", not {value:.15g}"
        case str() if _LIKE_A_NUMBER.fullmatch(value):
            shown = f", not text: write {value} without quotes"
        case str():
            shown = f", not {quoted(value)}"
        case [] | ():
            shown = ", not an empty list"
        case list() | tuple():
            shown = ", not a list"
        case dict():
            shown = ", not a mapping"
    return shown
