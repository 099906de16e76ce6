"""Direct links between bots: introduced once by the brain, then without it.

    A -> brain  introduce {to: B}        brain -> B  introduced {bot: A, pid, incarnation}
    brain -> A  Whereabouts              A -> B      hello {bot, incarnation}, B -> A  welcome {}

Each end asks the kernel for the other's pid and believes no other name. Knows links and flow; what
a message means, and who may send what, is asked of its owner.

A sender may have WINDOW one-way messages in the recipient's hands, and WINDOW urgent ones more; the
rest waits here, by priority. Requests and replies need no such credit: deadlines bound them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import weakref
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dims.errors import DimsError, FullError, NotRunningError, ProtocolError, RefusedError
from dims.ipc.links.channel import Channel, dial, listen
from dims.ipc.queue import PriorityQueue
from dims.ipc.wire.envelope import CANCEL, Address, Envelope, MessageId, Priority
from dims.ipc.words.fleet import Whereabouts
from dims.system.peer import Peer

WINDOW = 256
"""One-way messages that a recipient holds unhandled at most, per sender."""
CREDIT_EVERY = 64
QUEUE_LIMIT = 10_000
"""One-way messages that wait at the sender; one more is refused."""
HELLO_WITHIN_S = 5.0
"""A caller that has not been introduced by then, or says nothing, is cut off."""
OPERATOR_SILENT_S = 60.0
"""An operator who has his answers and asks nothing more for this long is cut off."""

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """Whose exchange this is."""

    def came(self, message: Envelope, done: Callable[[], None]) -> None:
        """A one-way message; `done` when it is handled. Raises a DimsError when it may not."""

    def asked(
        self, request: Envelope, answer: Callable[[Mapping[str, Any] | DimsError], None]
    ) -> None:
        """A request. Raises a DimsError, which is answered."""

    def gave_up(self, request: MessageId) -> None:
        """The asker of a request does not want its answer any more."""

    async def operator(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to an operator who looks at this bot's mail; raises a DimsError. Cancelled
        when he leaves."""


Introduce = Callable[[str], Awaitable[Whereabouts]]


class Link:
    """A known bot at the other end of a channel."""

    def __init__(self, bot: str, channel: Channel) -> None:
        self.bot = bot
        self._channel = channel
        self._credit = WINDOW
        self._waiting: PriorityQueue[Envelope] = PriorityQueue()
        self._handled = 0
        self.unanswered = 0
        """Messages of theirs that are not handled yet."""

    @property
    def is_open(self) -> bool:
        """Whether anything can be sent."""
        return self._channel.is_open

    @property
    def peer(self) -> Peer | None:
        """Which process it is."""
        return self._channel.peer

    @property
    def waiting(self) -> int:
        """One-way messages that wait for credit."""
        return len(self._waiting)

    def send(self, message: Envelope) -> None:
        """Sends a one-way message, or keeps it until the other end has room.

        Raises FullError when too much waits, NotRunningError when the link is gone, ProtocolError.
        """
        if not self._channel.is_open:
            raise NotRunningError(f"the link to {self.bot} is gone")
        is_urgent = message.priority is Priority.URGENT
        overtaken_by = self._waiting.has_urgent if is_urgent else bool(self._waiting)
        if not overtaken_by and self._credit > (-WINDOW if is_urgent else 0):
            self._channel.post(message)
            self._credit -= 1
        elif len(self._waiting) >= QUEUE_LIMIT:
            raise FullError(f"{QUEUE_LIMIT} messages wait for {self.bot}")
        else:
            self._waiting.push(message.priority, message)

    async def ask(self, request: Envelope, timeout_s: float) -> Mapping[str, Any]:
        """The body of the reply; see `Channel.ask`."""
        return (await self._channel.ask(request, timeout_s)).body

    def add_credit(self, count: int) -> None:
        """The other end has handled so many."""
        self._credit += count
        while (message := self._next()) is not None:
            self._credit -= 1
            try:
                self._channel.post(message)
            except (FullError, ProtocolError) as error:
                # It was taken with the promise of an ephemeral message: none.
                _log.warning("a message to %s is lost: %s", self.bot, error)

    def _next(self) -> Envelope | None:
        """What waits and may go now."""
        if self._waiting and self._credit > 0:
            return self._waiting.pop()
        if self._waiting.has_urgent and self._credit > -WINDOW:
            return self._waiting.pop_urgent()
        return None

    def handled(self) -> None:
        """One of theirs is handled: from time to time they are told."""
        self.unanswered -= 1
        self._handled += 1
        if self._handled >= CREDIT_EVERY or not self.unanswered:
            count, self._handled = self._handled, 0
            if self._channel.is_open:
                self._channel.say(
                    "credit", {"n": count}, to=Address(self.bot), priority=Priority.URGENT
                )

    def answer(self, request: Envelope, body: Mapping[str, Any] | DimsError) -> None:
        """Answers a request; into the void when they are gone."""
        try:
            self._channel.answer(request, body)
        except ProtocolError as error:
            self._channel.answer(request, error)

    def close(self) -> None:
        """Ends the link after all that was said."""
        self._channel.close()


