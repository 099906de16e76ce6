"""One RPC request on its way to a handler: who asks what, where, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from dims.sandbox.rpc.requests import RpcFault
from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.hub import ClientLink, Hub
from dims.sandbox.telegram.keyring import AuthKey
from dims.sandbox.telegram.world import World


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where clients connect; `public_key_file` is what they must add to their RSA keys."""

    host: str
    port: int
    dc_id: int
    public_key_file: str

    def to_json(self) -> dict[str, Any]:
        """As in address.json."""
        return {
            "host": self.host,
            "port": self.port,
            "dc_id": self.dc_id,
            "public_key_file": self.public_key_file,
        }


class ServerInfo(Protocol):
    """What handlers may know about the server."""

    @property
    def address(self) -> ListenAddress: ...


@dataclass(frozen=True, slots=True)
class Call:
    """A request by a client that may not be signed in; `now_s` is Unix time."""

    server: ServerInfo
    hub: Hub
    link: ClientLink
    key: AuthKey
    request: Any
    name: str
    now_s: float

    @property
    def world(self) -> World:
        """All accounts."""
        return self.hub.world

    def sign(self, bot: Bot) -> Signed:
        """The same request, by `bot`."""
        return Signed(
            self.server, self.hub, self.link, self.key, self.request, self.name, self.now_s, bot
        )

    def duplicated(self) -> RpcFault:
        """Kills the key, which two connections use at once, and gives the answer to that."""
        bot = None if self.key.account_id is None else self.world.bots.get(self.key.account_id)
        if bot is not None and not self.key.is_duplicated:
            self.hub.tally(bot).duplicated += 1
        self.key.is_duplicated = True
        self.hub.store.save_key(self.key)
        return RpcFault(406, "AUTH_KEY_DUPLICATED")


@dataclass(frozen=True, slots=True)
class Signed(Call):
    """A request by a signed-in bot."""

    bot: Bot
