"""The brain's end of its link with the keeper: orders to spawn, and news of what ended."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from dims.errors import DimsError, ProtocolError
from dims.ipc.links.channel import Channel
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.framing import FrameDecoder
from dims.ipc.wire.sentences import Sentence, Vocabulary, read, written
from dims.ipc.words.failures import Exit, ExitsHeard
from dims.ipc.words.keeping import (
    Finished,
    KeeperWelcome,
    Launch,
    SpawnDone,
    SpawnRefused,
    StopFleet,
    Stopping,
    Up,
)

_log = logging.getLogger(__name__)


FROM_KEEPER = Vocabulary(StopFleet, SpawnDone, SpawnRefused, Exit)


class KeeperNews(Protocol):
    """What the brain wants to hear from the keeper."""

    def keeper_said(self, said: SpawnDone | SpawnRefused | Exit) -> None:
        """What became of an order, or that a child of the keeper ended."""

    def asked_to_stop(self) -> None:
        """The keeper was told to end the fleet."""

    def keeper_lost(self) -> None:
        """The keeper is gone."""


def receive_welcome(sock: socket.socket) -> tuple[KeeperWelcome, list[Envelope]]:
    """The keeper's first sentence, and what came along with it. Blocks.

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
    if messages[0].kind != KeeperWelcome.kind or decoder.pending_bytes:
        raise ProtocolError(f"the keeper said {messages[0].kind!r} instead of welcome")
    return read(KeeperWelcome, messages[0].body), messages[1:]


class KeeperLink:
    """Speaks with the keeper; all methods return at once, and do nothing once it is gone."""

    def __init__(self) -> None:
        self._channel: Channel | None = None

    @property
    def is_there(self) -> bool:
        """Whether the keeper lives."""
        return self._channel is not None

    async def open(self, sock: socket.socket, news: KeeperNews) -> None:
        """Serves the link from now on."""
        self._news = news
        make: Callable[[], Channel] = lambda: Channel(  # noqa: E731 (asyncio wants a factory)
            self._heard, self._lost, name=Address("brain")
        )
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, self._channel = await loop.create_connection(make, sock=sock)

    def catch_up(self, welcome: KeeperWelcome, early: list[Envelope]) -> None:
        """Tells what ended while there was no brain, and what was read along with the welcome."""
        for exit_ in welcome.exits:
            self._exited(exit_)
        for message in early:
            self._heed(message)

    def spawn(self, tag: str, argv: list[str], log: str) -> bool:
        """Asks for a process; False when there is no keeper to ask."""
        return self._say(Launch(tag, tuple(argv), log))

    def up(self) -> None:
        """Says that this brain serves: from now on it is worth starting again."""
        self._say(Up())

    def finished(self) -> bool:
        """Says that all is stopped and that no new brain is wanted; False without a keeper."""
        return self._say(Finished())

    def _say(self, sentence: Sentence) -> bool:
        if self._channel is None:
            return False
        self._channel.say(sentence.kind, written(sentence), to=Address("keeper"))
        return True

    def _heard(self, _channel: Channel, message: Envelope) -> None:
        self._heed(message)

    def _heed(self, message: Envelope) -> None:
        try:
            said = FROM_KEEPER.read(message.kind, message.body, "the brain")
        except DimsError as error:
            _log.warning("the keeper said what is not understood: %s", error)
            return
        match said:
            case StopFleet():
                self._say(Stopping())
                self._news.asked_to_stop()
            case Exit():
                self._exited(said)
            case _:
                self._news.keeper_said(said)

    def _exited(self, said: Exit) -> None:
        self._news.keeper_said(said)
        self._say(ExitsHeard(((said.pid, said.started),)))

    def _lost(self, _channel: Channel, _reason: str) -> None:
        self._channel = None
        self._news.keeper_lost()
