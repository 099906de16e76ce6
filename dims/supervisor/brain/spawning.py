"""Processes of units: ordered from zygote or keeper, watched, signalled, and seen to end.

Translates between orders of the engine and what zygote, keeper and kernel say; decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dims.errors import DimsError
from dims.ipc.wire.envelope import Priority
from dims.ipc.words.failures import Exit, ExitsHeard, ExitStatus, FailureClass
from dims.ipc.words.forks import AllTold, Fork, Forked, ForkFailed
from dims.ipc.words.keeping import SpawnDone, SpawnRefused
from dims.supervisor.brain.bonds.keeper_link import KeeperLink
from dims.supervisor.brain.bonds.links import Links
from dims.supervisor.brain.bonds.processes import Processes
from dims.supervisor.brain.engine import Engine
from dims.supervisor.brain.roster import Roster
from dims.supervisor.brain.store import Store
from dims.supervisor.core.facts import Exited, Incarnation, Spawned, SpawnFailed, UnitId
from dims.supervisor.core.orders import Stop
from dims.supervisor.core.states import UnitRecord
from dims.supervisor.units.units import ZYGOTE, UnitKind

Refuse = Callable[[UnitId], None]
"""Raises a DimsError for a bot that cannot start."""


class Spawning:
    """Makes and ends the processes of a fleet."""

    def __init__(
        self,
        roster: Roster,
        store: Store,
        engine: Engine,
        *,
        links: Links,
        keeper: KeeperLink,
        refusals: tuple[Refuse, ...],
    ) -> None:
        self._roster = roster
        self._store = store
        self._engine = engine
        self._links = links
        self._keeper = keeper
        self._refusals = refusals
        self.processes = Processes(self._gone)
        self.on_gone: Callable[[UnitId, Incarnation, ExitStatus], None] = lambda *_: None
        """Called when a unit's process has ended, after the engine knows."""
        self.options: Callable[[UnitId, Incarnation], list[str]] = lambda *_: []
        """What the command of a service has besides what its record says."""
        self._doubtful: dict[UnitId, Incarnation] = {}
        """Forks that an earlier link to the zygote may have lost."""

    # What the engine orders

    def spawn(self, unit: UnitId, incarnation: Incarnation) -> None:
        """Orders a process from the zygote (bots) or the keeper (the others)."""
        try:
            whose, done = self._order(unit, incarnation)
        except DimsError as error:
            fact = SpawnFailed(incarnation, FailureClass.NEEDS_OPERATOR, str(error))
            self._engine.post(unit, fact)
            return
        if not done:
            reason = f"there is no {whose} to start it"
            self._engine.post(unit, SpawnFailed(incarnation, FailureClass.CRASH, reason))

    def _order(self, unit: UnitId, incarnation: Incarnation) -> tuple[str, bool]:
        layout = self._roster.layout
        service = self._roster.services.get(unit)
        if service is not None:
            argv = service.argv(self._roster.config, layout, incarnation)
            argv += self.options(unit, incarnation)
            tag = f"{unit}/{incarnation}"
            return "keeper", self._keeper.spawn(tag, argv, str(layout.log(unit)))
        for refuse in self._refusals:
            refuse(unit)
        directory, socket = str(self._roster.config.directory), str(layout.bot_socket)
        order = Fork(unit, incarnation, str(layout.log(unit)), directory, socket)
        return "zygote", self._links.say(ZYGOTE, order, Priority.HIGH)

    def signal(self, record: UnitRecord, stop: Stop) -> None:
        """Signals the unit's process, if its pid is known yet."""
        if record.pid is not None:
            self.processes.send(record.pid, stop)

    def drop_session(self, unit: UnitId) -> None:
        """Removes the stored session: the next start logs in anew."""
        self._roster.layout.session(unit).unlink(missing_ok=True)
        self._roster.layout.update_state(unit).unlink(missing_ok=True)

    # What the keeper says

    def keeper_said(self, said: SpawnDone | SpawnRefused | Exit) -> None:
        """What became of an order, or that some child of the keeper ended."""
        match said:
            case SpawnDone():
                self._exists(*_of_tag(said.tag), said.pid, said.started)
            case SpawnRefused():
                unit, incarnation = _of_tag(said.tag)
                fact = SpawnFailed(incarnation, FailureClass.CRASH, said.reason)
                self._engine.post(unit, fact)
            case Exit():
                self.processes.exited(said)

    # What the zygote says

    def zygote_joined(self) -> None:
        """A zygote connects: what it does not tell of by `AllTold` it was never ordered."""
        self._doubtful = self._unanswered()

    def zygote_said(self, said: Forked | ForkFailed | Exit | AllTold) -> None:
        """What became of an order, that a worker ended, or that all this has been said."""
        match said:
            case Forked():
                unit, incarnation = UnitId(said.unit), Incarnation(said.incarnation)
                self._exists(unit, incarnation, said.pid, said.started)
            case ForkFailed():
                fact = SpawnFailed(Incarnation(said.incarnation), FailureClass.CRASH, said.reason)
                self._engine.post(UnitId(said.unit), fact)
            case Exit():
                self.processes.exited(said)
                self._links.say(ZYGOTE, ExitsHeard(((said.pid, said.started),)))
            case AllTold():
                self._give_up(self._doubtful, "the zygote lost the order")
                self._doubtful = {}

    def _exists(self, unit: UnitId, incarnation: Incarnation, pid: int, started: int) -> None:
        record = self._engine.records.get(unit)
        if record is None or not record.alive or record.incarnation != incarnation or record.pid:
            # Told again by a zygote that reconnected, or of a former brain's bot.
            return
        self._store.process(unit, pid, started)
        # Watched first: a stop that came before the process did is signalled on `Spawned`.
        self.processes.watch(unit, incarnation, pid, started)
        self._engine.post(unit, Spawned(incarnation, pid))
        self._links.settle(unit)

    def _gone(self, unit: UnitId, incarnation: Incarnation, status: ExitStatus) -> None:
        if self._engine.records[unit].incarnation == incarnation:
            self._store.process(unit, None, None)
        self._engine.post(unit, Exited(incarnation, status))
        self.on_gone(unit, incarnation, status)
        if unit == ZYGOTE:
            self._give_up(self._unanswered(), "the zygote ended while it forked")

    def _unanswered(self) -> dict[UnitId, Incarnation]:
        """Bots that a process was ordered for, of which nobody has heard yet."""
        records = (self._engine.records[unit] for unit in self._roster.of_kind(UnitKind.BOT))
        return {r.unit: r.incarnation for r in records if r.alive and r.pid is None}

    def _give_up(self, forks: Mapping[UnitId, Incarnation], reason: str) -> None:
        """What the zygote did not answer it never will.

        Should such a child live, it is turned away at its hello, and its lease is not ours to give.
        """
        for unit, incarnation in forks.items():
            if self._engine.records[unit].pid is None:
                self._engine.post(unit, SpawnFailed(incarnation, FailureClass.CRASH, reason))


def _of_tag(tag: str) -> tuple[UnitId, Incarnation]:
    unit, _, number = tag.rpartition("/")
    return UnitId(unit), Incarnation(int(number))
