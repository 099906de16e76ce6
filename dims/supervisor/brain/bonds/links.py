"""The brain's end of its bonds with workers, zygotes and services, over the bot socket.

Knows who is at the other end (the kernel says so) and which incarnation it claims to be; a process
that is not the one expected gets no secret and is told to leave.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, Protocol

from dims.errors import DimsError, FullError, NotRunningError, ProtocolError
from dims.ipc.links.channel import Channel, listen
from dims.ipc.wire.envelope import CANCEL, ERROR, Address, Envelope, Priority
from dims.ipc.wire.sentences import Sentence, read, written
from dims.ipc.words.fleet import WELCOME, Hello, Leave
from dims.supervisor.core.facts import Incarnation, UnitId

HELLO_TIMEOUT_S = 10.0
"""A connection that has not said who it is by then, or that nobody expects, is dropped."""

LEAVE_WITHIN_S = 5.0
"""Time for a process that is told to leave to hear it."""

_log = logging.getLogger(__name__)


class LinkNews(Protocol):
    """What the brain wants to hear from the processes."""

    def expects(self, unit: UnitId, incarnation: Incarnation, pid: int) -> bool | None:
        """Whether this very process may join: True, False (never), or None (not known yet)."""

    def welcome(self, unit: UnitId) -> object | None:
        """The sentence that a process gets once it is known, secrets included; or nothing."""

    def heard(
        self, unit: UnitId, incarnation: Incarnation, kind: str, body: Mapping[str, Any]
    ) -> None:
        """A known process said something; raises a DimsError for what is unknown or malformed."""

    def asked(self, unit: UnitId, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to what a known process asked; raises a DimsError, which is answered."""


