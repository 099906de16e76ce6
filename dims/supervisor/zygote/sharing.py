"""How workers come by the zygote's memory: what it takes to share it for good, and what was done.

Pure: knows which interpreters count references in the known way; refuses to know how a count is
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

VERSIONS = ((3, 12), (3, 13))
"""CPython that has immortal objects with a count of the known layout (Include/object.h). 3.14 has
another one."""


class Manner(StrEnum):
    """Whether a worker shares the zygote's objects for good, or copies their pages as it runs."""

    IMMORTAL = "immortal"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a zygote does, and why; the reason is text for people, empty for `IMMORTAL`."""

    manner: Manner
    reason: str = ""

    def to_wire(self) -> dict[str, Any]:
        """As a JSON object, part of what a zygote says when it is ready."""
        return {"sharing": self.manner.value, "sharing_reason": self.reason}

    @classmethod
    def from_wire(cls, said: Mapping[str, Any]) -> Self:
        """The reverse. Raises KeyError or ValueError for what is no such object."""
        return cls(Manner(said["sharing"]), str(said["sharing_reason"]))


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
