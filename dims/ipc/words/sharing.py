"""How workers come by the memory of their zygote, as it tells the brain and the brain operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


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
