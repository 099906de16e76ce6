"""Statements that lose data, or keep bots waiting for long. Pure; reads SQL, roughly.

Rough on the safe side: what merely looks like such a statement is one. Code inside DO blocks is
read as well; statements that such code puts together from pieces cannot be seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_TEXT = re.compile(r"'(?:[^']|'')*'")
_BODY = re.compile(r"(\$\w*\$).*?\1", re.DOTALL)
_NAME = r'((?:"[^"]+"|\w+)(?:\.(?:"[^"]+"|\w+))?)'
_LOSES = (
    (re.compile(r"\bDROP\s+TABLE\b"), "drops a table with its rows"),
    (re.compile(r"\bDROP\s+SCHEMA\b"), "drops a schema with all that is in it"),
    (re.compile(r"\bTRUNCATE\b"), "empties a table"),
    (re.compile(r"\bALTER\s+TABLE\b.*\bDROP\s+(?:COLUMN\s|(?!CONSTRAINT|DEFAULT|NOT\s|EXPRESSION|"
                r"IDENTITY|COLUMN)\w)"), "drops a column with its values"),
    (re.compile(r"\bDISABLE\s+ROW\s+LEVEL\b|\bNO\s+FORCE\s+ROW\s+LEVEL\b"),
     "takes tenants apart no longer"),
)  # fmt: skip
_WAITS = (
    (re.compile(rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_NAME}.*\bSET\s+NOT\s+NULL\b"),
     "reads the whole table while nobody may use it"),
    (re.compile(rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_NAME}.*\bALTER\b.*\bTYPE\b"),
     "may write the whole table anew while nobody may use it"),
    (re.compile(rf"\bALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?{_NAME}.*\bADD\s+"
                r"(?:CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN|EXCLUDE)(?!.*\bNOT\s+VALID\b)"),
     "reads the whole table while nobody may write to it"),
    (re.compile(rf"\bCREATE\s+(?:UNIQUE\s+)?INDEX\s+(?!CONCURRENTLY)(?:\S+\s+)*?ON\s+(?!ONLY\b)"
                rf"{_NAME}"), "makes an index while nobody may write to the table"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Risk:
    """Why a statement is not run unasked."""

    why: str
    table: str = ""
    """Only a risk when this table is big; empty: always one."""


def risks(statement: str) -> Iterator[Risk]:
    """What may go wrong with a statement; nothing for the harmless ones."""
    sql = _TEXT.sub("''", _COMMENT.sub(" ", statement))
    if not re.match(r"\s*DO\b", sql, re.IGNORECASE):
        sql = _BODY.sub("''", sql)
    # Names keep their case; what is looked for does not.
    for part in sql.split(";"):
        flat = " ".join(part.split())
        upper = flat.upper()
        if re.match(r"(GRANT|REVOKE|CREATE (OR REPLACE )?(TRIGGER|POLICY)|COMMENT)\b", upper):
            continue
        for pattern, why in _LOSES:
            if pattern.search(upper):
                yield Risk(why)
        for pattern, why in _WAITS:
            found = re.compile(pattern.pattern, re.IGNORECASE | re.DOTALL).search(flat)
            if found:
                yield Risk(why, found[1])
