"""How workers come by the memory of their zygote, as zygote and brain tell it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dims.ipc.words.states import Manner


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a zygote does, and why; the reason is text for people, empty for `IMMORTAL`."""

    sharing: Manner
    sharing_reason: str = ""
