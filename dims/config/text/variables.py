"""Variables: the `${NAME}` in text values, and the .env file beside bots.yaml.

Knows neither YAML nor models. A value never appears in a fault, only names do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dims.config.text.faults import Fault, Mark
from dims.wording import did_you_mean

OWN_NAMES = frozenset({"TELEGRAM_API_ID", "TELEGRAM_API_HASH"})
"""Names DIMS reads from the environment by itself, without a ${NAME} in the file."""

_REFERENCE = re.compile(r"\$(?:(?P<escape>\$)|\{(?P<name>[^}]*)(?P<end>\}?))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*(?P<value>.*)")
_QUOTED = re.compile(r"(?P<quote>['\"])(?P<inside>(?:(?!(?P=quote)).)*)(?P=quote)\s*(?:#.*)?")
_COMMENT = re.compile(r"(?:^|\s+)#.*$")


class FromVariable(str):
    """Text that holds the value of a variable: never repeated in a fault."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Filled:
    """A text after substitution: the value, the names it used, and what was wrong."""

    value: str
    names: tuple[str, ...]
    faults: tuple[str, ...]


def names_in(text: str) -> Iterator[str]:
    """Every well-formed NAME that stands as ${NAME} in the text."""
    for match in _REFERENCE.finditer(text):
        name = match["name"]
        if name is not None and match["end"] and _NAME.fullmatch(name):
            yield name


def fill(text: str, environ: Mapping[str, str]) -> Filled:
    """The text with ${NAME} replaced and $$ turned to $; a lone $ stays as it is."""
    if "$" not in text:
        return Filled(text, (), ())
    faults: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match["escape"]:
            return "$"
        if not match["end"] or not _NAME.fullmatch(match["name"]):
            faults.append("only ${NAME} with letters, digits and _ can be filled in ($$ is a $)")
            return ""
        if match["name"] not in environ:
            faults.append(_unset(match["name"], environ))
            return ""
        return environ[match["name"]]

    value = _REFERENCE.sub(replace, text)
    names = tuple(names_in(text))
    return Filled(FromVariable(value) if names else value, names, tuple(faults))


def _unset(name: str, environ: Mapping[str, str]) -> str:
    return (
        f"the variable {name} is not set; set it in the environment or in .env beside this file."
        f"{did_you_mean(name, environ)}"
    )


def read_dotenv(path: Path) -> tuple[dict[str, str], list[Fault]]:
    """The NAME=value lines of a .env file, and its faults; a missing file is an empty one.

    Quotes around a value are removed, `export ` and comments are understood, nothing is
    expanded.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}, []
    except UnicodeDecodeError:
        return {}, [Fault(path.name, Mark(1, 1), "is not UTF-8 text; save it as UTF-8")]
    except OSError as error:
        return {}, [Fault(path.name, Mark(1, 1), f"cannot be read: {error.strerror}")]
    values: dict[str, str] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not (stripped := line.strip()) or stripped.startswith("#"):
            continue
        if match := _ASSIGNMENT.fullmatch(stripped):
            values[match["name"]] = _unquoted(match["value"])
        else:
            faults.append(Fault(path.name, Mark(number, 1), "this line is not NAME=value"))
    return values, faults


def _unquoted(value: str) -> str:
    match = _QUOTED.fullmatch(value)
    return match["inside"] if match else _COMMENT.sub("", value)
