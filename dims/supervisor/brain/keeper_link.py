"""The brain's end of its link with the keeper: orders to spawn, and news of what ended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dims.errors import ProtocolError
from dims.ipc.links.channel import Channel
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.framing import FrameDecoder


class KeeperNews(Protocol):
    """What the brain wants to hear from the keeper."""

    def spawned(self, tag: str, pid: int, started: int) -> None:
        """The process asked for under `tag` exists."""

    def spawn_failed(self, tag: str, reason: str) -> None:
        """The process asked for under `tag` could not be made."""

    def asked_to_stop(self) -> None:
        """The keeper was told to end the fleet."""

    def exited(self, pid: int, started: int, code: int | None, signal: int | None) -> None:
        """A child of the keeper ended."""

    def keeper_lost(self) -> None:
        """The keeper is gone."""


def receive_welcome(sock: socket.socket) -> tuple[Mapping[str, Any], list[Envelope]]:
    """The body of the keeper's first message, and what came along with it. Blocks.

    Raises ProtocolError when anything else comes first or the keeper is gone.
    """
    decoder = FrameDecoder()
    while True:
        data = sock.recv(65_536)
        if not data:
            raise ProtocolError("the keeper left before it said welcome")
        messages = decoder.feed(data)
        if messages:
            break
    if messages[0].kind != "welcome" or decoder.pending_bytes:
        raise ProtocolError(f"the keeper said {messages[0].kind!r} instead of welcome")
    return messages[0].body, messages[1:]


class KeeperLink:
    """Speaks with the keeper; all methods return at once, and do nothing once it is gone."""

    def __init__(self, news: KeeperNews) -> None:
        self._news = news
        self._channel: Channel | None = None

    @property
    def is_there(self) -> bool:
        """Whether the keeper lives."""
        return self._channel is not None

    async def open(self, sock: socket.socket) -> None:
        """Serves the link from now on."""
        make: Callable[[], Channel] = lambda: Channel(  # noqa: E731 (asyncio wants a factory)
            self._heard, self._lost, name=Address("brain")
        )
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_connection(make, sock=sock)

    def catch_up(self, welcome: Mapping[str, Any], early: list[Envelope]) -> None:
        """Tells what ended while there was no brain, and what was read along with the welcome."""
        for exit_ in welcome["exits"]:
            self._exited(exit_)
        for message in early:
            self._heed(message)

    def spawn(self, tag: str, argv: list[str], log: str) -> bool:
        """Asks for a process; False when there is no keeper to ask."""
        return self._say("spawn", {"tag": tag, "argv": argv, "log": log})

    def up(self) -> None:
        """Says that this brain serves: from now on it is worth starting again."""
        self._say("up", {})

    def finished(self) -> bool:
        """Says that all is stopped and that no new brain is wanted; False without a keeper."""
        return self._say("finished", {})

    def _say(self, kind: str, body: Mapping[str, Any]) -> bool:
        if self._channel is None:
            return False
        self._channel.say(kind, body, to=Address("keeper"))
        return True

    def _heard(self, _channel: Channel, message: Envelope) -> None:
        self._heed(message)

    def _heed(self, message: Envelope) -> None:
        body = message.body
        match message.kind:
            case "spawned":
                self._news.spawned(body["tag"], body["pid"], body["started"])
            case "spawn_failed":
                self._news.spawn_failed(body["tag"], body["reason"])
            case "exited":
                self._exited(body)
            case "stop":
                self._say("stopping", {})
                self._news.asked_to_stop()

    def _exited(self, body: Mapping[str, Any]) -> None:
        self._news.exited(body["pid"], body["started"], body["code"], body["signal"])
        self._say("exited_ack", {"exits": [[body["pid"], body["started"]]]})

    def _lost(self, _channel: Channel, _reason: str) -> None:
        self._channel = None
        self._news.keeper_lost()