class Links:
    """All bonds; at most one per unit counts, the last one."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._known: dict[Channel, tuple[UnitId, Incarnation]] = {}
        self._by_unit: dict[UnitId, Channel] = {}
        self._waiting: dict[Channel, tuple[UnitId, Incarnation, list[Envelope]]] = {}
        self._strangers: dict[Channel, asyncio.TimerHandle] = {}

    async def open(self, sock: socket.socket, news: LinkNews) -> None:
        """Accepts processes on the listening socket from now on."""
        self._news = news
        self._server = await listen(sock, self._make)

    def close(self) -> None:
        """Accepts nobody any more and ends all bonds."""
        if self._server is not None:
            self._server.close()
        for channel in (*self._known, *self._strangers):
            channel.close()

    def say(
        self,
        unit: UnitId,
        sentence: Sentence,
        priority: Priority = Priority.NORMAL,
    ) -> bool:
        """Tells a unit's process something; False when it is not connected."""
        channel = self._by_unit.get(unit)
        if channel is None:
            return False
        to = Address(f"unit/{unit}")
        channel.say(sentence.kind, written(sentence), to=to, priority=priority)
        return True

    def tell_soon(self, unit: UnitId, sentence: Sentence) -> bool:
        """As `say`, urgent; False too when the process reads so little that nothing fits."""
        try:
            return self.say(unit, sentence, Priority.HIGH)
        except FullError as error:
            # One that does not read must not keep the others from what they are told.
            _log.warning("%s does not hear %r: %s", unit, sentence.kind, error)
            return False

    async def request(
        self, unit: UnitId, kind: str, body: Mapping[str, Any], timeout_s: float
    ) -> Mapping[str, Any]:
        """What a unit's process answers. Raises NotRunningError when it is not connected,
        TimedOutError, or whatever DimsError it answers."""
        channel = self._by_unit.get(unit)
        if channel is None:
            raise NotRunningError(f"{unit} does not run", hint=f"see `dims bot explain {unit}`")
        to = Address(f"unit/{unit}")
        reply = await channel.request(
            kind, body, to=to, priority=Priority.HIGH, timeout_s=timeout_s
        )
        return reply.body

    def is_joined(self, unit: UnitId) -> bool:
        """Whether the unit's process is connected and known."""
        return unit in self._by_unit

    def settle(self, unit: UnitId) -> None:
        """Looks again at connections that came before their process was announced."""
        for channel, (waiting, incarnation, messages) in tuple(self._waiting.items()):
            if waiting == unit:
                del self._waiting[channel]
                self._introduce(channel, waiting, incarnation, messages)

    def _make(self) -> Channel:
        return Channel(self._heard, self._lost, name=Address("brain"), on_made=self._made)

    def _made(self, channel: Channel) -> None:
        peer = channel.peer
        if peer is None or peer.uid not in (os.geteuid(), 0):
            _log.warning("refused a process of user %s on the bot socket", peer and peer.uid)
            channel.abort()
            return
        loop = asyncio.get_running_loop()
        self._strangers[channel] = loop.call_later(HELLO_TIMEOUT_S, self._too_late, channel)

    def _too_late(self, channel: Channel) -> None:
        _log.warning("pid %s never became known here", channel.peer and channel.peer.pid)
        self._turn_away(channel)

    def _turn_away(self, channel: Channel) -> None:
        """Says leave: a process that is expected by nobody must not run on."""
        channel.say(Leave.kind, {}, to=Address("stranger"), priority=Priority.URGENT)
        # Not closed at once: with unread data on our side that would be a reset, the order lost.
        asyncio.get_running_loop().call_later(LEAVE_WITHIN_S, channel.abort)

    def _heard(self, channel: Channel, message: Envelope) -> None:
        known = self._known.get(channel)
        if known is not None and message.wants_reply:
            self._answer(channel, known[0], message)
        elif known is not None:
            self._tell(channel, *known, message)
        elif channel in self._waiting:
            self._waiting[channel][2].append(message)
        elif message.kind == Hello.kind and channel in self._strangers:
            self._greeted(channel, message)
        else:
            channel.abort()

    def _greeted(self, channel: Channel, message: Envelope) -> None:
        try:
            hello = read(Hello, message.body)
        except ProtocolError as error:
            _log.warning("pid %s: %s", channel.peer and channel.peer.pid, error)
            channel.abort()
            return
        self._introduce(channel, UnitId(hello.unit), Incarnation(hello.incarnation), [])

    def _introduce(
        self, channel: Channel, unit: UnitId, incarnation: Incarnation, early: list[Envelope]
    ) -> None:
        pid = channel.peer.pid if channel.peer is not None else 0
        expected = self._news.expects(unit, incarnation, pid)
        if expected is None:
            self._waiting[channel] = (unit, incarnation, early)
            return
        if not expected:
            _log.warning("pid %d says it is %s #%d, but is not expected", pid, unit, incarnation)
            self._turn_away(channel)
            return
        self._strangers.pop(channel).cancel()
        former = self._by_unit.get(unit)
        if former is not None:
            former.close()
        self._known[channel] = (unit, incarnation)
        self._by_unit[unit] = channel
        terms = self._news.welcome(unit)
        body = {} if terms is None else written(terms)
        channel.say(WELCOME, body, priority=Priority.URGENT)
        for message in early:
            self._tell(channel, unit, incarnation, message)

    def _tell(
        self, channel: Channel, unit: UnitId, incarnation: Incarnation, message: Envelope
    ) -> None:
        if message.kind == CANCEL:
            # What is asked here is answered at once: there is nothing to give up.
            return
        if message.kind == ERROR:
            _log.warning("%s did not take what we said: %s", unit, message.body.get("message"))
            return
        try:
            self._news.heard(unit, incarnation, message.kind, message.body)
        except ProtocolError as error:
            # A worker runs foreign code: what it says may be anything, and must hurt only itself.
            _log.warning("%s said a malformed %r: %s", unit, message.kind, error)
        except DimsError as error:
            _log.warning("%s said an unknown %r", unit, message.kind)
            channel.answer(message, error)

    def _answer(self, channel: Channel, unit: UnitId, request: Envelope) -> None:
        try:
            channel.answer(request, self._news.asked(unit, request.kind, request.body))
        except DimsError as error:
            channel.answer(request, error)

    def _lost(self, channel: Channel, reason: str) -> None:
        if reason:
            _log.warning("pid %s: %s", channel.peer and channel.peer.pid, reason)
        timer = self._strangers.pop(channel, None)
        if timer is not None:
            timer.cancel()
        self._waiting.pop(channel, None)
        known = self._known.pop(channel, None)
        if known is not None and self._by_unit.get(known[0]) is channel:
            del self._by_unit[known[0]]
