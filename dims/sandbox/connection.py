"""One TCP connection of a client: bytes in, handlers, bytes out."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from telethon.tl import functions, types
from telethon.tl.tlobject import TLRequest

from dims.errors import ProtocolError
from dims.sandbox.drills import Moment
from dims.sandbox.mtproto import session as mtproto
from dims.sandbox.mtproto import wire
from dims.sandbox.mtproto.key_exchange import KeyExchange
from dims.sandbox.mtproto.keys import ServerKey
from dims.sandbox.mtproto.session import SaltShaker, Session
from dims.sandbox.mtproto.transport import Transport
from dims.sandbox.mtproto.wire import UnknownObject
from dims.sandbox.rpc import methods
from dims.sandbox.rpc import requests as rpc
from dims.sandbox.rpc.call import Call, ListenAddress
from dims.sandbox.rpc.requests import RpcFault
from dims.sandbox.telegram import views
from dims.sandbox.telegram.accounts import Bot
from dims.sandbox.telegram.hub import Hub
from dims.sandbox.telegram.keyring import AuthKey

UNKNOWN_KEY = (-404).to_bytes(4, "little", signed=True)
"""The transport's error for a key the server does not know (mtproto-transports, errors)."""
UNREAD_LIMIT_BYTES = 32 * 1024 * 1024
"""A client that does not read its updates is cut here."""
CUT_DELAY_S = 0.2
"""How long a connection made during a cut lives on in silence."""
PUSH_LIMIT = 90
"""Messages per packet: Telethon accepts containers of 100."""
TCP_ESTABLISHED = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """What all connections of a server share."""

    hub: Hub
    server_key: ServerKey
    salts: SaltShaker
    address: ListenAddress


