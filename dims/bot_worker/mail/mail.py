"""One bot's messages: what it sends, what it is sent, and its handlers. Joins mailbox and links.

A bot without handlers opens nothing: its mail waits in files, and it costs neither memory nor time.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import structs

from dims import correlation
from dims.bot_worker.mail import authoring as messages
from dims.bot_worker.mail.authoring import Handler, Message, as_priority
from dims.errors import (
    AlreadyRunningError,
    DimsError,
    NotRunningError,
    RefusedError,
    StateError,
    TimedOutError,
    UsageError,
)
from dims.ipc.grants import BRAIN, OPERATOR, Grants
from dims.ipc.links.exchange import Exchange, Link
from dims.ipc.links.membership import Membership
from dims.ipc.mailbox.files import mail_inspection as inspection
from dims.ipc.mailbox.files.doorbell import Doorbell
from dims.ipc.mailbox.files.file_names import Writer
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.files.writer import MailWriter
from dims.ipc.mailbox.handing.deliveries import Deliveries, Undeliverable
from dims.ipc.mailbox.handing.delivery import Delivery
from dims.ipc.wire.answers import error_from
from dims.ipc.wire.bodies import unwrap_body, wrap_body
from dims.ipc.wire.envelope import ERROR, Address, Envelope, MessageId, Priority
from dims.ipc.wire.framing import decode_payload, encode_payload
from dims.ipc.wire.ids import new_id
from dims.ipc.wire.sentences import read
from dims.ipc.words.fleet import ControlCommand, Introduce, Introduced, Whereabouts
from dims.ipc.words.terms import MailTerms
from dims.layout import doorbell, peer_socket
from dims.system.clock import Clock

FIRST_LOOK_S = 0.02
LAST_LOOK_S = 0.5
"""Between two tries to reach a bot that is on its way up: doubled from the first to the last."""
LOOKED_AT_S = 10.0
"""How long a mailbox that an operator looks into is waited for."""
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_RESERVED = frozenset({"reply", "error", "cancel", "credit", "hello", "welcome"})

_log = logging.getLogger(__name__)
_current: ContextVar[Envelope | None] = ContextVar("message in hand", default=None)


class Mail:
    """Sends at once; receives from `start` on. `bond` is None where no fleet is around."""

    def __init__(
        self,
        bot: str,
        terms: MailTerms,
        incarnation: int,
        bond: Membership | None,
        clock: Clock,
    ) -> None:
        self._bot = bot
        self._clock = clock
        self._terms = terms
        self._grants = Grants(terms.grants)
        self._bond = bond
        self._handlers: dict[str, Handler] = {}
        self._writer: MailWriter | None = None
        self._mailbox: Mailbox | None = None
        self._deliveries: Deliveries | None = None
        self._doorbell = Doorbell(self._bell(bot), self._rung)
        place = peer_socket(terms.sockets, bot)
        self._exchange = Exchange(bot, incarnation, place, self, self._meet)
        self._replies: dict[MessageId, asyncio.Future[Envelope]] = {}
        self._draining = False

    # Beginning and end

    def add_module(self, module: ModuleType) -> None:
        """Takes the module's functions that are marked by `on`; raises UsageError."""
        self._handlers.update(messages.handlers_in(module))

    def on(self, *kinds: str, model: Any = None) -> Callable[[messages.F], messages.F]:
        """`messages.on`, for functions that no module shows."""
        mark = messages.on(*kinds, model=model)

        def add(function: messages.F) -> messages.F:
            marked = mark(function)
            messages.add_handlers(self._handlers, marked, messages.marks_of(marked))
            return marked

        return add

    async def start(self) -> None:
        """Receives from now on, if there is any handler. Raises DimsError when it cannot."""
        if self._handlers:
            await self._open()

    async def drain(self) -> None:
        """Hands out nothing more, and returns when no handler has a message."""
        self._draining = True
        if self._deliveries is not None:
            await self._deliveries.drain()

    async def close(self) -> None:
        """Ends everything; what is in a handler's hands still is delivered again later."""
        self._doorbell.close()
        await self._exchange.close()
        if self._deliveries is not None:
            await self._deliveries.close()
        if self._writer is not None:
            self._writer.close()

    @property
    def trouble(self) -> str:
        """Why mail is not read or kept now, or empty."""
        ledger = self._mailbox.ledger if self._mailbox is not None else None
        return f"mailbox: {ledger.trouble}" if ledger is not None and ledger.trouble else ""

    def introduced(self, said: Introduced) -> None:
        """The brain says who another bot is."""
        self._exchange.introduced(said.bot, said.pid, said.incarnation)

    # Sending

    async def send(
        self,
        to: str,
        kind: str,
        body: Any,
        *,
        priority: Priority | str,
        durable: bool,
        expires_in_s: float | None,
    ) -> str:
        """See `BotContext.send`."""
        self._check(to, kind)
        if to == BRAIN:
            await self._control(kind, wrap_body(body), self._terms.request_timeout_s)
            return ""
        envelope = self._envelope(to, kind, body, as_priority(priority), expires_in_s)
        if durable:
            await self._writing().send(envelope)
        else:
            await self._send_directly(envelope)
        return envelope.id

    async def send_many(
        self, to: str, kind: str, bodies: Iterable[Any], *, priority: Priority | str, durable: bool
    ) -> int:
        """See `BotContext.send_many`."""
        self._check(to, kind)
        class_ = as_priority(priority)
        envelopes = [self._envelope(to, kind, body, class_, None) for body in bodies]
        if durable:
            return await self._writing().send_many(envelopes)
        for envelope in envelopes:
            await self._send_directly(envelope)
        return len(envelopes)

    async def request(
        self,
        to: str,
        kind: str,
        body: Any,
        *,
        timeout_s: float | None,
        priority: Priority | str,
        durable: bool,
        model: Any,
    ) -> Any:
        """See `BotContext.request`."""
        self._check(to, kind)
        limit_s = self._terms.request_timeout_s if timeout_s is None else timeout_s
        if to == BRAIN:
            return await self._control(kind, wrap_body(body), limit_s)
        envelope = self._envelope(to, kind, body, as_priority(priority), limit_s, asks=True)
        if durable:
            reply = await self._ask_by_mail(envelope, limit_s)
        else:
            reply = await self._ask_directly(envelope, limit_s)
        return unwrap_body(reply, model)

    def may_send(self, recipient: str, kind: str) -> None:
        """Raises RefusedError when no grant lets this bot send that."""
        if not self._grants.allows(self._bot, recipient, kind):
            raise RefusedError(
                f"no grant lets {self._bot} send {kind!r} to {recipient}",
                hint=f"bots.yaml: grants: [{{from: {self._bot}, to: {recipient},"
                f" kinds: [{kind}]}}]",
            )

    def _check(self, to: str, kind: str) -> None:
        if not isinstance(kind, str) or not _KIND.fullmatch(kind) or kind in _RESERVED:
            raise UsageError(
                f"{kind!r} is no kind of message",
                hint="a letter, then letters, digits, '.', '_' or '-'; not a word such as 'reply'",
            )
        self.may_send(to, kind)

    def _envelope(
        self,
        to: str,
        kind: str,
        body: Any,
        priority: Priority,
        expires_in_s: float | None,
        *,
        asks: bool = False,
    ) -> Envelope:
        cause = _current.get()
        return Envelope(
            new_id(),
            kind,
            Address(self._bot),
            Address(to),
            priority,
            None,
            wrap_body(body),
            wants_reply=asks,
            correlation=_correlation(cause),
            causation=cause.id if cause is not None else None,
            expires_s=None if expires_in_s is None else self._clock.utc() + expires_in_s,
        )

    async def _send_directly(self, envelope: Envelope) -> None:
        if envelope.recipient == self._bot:
            self._refuse_unwanted(envelope)
            self._receiving().offer(_as_it_travels(envelope), lambda: None)
            return
        # Without `_link`, which waits for a bot that comes up: who asks nothing is told at once.
        (await self._exchange.link(envelope.recipient)).send(envelope)

    async def _ask_directly(self, request: Envelope, timeout_s: float) -> Mapping[str, Any]:
        if request.recipient == self._bot:
            self._refuse_unwanted(request)
            async with _deadline(request, timeout_s):
                reply = await self._answer_of(_as_it_travels(request))
            return _as_it_travels(structs.replace(request, body=reply)).body
        until_s = self._clock.monotonic() + timeout_s
        link = await self._link(request.recipient, timeout_s)
        return await link.ask(request, max(0.0, until_s - self._clock.monotonic()))

    async def _ask_by_mail(self, request: Envelope, timeout_s: float) -> Mapping[str, Any]:
        if self._deliveries is None:
            raise UsageError(
                "a durable request needs a mailbox to be answered to",
                hint="give the bot at least one handler (`@on`), and ask after setup()",
            )
        reply: asyncio.Future[Envelope] = asyncio.get_running_loop().create_future()
        self._replies[request.id] = reply
        try:
            async with _deadline(request, timeout_s):
                await self._writing().send(request)
                answer = await reply
        finally:
            del self._replies[request.id]
        if answer.kind == ERROR:
            raise error_from(answer.body)
        return answer.body

    async def _link(self, to: str, timeout_s: float) -> Link:
        """The link to a bot that runs, or comes up in time."""
        until_s = self._clock.monotonic() + timeout_s
        pause_s = FIRST_LOOK_S
        while True:
            try:
                return await self._exchange.link(to)
            except NotRunningError:
                if self._clock.monotonic() + pause_s > until_s:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(LAST_LOOK_S, pause_s * 2)

    async def _meet(self, to: str) -> Whereabouts:
        if self._bond is None:
            raise RefusedError(
                "no supervisor is here to introduce bots", hint="send it as a durable message"
            )
        timeout_s = self._terms.request_timeout_s
        return read(Whereabouts, await self._bond.request(Introduce(to), timeout_s))

    async def _control(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Any:
        if self._bond is None:
            raise RefusedError("there is no supervisor here", hint="`dims run` has none")
        return dict(await self._bond.request(ControlCommand(kind, body), timeout_s))

    # Receiving: what Deliveries asks

    def knows(self, kind: str) -> bool:
        """Whether there is a handler for messages of this kind."""
        return kind in self._handlers

    def permits(self, sender: str, kind: str) -> bool:
        """Whether this sender may send that here."""
        return self._grants.allows(sender, self._bot, kind)

    async def handle(self, delivery: Delivery) -> Mapping[str, Any] | None:
        """Runs the handler of a message; whatever it raises passes."""
        envelope = delivery.message
        if envelope.reply_to is not None:
            waiting = self._replies.get(envelope.reply_to)
            if waiting is not None and not waiting.done():
                waiting.set_result(envelope)
            return None
        handler = self._handlers.get(envelope.kind)
        if handler is None:
            raise Undeliverable(f"{self._bot} has no handler for {envelope.kind!r}")
        try:
            message = Message(delivery, handler.model)
        except ValueError as error:
            raise Undeliverable(f"the body does not fit: {_without_values(error)}") from error
        token = _current.set(envelope)
        inner = correlation.begin(envelope.correlation or envelope.id)
        try:
            result = await handler.function(message)
        finally:
            correlation.end(inner)
            _current.reset(token)
        return wrap_body(result) if envelope.wants_reply else None

    async def send_payload(self, envelope: Envelope, payload: bytes) -> None:
        """Puts a message that is encoded already into another mailbox."""
        await self._writing().send_payload(envelope.recipient, envelope.priority, payload)

    # Receiving: what Exchange asks

    def came(self, message: Envelope, done: Callable[[], None]) -> None:
        """A one-way message over a link."""
        self._refuse_unwanted(message)
        self._receiving().offer(message, done)

    def asked(
        self, request: Envelope, answer: Callable[[Mapping[str, Any] | DimsError], None]
    ) -> None:
        """A request over a link."""
        self._refuse_unwanted(request)
        self._receiving().ask(request, answer)

    def gave_up(self, request: MessageId) -> None:
        """The asker does not want its answer any more."""
        if self._deliveries is not None:
            self._deliveries.cancel(request)

    async def operator(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """What an operator asks about this bot's mail, or sends."""
        if kind == "mail.deliver":
            return await self._deliver_for_operator(body)
        if self._mailbox is None or self._deliveries is None:
            raise RefusedError("this bot's mailbox is not open")
        self._mailbox.ledger.flush()
        answered = inspection.answer(self._mailbox, kind, body, self._clock.utc())
        if kind == "mail.status":
            now_s = asyncio.get_running_loop().time()
            rates = {
                priority: round(meter.per_s(now_s), 3)
                for priority, meter in self._deliveries.meters.items()
            }
            for priority, rate in rates.items():
                answered["by_priority"][priority.name.lower()]["handled_per_s"] = rate
            answered |= {
                "in_hand": self._deliveries.in_hand,
                "handled_per_s": round(sum(rates.values()), 3),
                "sent": self._writer.sent if self._writer is not None else 0,
                "links": sorted({link.bot for link in self._exchange.known()}),
            }
        if kind == "mail.dead.replay":
            self._deliveries.look(None)
        return answered

    async def _deliver_for_operator(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        message = Envelope.from_wire(body.get("message"))
        if message.sender != OPERATOR:
            raise RefusedError("operators send in their own name only")
        self._refuse_unwanted(message)
        if not message.wants_reply:
            self._receiving().offer(message, lambda: None)
            return {}
        return await self._answer_of(message)

    async def _answer_of(self, request: Envelope) -> Mapping[str, Any]:
        """What our own handler answers to a request that came over no link."""
        answer: asyncio.Future[Mapping[str, Any] | DimsError] = (
            asyncio.get_running_loop().create_future()
        )

        def answered(said: Mapping[str, Any] | DimsError) -> None:
            if not answer.done():
                answer.set_result(said)

        self._receiving().ask(request, answered)
        try:
            said = await answer
        except asyncio.CancelledError:
            self._receiving().cancel(request.id)
            raise
        if isinstance(said, DimsError):
            raise said
        return said

    def _refuse_unwanted(self, message: Envelope) -> None:
        if not self.permits(message.sender, message.kind):
            raise RefusedError(f"no grant lets {message.sender} send {message.kind!r} here")
        if not self.knows(message.kind):
            raise RefusedError(f"{self._bot} has no handler for {message.kind!r}")
        if self._draining:
            raise NotRunningError(f"{self._bot} is leaving", hint="try again in a moment")

    # Parts

    def _bell(self, bot: str) -> Path:
        return doorbell(self._terms.sockets, bot)

    def _writing(self) -> MailWriter:
        if self._writer is None:
            self._writer = MailWriter(
                self._terms.directory,
                Writer(self._bot),
                self._bell,
                waits_for_disk=self._terms.waits_for_disk,
                mailbox_bytes=self._terms.mailbox_bytes,
                clock=self._clock,
            )
        return self._writer

    def _receiving(self) -> Deliveries:
        if self._deliveries is None:
            raise RefusedError(f"{self._bot} takes no messages", hint="has it a handler (`@on`)?")
        return self._deliveries

    async def _open(self, wait_s: float = LOOKED_AT_S) -> None:
        terms = self._terms
        mailbox = self._mailbox = await self._open_mailbox(wait_s)
        self._deliveries = Deliveries(
            mailbox, self, terms.retry, terms.handlers_at_once, clock=self._clock
        )
        try:
            self._doorbell.open()
            await self._exchange.open()
        except OSError as error:
            # Under `dims run` there may be no fleet and so no place for sockets: mail is found
            # all the same, if later.
            _log.warning("no doorbell: %s", error.strerror)
        self._deliveries.start()

    async def _open_mailbox(self, wait_s: float) -> Mailbox:
        directory, waits_for_disk = self._terms.directory / self._bot, self._terms.waits_for_disk
        until_s = self._clock.monotonic() + wait_s
        while True:
            try:
                return Mailbox(directory, waits_for_disk=waits_for_disk)
            except AlreadyRunningError as error:
                # We have the bot's lease: it is an operator, who looks at the files meanwhile.
                if self._clock.monotonic() >= until_s:
                    raise StateError(f"{error}", hint="end that process") from error
            except OSError as error:
                raise StateError(
                    f"the mailbox of {self._bot} cannot be opened: {error.strerror}"
                ) from error
            await asyncio.sleep(FIRST_LOOK_S)

    def _rung(self, names: set[str] | None) -> None:
        if self._deliveries is not None:
            self._deliveries.look(names)


class _deadline:  # noqa: N801 (reads as the statement it is)
    """`async with` that raises TimedOutError when a request is not answered in time."""

    def __init__(self, request: Envelope, timeout_s: float) -> None:
        self._request = request
        self._timeout_s = timeout_s
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError as late:
            raise TimedOutError(
                f"no answer to {self._request.kind!r} from {self._request.recipient}"
                f" within {self._timeout_s:g} s"
            ) from late


def _correlation(cause: Envelope | None) -> MessageId | None:
    """That of the message in hand, else of the update in hand; None where something begins."""
    if cause is not None:
        return cause.correlation or cause.id
    inherited = correlation.current()
    return None if inherited is None else MessageId(inherited)


def _as_it_travels(envelope: Envelope) -> Envelope:
    """What the recipient of a message gets; raises ProtocolError when it cannot be sent."""
    return decode_payload(encode_payload(envelope))


def _without_values(error: ValueError) -> str:
    """Where and why, as pydantic says it, without the values, which may be secret."""
    listed = getattr(error, "errors", None)
    if listed is None:
        return type(error).__name__
    found = listed(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:5])
