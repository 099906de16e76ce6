"""The zygote's memory as the brain sees it: how workers share it, and whether the next may try.

Knows what a zygote said and how it ended; refuses to know how memory is shared.
"""

from __future__ import annotations

from dims.config import MemorySharing
from dims.ipc.words.failures import ExitStatus
from dims.ipc.words.sharing import Sharing
from dims.ipc.words.states import Manner
from dims.supervisor.brain.providers.subscriptions import Subscription, Subscriptions
from dims.supervisor.core.facts import Incarnation
from dims.supervisor.units.units import ZYGOTE


class ZygoteMemory:
    """Of one brain. A zygote that ends before it is ready may have died of its immortal heap: all
    that follow copy, until there is another brain."""

    def __init__(self, wanted: MemorySharing) -> None:
        self._copy_because = "bots.yaml says so (fleet.sharing)"
        if wanted is MemorySharing.AUTO:
            self._copy_because = ""
        self._awaited: Incarnation | None = None
        self._sharing: Sharing | None = None

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Hears of zygotes from now on, and tells the next what it may do."""
        subscription = Subscription(Sharing, self.ready, options=self.options, on_gone=self.ended)
        subscriptions.subscribe(ZYGOTE, subscription)

    def options(self, incarnation: Incarnation) -> list[str]:
        """For the command of a zygote: why its memory shall be copied; empty if it may not be."""
        self._awaited = incarnation
        return ["--copy-because", self._copy_because]

    def ready(self, said: Sharing) -> None:
        """A zygote is ready."""
        self._sharing = said
        self._awaited = None

    def ended(self, incarnation: Incarnation, status: ExitStatus) -> None:
        """A zygote is gone."""
        self._sharing = None
        if incarnation == self._awaited and not self._copy_because:
            self._copy_because = f"a zygote ended before it was ready ({status}); its log says why"

    def shown(self) -> tuple[Manner | None, str | None]:
        """For operators: how it is shared, and why; both None while no zygote is ready."""
        if self._sharing is None:
            return None, None
        return self._sharing.sharing, self._sharing.sharing_reason
