"""Who belongs to the fleet: its bots, its services, and bots that bots.yaml no longer names.

Knows who is what and what each needs in order to start; refuses to know what becomes of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from dims.config import BotSettings, Config, ServerKind
from dims.layout import Layout
from dims.supervisor.core.facts import UnitId
from dims.supervisor.core.pacing import Wish
from dims.supervisor.core.states import Policy
from dims.supervisor.units.service_records import Service, services_of
from dims.supervisor.units.units import SERVICE_POLICY, UnitKind, policy_of


class Roster:
    """The units of one fleet."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self.config = config
        self.layout = layout
        self.bots: Mapping[UnitId, BotSettings] = {UnitId(bot.id): bot for bot in config.bots}
        """In the order of bots.yaml."""
        self.services: Mapping[UnitId, Service] = {
            service.unit: service for service in services_of(config)
        }
        """The zygote too."""
        self._forgotten: set[UnitId] = set()
        self._needs = frozenset(
            service.unit for service in self.services.values() if service.bots_need
        )

    @property
    def is_sandboxed(self) -> bool:
        """Whether the fleet talks to the local Telegram."""
        return self.config.telegram.server.kind is ServerKind.SANDBOX

    def forgotten(self, unit: UnitId) -> None:
        """A bot that bots.yaml no longer names: its process must not run on unseen."""
        self._forgotten.add(unit)

    def all(self) -> list[UnitId]:
        """Services first, then the bots."""
        return [*self.services, *self.bots, *self._forgotten]

    def is_bot(self, unit: UnitId) -> bool:
        """Whether a unit is a bot, named in bots.yaml or not."""
        return unit not in self.services

    def of_kind(self, kind: UnitKind) -> list[UnitId]:
        """All units of a kind."""
        match kind:
            case UnitKind.BOT:
                return [*self.bots, *self._forgotten]
            case UnitKind.SERVICE | UnitKind.ZYGOTE:
                return [unit for unit, service in self.services.items() if service.kind is kind]

    def policy(self, unit: UnitId) -> Policy:
        """How a unit lives."""
        if unit in self.services:
            return self.services[unit].policy
        bot = self.bots.get(unit)
        return SERVICE_POLICY if bot is None else policy_of(bot.restart, bot.limits)

    def wish(self, unit: UnitId) -> Wish:
        """What a unit needs to start; a bot's start is cold when no session of it is stored."""
        if unit in self.services:
            return Wish(unit)
        return Wish(unit, cold=not self.layout.session(unit).exists(), needs=self._needs)
