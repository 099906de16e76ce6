"""What the brain answers on its control socket. Knows requests; acts on nothing itself."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from dims.errors import RefusedError, UsageError
from dims.ipc.wire.envelope import Envelope
from dims.supervisor.brain.requests.overview import Overview
from dims.supervisor.brain.requests.telling import Teller
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core.facts import AskedRestart, AskedStart, AskedStop, UnitId
from dims.supervisor.units.units import STEWARD
from dims.system.peer import Peer

ROTATES_WITHIN_S = 120.0
"""A thousand verifiers are some seconds of hashing."""
_FACTS: Mapping[str, type[AskedStart | AskedStop | AskedRestart]] = {
    "start": AskedStart,
    "stop": AskedStop,
    "restart": AskedRestart,
}


class Operators:
    """Answers requests of operators: `handle` suits a `RequestServer`."""

    def __init__(self, supervisor: ProcessSupervisor, teller: Teller) -> None:
        self._supervisor = supervisor
        self._teller = teller
        self._overview = Overview(supervisor)

    async def handle(self, peer: Peer, request: Envelope) -> Mapping[str, Any]:
        """The answer to one request; raises a DimsError, which is answered as such."""
        body = request.body
        match request.kind:
            case "status":
                return self._overview.status()
            case "health":
                return self._overview.health()
            case "start" | "stop" | "restart":
                return self.ask(request.kind, body, f"asked by user {peer.uid}")
            case "explain":
                return self._overview.explain(self._one(body.get("bot")))
            case "storage":
                return self._overview.storage()
            case "rotate":
                return await self._rotate(body)
            case "tell":
                return await self._teller.tell(self._one(body.get("bot")), body)
            case "shutdown":
                self._supervisor.shut_down()
                return {}
            case _:
                raise RefusedError(
                    f"this supervisor does not know {request.kind!r}",
                    hint="it may be older than this `dims`: restart it",
                )

    async def _rotate(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """New passwords for the database roles of `bots` (ids and globs; without it: all)."""
        self._supervisor.storage.check_rotates()
        bots = matching(body.get("bots") or ["*"], list(self._supervisor.roster.bots))
        order = {"bots": bots, "end_sessions": bool(body.get("end_sessions"))}
        return await self._supervisor.links.request(STEWARD, "rotate", order, ROTATES_WITHIN_S)

    def of_bot(self, bot: UnitId, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a control command of a bot that may give it; raises a DimsError.

        `start`, `stop` and `restart` take `bots` as operators do; without it the bot means itself.
        """
        if kind == "status":
            return self._overview.status()
        wanted = body.get("bots", [bot])
        return self.ask(kind, {"bots": wanted}, f"asked by bot {bot}")

    def ask(self, kind: str, body: Mapping[str, Any], reason: str) -> Mapping[str, Any]:
        """Starts, stops or restarts `bots` (ids and globs), or with `new` those never asked for."""
        if self._supervisor.is_stopping:
            raise RefusedError("the fleet is stopping", hint="`dims start` once it is stopped")
        if body.get("new"):
            known = self._supervisor.store.units()
            wanted = [unit for unit in self._supervisor.roster.bots if unit not in known]
        else:
            wanted = matching(body.get("bots"), list(self._supervisor.roster.bots))
        self._supervisor.engine.post_all(wanted, _FACTS[kind](reason))
        return {"bots": wanted}

    def _one(self, wanted: object) -> UnitId:
        known = list(self._supervisor.roster.bots)
        if wanted not in known:
            raise _no_such_bot(str(wanted), known)
        return UnitId(str(wanted))


def matching(patterns: object, known: Sequence[UnitId]) -> list[UnitId]:
    """The bots among `known` whose ids match any of the globs; UsageError for one that matches
    none."""
    if not isinstance(patterns, list) or not patterns:
        raise UsageError("name at least one bot, or '*' for all")
    ids = frozenset(known)
    wanted: dict[UnitId, None] = {}
    for pattern in map(str, patterns):
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
