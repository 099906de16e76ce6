"""The zygote's memory as the brain sees it: how workers share it, and whether the next may try.

Pure. Knows what a zygote said and how it ended; refuses to know how memory is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dims.config import MemorySharing
from dims.ipc.words.failures import ExitStatus
from dims.ipc.words.sharing import Sharing
from dims.supervisor.core.facts import Incarnation


class ZygoteMemory:
    """Of one brain. A zygote that ends before it is ready may have died of its immortal heap: all
    that follow copy, until there is another brain."""

    def __init__(self, wanted: MemorySharing) -> None:
        self._copy_because = "bots.yaml says so (fleet.sharing)"
        if wanted is MemorySharing.AUTO:
            self._copy_because = ""
        self._awaited: Incarnation | None = None
        self._sharing: Sharing | None = None

    def copy_because(self, incarnation: Incarnation) -> str:
        """Why this zygote, which is ordered now, shall have its memory copied; empty if not."""
        self._awaited = incarnation
        return self._copy_because

    def ready(self, said: Mapping[str, Any]) -> None:
        """A zygote is ready. Raises KeyError or ValueError when it does not say how it shares."""
        self._sharing = Sharing.from_wire(said)
        self._awaited = None

    def ended(self, incarnation: Incarnation, status: ExitStatus) -> None:
        """A zygote is gone."""
        self._sharing = None
        if incarnation == self._awaited and not self._copy_because:
            self._copy_because = f"a zygote ended before it was ready ({status}); its log says why"

    def shown(self) -> Mapping[str, Any]:
        """For operators: `sharing` and `sharing_reason`, both None while no zygote is ready."""
        if self._sharing is None:
            return {"sharing": None, "sharing_reason": None}
        return self._sharing.to_wire()
