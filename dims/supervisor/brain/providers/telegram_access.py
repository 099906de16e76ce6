"""Where Telegram is, and the token of each bot there: configured, or made by the sandbox."""

from __future__ import annotations

from pathlib import Path

from dims.errors import ServiceError
from dims.ipc.words.services import SandboxReady
from dims.ipc.words.terms import TelegramAddress
from dims.supervisor.brain.providers.subscriptions import Subscription, Subscriptions
from dims.supervisor.brain.roster import Roster
from dims.supervisor.core.facts import UnitId
from dims.supervisor.units.bot_father import make_bots
from dims.supervisor.units.units import SANDBOX
from dims.supervisor.units.worker_terms import configured_address, sandbox_address


class TelegramAccess:
    """The Telegram of one fleet. Raises ServiceError when its public key cannot be read."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.address: TelegramAddress | None = configured_address(roster.config)
        """None until the sandbox listens."""
        self._tokens: dict[str, str] = {
            unit: bot.token.get_secret_value() for unit, bot in roster.bots.items() if bot.token
        }
        self._refused: dict[str, str] = {}
        """Bots that the sandbox makes no account for, and why."""

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Hears of a sandbox from now on."""
        subscriptions.subscribe(SANDBOX, Subscription(SandboxReady, self._sandbox_ready))

    def token(self, unit: UnitId) -> str:
        """The bot's token, or an empty text while it has none."""
        return self._tokens.get(unit, "")

    def refuse(self, unit: UnitId) -> None:
        """Raises ServiceError for a bot that the sandbox makes no account for."""
        if unit in self._refused:
            raise ServiceError(f"the sandbox makes no such bot: {self._refused[unit]}")

    async def _sandbox_ready(self, said: SandboxReady) -> None:
        """The sandbox listens: bots get their accounts there before any of them starts."""
        wanted: dict[str, str | None] = {
            unit: bot.token.get_secret_value() if bot.token else None
            for unit, bot in self._roster.bots.items()
        }
        try:
            self.address = sandbox_address(said)
            path = Path(self._roster.layout.sandbox_socket)
            made, self._refused = await make_bots(str(path), wanted)
        except (ServiceError, OSError) as error:
            raise ServiceError(f"no bots in the sandbox: {error}") from error
        self._tokens.update(made)