class Connection(asyncio.Protocol):
    """Speaks MTProto with one client until either side closes."""

    def __init__(self, context: Context) -> None:
        self.key: AuthKey | None = None
        self.is_acting = False
        self.wants_updates = False
        self._context = context
        self._hub = context.hub
        self._stream = Transport()
        self._exchange: KeyExchange | None = None
        self._session: Session | None = None
        self._tcp: asyncio.Transport | None = None
        self._is_flush_due = False
        self._is_doomed = False
        self._queued = 0

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast("asyncio.Transport", transport)
        self._hub.links.add(self)
        if self._hub.verdict(Moment.ACCEPT, None).cut:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._hub.leave(self)
        self._tcp = None

    def data_received(self, data: bytes) -> None:
        try:
            for packet in self._stream.feed(data):
                if self._tcp is None:
                    return
                self._receive(packet)
        except ProtocolError as error:
            _log.info("a client broke the protocol: %s", error)
            self.cut()

    # --- Link ---

    def push(self, body: bytes) -> None:
        if self._session is None or self._tcp is None:
            return
        self._session.queue(body, self._hub.clock())
        self._queued += 1
        if self._queued >= PUSH_LIMIT:
            self._flush()
        elif not self._is_flush_due:
            self._is_flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def cut(self) -> None:
        if self._tcp is not None:
            self._tcp.abort()

    def is_peer_gone(self) -> bool:
        if self._tcp is None or self._tcp.is_closing():
            return True
        sock = self._tcp.get_extra_info("socket")
        # A FIN or RST that waits behind unread data shows in the state only (tcp(7), TCP_INFO).
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return bool(state != TCP_ESTABLISHED)

    # --- packets ---

    def _receive(self, packet: bytes) -> None:
        if packet[:8] == bytes(8):
            if not self._hub.verdict(Moment.PACKET, None).drop:
                self._exchange_step(packet)
            return
        key = self._hub.keyring.get(packet[:8])
        if key is None:
            self._write(UNKNOWN_KEY)
            self._close()
            return
        if self.key is not key:
            self._hub.leave(self)
            self.key, self._session, self.is_acting, self.wants_updates = key, None, False, False
            self._hub.links.add(self)
        verdict = self._hub.verdict(Moment.PACKET, self._bot())
        if verdict.cut and not self._is_doomed:
            # Telethon comes back at once; cut at once, it would spin as fast as both can.
            self._is_doomed = True
            asyncio.get_running_loop().call_later(CUT_DELAY_S, self.cut)
        elif not (self._is_doomed or verdict.drop):
            self._messages(key, packet)

    def _exchange_step(self, packet: bytes) -> None:
        if len(packet) < 24:
            raise ProtocolError("an unencrypted packet that is too short")
        if self._exchange is None:
            self._exchange = KeyExchange(self._context.server_key)
        now_s = self._hub.clock()
        length = int.from_bytes(packet[16:20], "little")
        step = self._exchange.receive(wire.parse(packet[20 : 20 + length]), now_s)
        if step.auth_key is not None:
            self._hub.store.save_key(self._hub.keyring.make(step.auth_key))
        body = bytes(step.answer)
        msg_id = int(now_s * 2**32) & ~3 | 1
        self._write(
            bytes(8) + msg_id.to_bytes(8, "little") + len(body).to_bytes(4, "little") + body
        )

    def _messages(self, key: AuthKey, packet: bytes) -> None:
        opened = mtproto.open_packet(key.key, packet)
        session = self._session
        if session is None or session.session_id != opened.session_id:
            session = Session(key.key, key.id, opened.session_id, self._context.salts)
            self._session = session
        now_s = self._hub.clock()
        for message in session.receive(opened, now_s):
            self._message(session, key, message, now_s)
        self._flush()

    def _message(
        self, session: Session, key: AuthKey, message: wire.PackedMessage, now_s: float
    ) -> None:
        answer = self._service(key, message)
        if answer is not None:
            session.queue(answer, now_s, content=False, answers=True)
        elif isinstance(message.body, TLRequest | UnknownObject):
            self._request(session, key, message)

    def _service(self, key: AuthKey, message: wire.PackedMessage) -> bytes | None:
        match message.body:
            case functions.PingRequest() | functions.PingDelayDisconnectRequest():
                return bytes(types.Pong(message.msg_id, message.body.ping_id))
            case functions.GetFutureSaltsRequest():
                return bytes(self._future_salts(key, message))
            case functions.DestroySessionRequest():
                return bytes(types.DestroySessionNone(message.body.session_id))
            case functions.DestroyAuthKeyRequest():
                self._hub.keyring.destroy(key)
                self._hub.store.remove_key(key)
                return bytes(types.DestroyAuthKeyOk())
            case types.MsgsStateReq():
                return bytes(types.MsgsStateInfo(message.msg_id, "\4" * len(message.body.msg_ids)))
            case _:
                return None

    def _future_salts(self, key: AuthKey, message: wire.PackedMessage) -> Any:
        now_s = self._hub.clock()
        salts = []
        for number in range(max(1, min(message.body.num, 64))):
            start = (now_s // mtproto.SALT_PERIOD_S + number) * mtproto.SALT_PERIOD_S
            end = start + 2 * mtproto.SALT_PERIOD_S
            salt = self._context.salts.salt(key.id, start)
            salts.append(types.FutureSalt(views.date(start), views.date(end), salt))
        return types.FutureSalts(message.msg_id, int(now_s), salts)

    # --- requests ---

    def _request(self, session: Session, key: AuthKey, message: wire.PackedMessage) -> None:
        unwrapped = rpc.unwrap(message.body)
        name = rpc.name_of(unwrapped.request)
        self._hub.requests[name] += 1
        bot = self._bot()
        if bot is None:
            bot = self._bot_logging_in(unwrapped.request)
            if bot is not None and self._hub.verdict(Moment.PACKET, bot).drop:
                return
        verdict = self._hub.verdict(Moment.REQUEST, bot, name)
        call = Call(self._context, self._hub, self, key, unwrapped.request, name, self._hub.clock())
        step = partial(
            self._answer,
            session,
            message.msg_id,
            call,
            verdict.error,
            not unwrapped.without_updates,
        )
        if verdict.delay_s:
            asyncio.get_running_loop().call_later(verdict.delay_s, self._answer_late, step)
        else:
            step()

    def _answer_late(self, step: Callable[[], None]) -> None:
        if self._tcp is not None:
            step()
            self._flush()

    def _answer(
        self,
        session: Session,
        request_id: int,
        call: Call,
        error: tuple[int, str] | None,
        wants_updates: bool,
    ) -> None:
        try:
            body = wire.pack_result(request_id, self._result(call, error, wants_updates))
        except RpcFault as fault:
            body = wire.pack_error(request_id, fault.code, fault.message)
        except Exception:
            # A handler's bug must not take the connection, and with it the bot, down.
            _log.exception("%s failed", call.name)
            body = wire.pack_error(request_id, 500, "INTERNAL")
        now_s = self._hub.clock()
        if isinstance(call.request, functions.auth.LogOutRequest):
            # Telethon waits for an acknowledgement here, as Telegram may close before its answer.
            session.queue(bytes(types.MsgsAck([request_id])), now_s, content=False, answers=True)
        session.queue(body, now_s, answers=True)

    def _result(
        self, call: Call, error: tuple[int, str] | None, wants_updates: bool
    ) -> wire.Result:
        self._admit(call)
        if error is not None:
            raise RpcFault(*error)
        result = methods.answer(call, self._bot())
        if wants_updates and type(call.request) not in methods.OPEN:
            # Telegram pushes only after a request that is about the account.
            self.wants_updates = True
        return result

    def _admit(self, call: Call) -> None:
        """Refuses a dead key, and a key that acts on two connections; notes who acts."""
        bot = self._bot()
        if call.key.is_duplicated:
            raise call.duplicated()
        if bot is None:
            return
        if not self.is_acting:
            if not self._hub.act(self, call.key):
                raise call.duplicated()
            self._hub.tally(bot).logins += 1

    def _bot(self) -> Bot | None:
        if self.key is None or self.key.account_id is None:
            return None
        return self._hub.world.bots.get(self.key.account_id)

    def _bot_logging_in(self, request: Any) -> Bot | None:
        if isinstance(request, functions.auth.ImportBotAuthorizationRequest):
            return self._hub.world.bot_with_token(request.bot_auth_token)
        return None

    # --- writing ---

    def _flush(self) -> None:
        self._is_flush_due = False
        self._queued = 0
        if self._session is None or self._tcp is None:
            return
        packet = self._session.flush(self._hub.clock())
        if packet is not None:
            self._write(packet)

    def _write(self, packet: bytes) -> None:
        if self._tcp is None:
            return
        self._tcp.write(self._stream.frame(packet))
        if self._tcp.get_write_buffer_size() > UNREAD_LIMIT_BYTES:
            _log.warning("a client does not read; its connection is cut")
            self.cut()

    def _close(self) -> None:
        if self._tcp is not None:
            self._tcp.close()
