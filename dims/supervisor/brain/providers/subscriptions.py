"""Who cares what a service says when it is ready, what it is told, and when it is gone.

A service is of use to others only once whoever subscribed to it has taken in what it said.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dims.errors import DimsError
from dims.ipc.wire.sentences import read
from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.tasks import Tasks
from dims.supervisor.core.facts import Incarnation, LastWill, Ready, UnitId
from dims.supervisor.core.orders import Stop
from dims.supervisor.core.states import UnitRecord


class Signals(Protocol):
    """Who can signal a unit's process."""

    def signal(self, record: UnitRecord, stop: Stop) -> None:
        """Signals it."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a service says as `about`, who hears it, and what the service is told."""

    about: type[Any] | None = None
    on_ready: Callable[[Any], Awaitable[None] | None] = lambda _said: None
    """Raises a DimsError or OSError when what was said is of no use."""
    terms: Callable[[], object | None] = lambda: None
    options: Callable[[Incarnation], list[str]] = lambda _incarnation: []
    """What its command has besides what its record says."""
    on_gone: Callable[[Incarnation, ExitStatus], None] = lambda _incarnation, _status: None


_NONE = Subscription()


class Subscriptions:
    """Those of one brain, at most one for each unit."""

    def __init__(self, engine: Engine, tasks: Tasks, signals: Signals) -> None:
        self._engine = engine
        self._tasks = tasks
        self._signals = signals
        self._by_unit: dict[UnitId, Subscription] = {}

    def subscribe(self, unit: UnitId, subscription: Subscription) -> None:
        """From now on `subscription` holds for what `unit` says and is told."""
        self._by_unit[unit] = subscription

    def terms(self, unit: UnitId) -> object | None:
        """What the unit's process is told in its welcome; None for nothing."""
        return self._by_unit.get(unit, _NONE).terms()

    def options(self, unit: UnitId, incarnation: Incarnation) -> list[str]:
        """Options for the command of this incarnation."""
        return self._by_unit.get(unit, _NONE).options(incarnation)

    def gone(self, unit: UnitId, incarnation: Incarnation, status: ExitStatus) -> None:
        """The unit's process has ended."""
        self._by_unit.get(unit, _NONE).on_gone(incarnation, status)

    def ready(self, unit: UnitId, incarnation: Incarnation, about: Mapping[str, Any]) -> None:
        """A unit may serve, as soon as its subscriber has taken in what it says of itself.

        Raises ProtocolError for something malformed.
        """
        subscription = self._by_unit.get(unit, _NONE)
        taken = None
        if subscription.about is not None:
            taken = subscription.on_ready(read(subscription.about, about))
        if taken is None:
            self._engine.post(unit, Ready(incarnation))
        else:
            self._tasks.begin(self._take_in(unit, incarnation, taken), f"take in {unit}")

    async def _take_in(
        self, unit: UnitId, incarnation: Incarnation, taken: Awaitable[None]
    ) -> None:
        try:
            await taken
        except (DimsError, OSError) as error:
            will = LastWill(incarnation, FailureClass.CRASH, str(error))
            self._engine.post(unit, will)
            # It does not know that it is to leave.
            self._signals.signal(self._engine.records[unit], Stop.TERM)
            return
        self._engine.post(unit, Ready(incarnation))
