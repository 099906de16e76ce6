"""What a process gets once it is known, secrets included: a worker its terms, a service its own."""

from __future__ import annotations

from dataclasses import replace

from dims.ipc.words.terms import FreshSettings, WorkerTerms
from dims.supervisor.brain.providers.fleet_storage import FleetStorage
from dims.supervisor.brain.providers.telegram_access import TelegramAccess
from dims.supervisor.brain.roster import Roster
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units.worker_terms import worker_terms


class Welcoming:
    """Makes the terms of workers."""

    def __init__(self, roster: Roster, telegram: TelegramAccess, storage: FleetStorage) -> None:
        self._roster = roster
        self._telegram = telegram
        self._storage = storage
        self.reloaded: dict[UnitId, FreshSettings] = {}
        """What bots that were told to reload have instead of what this brain has read."""

    def terms(self, unit: UnitId) -> WorkerTerms | None:
        """What a bot's worker is told; None for what is no bot of bots.yaml, or has no Telegram."""
        bot, address = self._roster.bots.get(unit), self._telegram.address
        if bot is None or address is None:
            return None
        config, layout = self._roster.config, self._roster.layout
        storage, token = self._storage.worker_terms(unit), self._telegram.token(unit)
        terms = worker_terms(config, layout, bot, address, token, storage=storage)
        fresh = self.reloaded.get(unit)
        return terms if fresh is None else replace(terms, own=fresh)
