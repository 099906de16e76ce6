"""Interpreters: which of them count references in the way that immortal objects need.

Pure. Knows versions and builds; refuses to know which one it runs on, and how a count is written.
"""

from __future__ import annotations

from dataclasses import dataclass

VERSIONS = ((3, 12), (3, 13))
"""CPython that has immortal objects with a count of the known layout (Include/object.h). 3.14 has
another one."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What decides how references are counted."""

    name: str
    version: tuple[int, int]
    pointer_bits: int
    byteorder: str
    has_gil: bool
    is_debug: bool


def refusal(interpreter: Interpreter) -> str:
    """Why objects cannot be made immortal there, for people; empty when they can."""
    version = ".".join(map(str, interpreter.version))
    if interpreter.name != "cpython":
        return f"{interpreter.name} is not CPython"
    if interpreter.version < VERSIONS[0]:
        return f"CPython {version} has no immortal objects; 3.12 is the first that has"
    if interpreter.version not in VERSIONS:
        return f"CPython {version} is not among the tested versions"
    if (interpreter.pointer_bits, interpreter.byteorder) != (64, "little"):
        return f"pointers have {interpreter.pointer_bits} bits, {interpreter.byteorder}-endian"
    if not interpreter.has_gil:
        return f"CPython {version} without a GIL counts in another way"
    return f"CPython {version} is a debug build" if interpreter.is_debug else ""