class Exchange:
    """One bot's links. `introduce(to)` asks the brain; see the module."""

    def __init__(
        self,
        bot: str,
        incarnation: int,
        path: Path,
        owner: Owner,
        introduce: Introduce,
    ) -> None:
        self._bot = bot
        self._about = {"bot": bot, "incarnation": incarnation}
        self._path = path
        self._owner = owner
        self._introduce = introduce
        self._server: asyncio.Server | None = None
        self._links: dict[str, Link] = {}
        self._by_channel: dict[Channel, Link] = {}
        self._introduced: dict[str, tuple[int, int]] = {}
        self._strangers: dict[Channel, asyncio.TimerHandle] = {}
        self._hellos: dict[Channel, tuple[str, int]] = {}
        self._welcomes: dict[Channel, tuple[str, asyncio.Future[Link]]] = {}
        """Whom we called and wait for."""
        self._dialling: dict[str, asyncio.Task[Link]] = {}
        self._operators: dict[asyncio.Task[None], Channel] = {}
        _open.add(self)

    async def open(self) -> None:
        """Can be called by others from now on; raises OSError when the socket cannot be made."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Left by a worker that was killed: while we hold the bot's lease nobody else listens there.
        self._path.unlink(missing_ok=True)
        sock.bind(str(self._path))
        sock.setblocking(False)
        self._server = await listen(sock, self._make)

    async def close(self) -> None:
        """Ends all links."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        _open.discard(self)
        tasks = [*self._operators, *self._dialling.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in (*self._by_channel, *self._strangers):
            channel.close()

    def leave_to_parent(self) -> None:
        """For a forked child: the others must see that the links end with us, not with it."""
        channels = (*self._by_channel, *self._strangers)
        sockets = self._server.sockets if self._server is not None else ()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in (*(c.descriptor for c in channels), *(s.fileno() for s in sockets)):
            if descriptor >= 0:
                # Not closed: their owners would do that again, when the number is another's.
                os.dup2(null, descriptor, inheritable=False)
        os.close(null)

    def introduced(self, bot: str, pid: int, incarnation: int) -> None:
        """The brain says who that bot is now."""
        self._introduced[bot] = (pid, incarnation)
        for channel, hello in tuple(self._hellos.items()):
            if hello[0] == bot:
                self._admit(channel, *hello)

    async def link(self, to: str) -> Link:
        """The link to a bot, made now if there is none.

        Raises NotRunningError when that bot or the brain is away, UsageError when there is no such
        bot, RefusedError when somebody else answers in its place.
        """
        link = self._links.get(to)
        if link is not None and link.is_open:
            return link
        dialling = self._dialling.get(to)
        if dialling is None:
            dialling = asyncio.get_running_loop().create_task(self._dial(to))
            self._dialling[to] = dialling
            dialling.add_done_callback(lambda _: self._dialling.pop(to, None))
        # Shielded: others may wait for the same link when one caller gives up.
        return await asyncio.shield(dialling)

    def known(self) -> list[Link]:
        """All links."""
        return list(self._by_channel.values())

    # The calling end

    async def _dial(self, to: str) -> Link:
        who = await self._introduce(to)
        try:
            channel = await dial(who.path, self._make)
        except OSError as error:
            raise NotRunningError(
                f"{to} takes no messages", hint=f"has it a handler (`@on`)? `dims bot explain {to}`"
            ) from error
        if channel.peer is None or channel.peer.pid != who.pid:
            self._forget(channel)
            channel.abort()
            raise RefusedError(f"another process answers in the place of {to}")
        welcome: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._welcomes[channel] = to, welcome
        channel.say("hello", self._about, to=Address(to), priority=Priority.URGENT)
        try:
            async with asyncio.timeout(HELLO_WITHIN_S):
                return await welcome
        except TimeoutError as error:
            channel.abort()
            raise NotRunningError(f"{to} does not answer") from error
        finally:
            self._welcomes.pop(channel, None)

    # Both ends

    def _make(self) -> Channel:
        return Channel(self._heard, self._lost, name=Address(self._bot), on_made=self._made)

    def _made(self, channel: Channel) -> None:
        peer = channel.peer
        if peer is None or not peer.is_trusted():
            _log.warning("refused a connection of user %s", peer and peer.uid)
            channel.abort()
            return
        loop = asyncio.get_running_loop()
        self._strangers[channel] = loop.call_later(HELLO_WITHIN_S * 2, channel.abort)

    def _heard(self, channel: Channel, message: Envelope) -> None:
        link = self._by_channel.get(channel)
        if link is not None:
            self._take(link, message)
        elif channel not in self._strangers:
            channel.abort()
        elif message.kind == "welcome" and channel in self._welcomes:
            # Known from this moment on: their first message may stand in the same chunk. And by
            # the name that was called, whatever name they give themselves.
            to, welcome = self._welcomes[channel]
            if not welcome.done():
                welcome.set_result(self._known(channel, to))
        elif message.kind == "hello":
            bot, incarnation = message.body.get("bot"), message.body.get("incarnation")
            if isinstance(bot, str) and isinstance(incarnation, int):
                self._hellos[channel] = (bot, incarnation)
                self._admit(channel, bot, incarnation)
            else:
                channel.abort()
        elif message.wants_reply:
            self._begin_answer(channel, message)
        else:
            channel.abort()

    def _admit(self, channel: Channel, bot: str, incarnation: int) -> None:
        """Lets a caller in once the brain has said who has that pid."""
        peer: Peer | None = channel.peer
        if peer is None or self._introduced.get(bot) != (peer.pid, incarnation):
            # The introduction may be on its way still; the stranger's timer is running.
            return
        self._hellos.pop(channel, None)
        channel.say("welcome", {}, to=Address(bot), priority=Priority.URGENT)
        self._known(channel, bot)

    def _known(self, channel: Channel, bot: str) -> Link:
        """The link to use from now on. Who has one to the same process keeps to it: two that are
        made at once would let messages overtake each other."""
        self._forget(channel)
        link = self._by_channel[channel] = Link(bot, channel)
        former = self._links.get(bot)
        if former is not None and former.is_open:
            if former.peer == channel.peer:
                return former
            former.close()
        self._links[bot] = link
        return link

    def _forget(self, channel: Channel) -> None:
        timer = self._strangers.pop(channel, None)
        if timer is not None:
            timer.cancel()

    def _take(self, link: Link, message: Envelope) -> None:
        match message.kind:
            case "credit":
                count = message.body.get("n")
                if type(count) is int and 0 < count <= WINDOW:
                    link.add_credit(count)
                return
            case "cancel" if message.kind == CANCEL and message.reply_to is not None:
                self._owner.gave_up(message.reply_to)
                return
            case "error":
                _log.warning("%s did not take our message: %s", link.bot, message.body)
                return
            case "reply":
                # Its asker has given up.
                return
        if not message.wants_reply:
            link.unanswered += 1
        try:
            if message.sender != link.bot or message.recipient != self._bot:
                raise RefusedError(
                    f"{link.bot} sent a message of {message.sender} to {message.recipient}"
                )
            if message.wants_reply:
                self._owner.asked(message, lambda body: link.answer(message, body))
                return
            self._owner.came(message, link.handled)
        except DimsError as error:
            if not message.wants_reply:
                link.handled()
                _log.warning("refused %r of %s: %s", message.kind, link.bot, error)
            link.answer(message, error)

    def _begin_answer(self, channel: Channel, request: Envelope) -> None:
        # He may wait for as long as his request may take; his leaving is seen.
        self._strangers[channel].cancel()
        answering = asyncio.get_running_loop().create_task(self._answer_operator(channel, request))
        self._operators[answering] = channel
        answering.add_done_callback(self._answered)

    async def _answer_operator(self, channel: Channel, request: Envelope) -> None:
        try:
            channel.answer(request, await self._owner.operator(request.kind, request.body))
        except DimsError as error:
            channel.answer(request, error)

    def _lost(self, channel: Channel, reason: str) -> None:
        self._forget(channel)
        self._hellos.pop(channel, None)
        for answering, operator in tuple(self._operators.items()):
            if operator is channel:
                answering.cancel()
        _, welcome = self._welcomes.pop(channel, (None, None))
        if welcome is not None and not welcome.done():
            welcome.set_exception(NotRunningError(f"the link ended before the welcome: {reason}"))
        link = self._by_channel.pop(channel, None)
        if link is None:
            return
        if link.waiting:
            _log.warning("%d messages to %s are lost with the link", link.waiting, link.bot)
        if self._links.get(link.bot) is link:
            del self._links[link.bot]

    def _answered(self, task: asyncio.Task[None]) -> None:
        channel = self._operators.pop(task)
        if channel in self._strangers and channel not in self._operators.values():
            loop = asyncio.get_running_loop()
            self._strangers[channel] = loop.call_later(OPERATOR_SILENT_S, channel.abort)
        with contextlib.suppress(asyncio.CancelledError):
            if task.exception() is not None:
                _log.error("an operator was not answered", exc_info=task.exception())


_open: weakref.WeakSet[Exchange] = weakref.WeakSet()


def _leave_children() -> None:
    """A child that a bot's code forks must not keep our links open after we are gone."""
    for exchange in tuple(_open):
        exchange.leave_to_parent()


os.register_at_fork(after_in_child=_leave_children)
