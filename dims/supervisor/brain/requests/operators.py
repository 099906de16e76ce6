"""What the brain answers on its control socket. Knows requests; acts on nothing itself."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dims.errors import ProtocolError, RefusedError, UsageError
from dims.ipc.wire.envelope import Envelope
from dims.ipc.wire.sentences import Vocabulary, written
from dims.ipc.words.asked import (
    ExplainBot,
    RestartBots,
    RotatePasswords,
    ShowHealth,
    ShowStatus,
    ShowStorage,
    ShutDown,
    StartBots,
    StopBots,
    TellBot,
)
from dims.ipc.words.operator import BotsAsked
from dims.supervisor.brain.requests.overview import Overview
from dims.supervisor.brain.requests.telling import Teller
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core.facts import AskedRestart, AskedStart, AskedStop, UnitId
from dims.supervisor.units.units import STEWARD
from dims.system.peer import Peer

ROTATES_WITHIN_S = 120.0
"""A thousand verifiers are some seconds of hashing."""
BotsOrder = StartBots | StopBots | RestartBots
BY_BOTS = Vocabulary(ShowStatus, StartBots, StopBots, RestartBots)
BY_OPERATORS = Vocabulary(
    *BY_BOTS.values(), ShowHealth, ShowStorage, ExplainBot, RotatePasswords, TellBot, ShutDown
)
_FACTS: Mapping[type[BotsOrder], type[AskedStart | AskedStop | AskedRestart]] = {
    StartBots: AskedStart,
    StopBots: AskedStop,
    RestartBots: AskedRestart,
}


class Operators:
    """Answers requests of operators: `handle` suits a `RequestServer`."""

    def __init__(self, supervisor: ProcessSupervisor, teller: Teller) -> None:
        self._supervisor = supervisor
        self._teller = teller
        self._overview = Overview(supervisor)

    async def handle(self, peer: Peer, request: Envelope) -> Mapping[str, Any]:
        """The answer to one request; raises a DimsError, which is answered as such."""
        asked = _read(BY_OPERATORS, request.kind, request.body)
        return written(await self._answer(asked, f"asked by user {peer.uid}"))

    async def _answer(self, asked: Any, reason: str) -> object:
        match asked:
            case ShowStatus():
                return self._overview.status()
            case ShowHealth():
                return self._overview.health()
            case ShowStorage():
                return self._overview.storage()
            case ExplainBot(bot):
                return self._overview.explain(self._one(bot))
            case RotatePasswords():
                return await self._rotate(asked)
            case TellBot(bot):
                return await self._teller.tell(self._one(bot), asked)
            case ShutDown():
                self._supervisor.shut_down()
                return {}
            case order:
                return self.ask(order, reason)

    async def _rotate(self, asked: RotatePasswords) -> Mapping[str, Any]:
        self._supervisor.storage.check_rotates()
        bots = matching(asked.bots or ("*",), list(self._supervisor.roster.bots))
        order = written(replace(asked, bots=tuple(bots)))
        return await self._supervisor.links.request(STEWARD, asked.kind, order, ROTATES_WITHIN_S)

    def of_bot(self, bot: UnitId, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a control command of a bot that may give it; raises a DimsError.

        `start`, `stop` and `restart` take `bots` as operators do; without it the bot means itself.
        """
        match _read(BY_BOTS, kind, body):
            case ShowStatus():
                return written(self._overview.status())
            case StartBots(wanted):
                order: BotsOrder = StartBots(_or_itself(wanted, bot))
            case asked:
                order = replace(asked, bots=_or_itself(asked.bots, bot))
        return written(self.ask(order, f"asked by bot {bot}"))

    def ask(self, order: BotsOrder, reason: str) -> BotsAsked:
        """Starts, stops or restarts what is meant; raises RefusedError while the fleet stops, and
        UsageError for an order that names nobody."""
        if self._supervisor.is_stopping:
            raise RefusedError("the fleet is stopping", hint="`dims start` once it is stopped")
        wanted = self._meant(order)
        self._supervisor.engine.post_all(wanted, _FACTS[type(order)](reason))
        return BotsAsked(tuple(wanted))

    def _meant(self, order: BotsOrder) -> list[UnitId]:
        bots = list(self._supervisor.roster.bots)
        if isinstance(order, StartBots) and order.new:
            known = self._supervisor.store.units()
            return [unit for unit in bots if unit not in known]
        return matching(order.bots or (), bots)

    def _one(self, wanted: str) -> UnitId:
        known = list(self._supervisor.roster.bots)
        if wanted not in known:
            raise _no_such_bot(wanted, known)
        return UnitId(wanted)


def _read(known: Vocabulary, kind: str, body: Mapping[str, Any]) -> Any:
    """The request. Whoever asked wrongly is told so as one who uses DIMS wrongly: UsageError."""
    try:
        return known.read(kind, body, "this supervisor")
    except ProtocolError as error:
        raise UsageError(str(error)) from None


def _or_itself(wanted: tuple[str, ...] | None, bot: UnitId) -> tuple[str, ...]:
    return (bot,) if wanted is None else wanted


def matching(patterns: Sequence[str], known: Sequence[UnitId]) -> list[UnitId]:
    """The bots among `known` whose ids match any of the globs; UsageError for one that matches
    none."""
    if not patterns:
        raise UsageError("name at least one bot, or '*' for all")
    ids = frozenset(known)
    wanted: dict[UnitId, None] = {}
    for pattern in patterns:
        # A thousand bots that are named one by one are as many look-ups, not a million globs.
        found = [pattern] if pattern in ids else fnmatch.filter(known, pattern)
        if not found:
            raise _no_such_bot(pattern, known)
        wanted.update((UnitId(name), None) for name in found)
    return list(wanted)


def _no_such_bot(wanted: str, known: Sequence[UnitId]) -> UsageError:
    near = difflib.get_close_matches(wanted, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(
        f"there is no bot {wanted!r} in the running fleet{meant}",
        hint="bots.yaml is read when the supervisor starts: `dims stop`, then `dims start`",
    )
