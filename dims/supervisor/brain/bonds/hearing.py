"""What workers and services say, as facts for the engine and news for those whom it concerns.

Every sentence arrives here once, typed. What is said by a former incarnation, or by whom it does
not suit, goes no further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dims.errors import NotRunningError, RefusedError, UsageError
from dims.ipc.grants import BRAIN, Grants
from dims.ipc.wire.envelope import Priority
from dims.ipc.wire.sentences import Vocabulary, written
from dims.ipc.words.failures import Exit
from dims.ipc.words.fleet import (
    Beat,
    ConnectionsHeld,
    ControlCommand,
    Introduce,
    Introduced,
    MayServe,
    Whereabouts,
    Will,
    sound,
)
from dims.ipc.words.forks import AllTold, Forked, ForkFailed
from dims.ipc.words.operator import Readings
from dims.logs import one_line
from dims.supervisor.brain.bonds.links import Links
from dims.supervisor.brain.bonds.welcoming import Welcoming
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.providers.fleet_storage import FleetStorage
from dims.supervisor.brain.providers.subscriptions import Subscriptions
from dims.supervisor.brain.roster import Roster
from dims.supervisor.brain.spawning import Spawning
from dims.supervisor.core.facts import Heartbeat, Incarnation, LastWill, UnitId
from dims.supervisor.core.states import SERVING
from dims.supervisor.units.units import ZYGOTE

FROM_BOTS = Vocabulary(MayServe, Beat, Will, ConnectionsHeld)
FROM_SERVICES = Vocabulary(MayServe, Beat, Will)
FROM_ZYGOTES = Vocabulary(MayServe, Will, Forked, ForkFailed, Exit, AllTold)
ASKED_BY_BOTS = Vocabulary(Introduce, ControlCommand)
ASKED_BY_OTHERS = Vocabulary()

OnControl = Callable[[UnitId, str, Mapping[str, Any]], Mapping[str, Any]]


class Hearing:
    """Heeds all processes of a fleet; see `LinkNews`."""

    def __init__(
        self,
        roster: Roster,
        engine: Engine,
        links: Links,
        *,
        spawning: Spawning,
        subscriptions: Subscriptions,
        welcoming: Welcoming,
        storage: FleetStorage,
        grants: Grants,
    ) -> None:
        self._roster = roster
        self._engine = engine
        self._links = links
        self._spawning = spawning
        self._subscriptions = subscriptions
        self._welcoming = welcoming
        self._storage = storage
        self._grants = grants
        self.readings: dict[UnitId, Readings] = {}
        """The last readings of each process that lives."""
        self.on_control: OnControl = _no_control
        """What answers control commands of bots, whose grants are checked already."""

    def expects(self, unit: UnitId, incarnation: Incarnation, pid: int) -> bool | None:
        """Whether this very process may join; None while its pid is not known yet."""
        record = self._engine.records.get(unit)
        if record is None or not record.alive or record.incarnation != incarnation:
            return False
        return None if record.pid is None else record.pid == pid

    def welcome(self, unit: UnitId) -> object | None:
        """What a process is told once it is known; None for nothing."""
        if unit == ZYGOTE:
            self._spawning.zygote_joined()
        if unit in self._roster.services:
            return self._subscriptions.terms(unit)
        return self._welcoming.terms(unit)

    def heard(
        self, unit: UnitId, incarnation: Incarnation, kind: str, body: Mapping[str, Any]
    ) -> None:
        """A worker, zygote or service said something. Raises RefusedError for what this brain does
        not know of it, ProtocolError for what is malformed."""
        match self._vocabulary(unit).read(kind, body, "this supervisor"):
            case Beat() as said:
                self._beat(unit, incarnation, said)
            case MayServe() as said:
                self._subscriptions.ready(unit, incarnation, said.about)
            case Will() as said:
                reason = one_line(said.reason)
                fact = LastWill(incarnation, said.failure, reason, said.retry_after_s)
                self._engine.post(unit, fact)
            case ConnectionsHeld() as said:
                # What a process said before its end may be heard after it: then it holds nothing.
                if self._is_current(unit, incarnation):
                    self._storage.reported(unit, said)
            case said:
                self._spawning.zygote_said(said)

    def asked(self, unit: UnitId, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to what a worker asked. Raises a DimsError, which becomes the answer."""
        known = ASKED_BY_BOTS if self._roster.is_bot(unit) else ASKED_BY_OTHERS
        match known.read(kind, body, "this supervisor"):
            case Introduce(to):
                return written(self._introduce(unit, UnitId(to)))
            case ControlCommand(command, asked):
                return self._control(unit, command, asked)
        raise RefusedError(f"this supervisor does not know {kind!r}")

    def _vocabulary(self, unit: UnitId) -> Vocabulary:
        if unit == ZYGOTE:
            return FROM_ZYGOTES
        return FROM_BOTS if self._roster.is_bot(unit) else FROM_SERVICES

    def _is_current(self, unit: UnitId, incarnation: Incarnation) -> bool:
        record = self._engine.records[unit]
        return record.alive and record.incarnation == incarnation

    def _beat(self, unit: UnitId, incarnation: Incarnation, said: Beat) -> None:
        current = self._is_current(unit, incarnation)
        if current:
            self.readings[unit] = Readings(
                sound(said.unshared_bytes), sound(said.loop_lag_s), sound(said.updates)
            )
        self._engine.post(unit, Heartbeat(incarnation, one_line(str(said.trouble))))
        if current:
            self._storage.read(unit, said)

    def _control(self, unit: UnitId, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A control command of a bot, which needs a grant for exactly that."""
        if not self._grants.allows(unit, BRAIN, kind):
            raise RefusedError(
                f"no grant lets {unit} send {kind!r} to the brain",
                hint=f"bots.yaml: grants: [{{from: {unit}, to: brain, kinds: [{kind}]}}]",
            )
        return self.on_control(unit, kind, body)

    def _introduce(self, unit: UnitId, other: UnitId) -> Whereabouts:
        """Tells two workers who the other is: from then on they talk without the brain."""
        record = self._engine.records.get(other)
        if other not in self._roster.bots or record is None:
            raise UsageError(f"there is no bot {other!r}")
        if record.state not in SERVING or record.pid is None:
            raise NotRunningError(
                f"{other} is {record.state.value}", hint="a durable message waits until it runs"
            )
        asker = self._engine.records[unit]
        about = Introduced(unit, asker.pid or 0, asker.incarnation)
        if not self._links.say(other, about, Priority.URGENT):
            raise NotRunningError(f"{other} is not connected", hint="try again in a moment")
        path = str(self._roster.layout.peer_socket(other))
        return Whereabouts(record.pid, record.incarnation, path)


def _no_control(_unit: UnitId, kind: str, _body: Mapping[str, Any]) -> Mapping[str, Any]:
    raise RefusedError(f"this supervisor does not know {kind!r}")
