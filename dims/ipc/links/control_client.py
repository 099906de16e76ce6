"""Asks a DIMS process over its Unix socket, blocking. For commands: imports no asyncio."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dims.errors import NotRunningError, RefusedError, TimedOutError
from dims.ipc.wire.answers import error_from
from dims.ipc.wire.plain import PlainDecoder, PlainMessage, encode_plain

READ_BYTES = 65_536


class _Question:
    """A request under way."""

    __slots__ = ("id", "kind")

    def __init__(self, id_: str, kind: str) -> None:
        self.id = id_
        self.kind = kind


class ControlClient:
    """One connection; requests are answered in order.

    Raises NotRunningError when nobody listens, RefusedError when this user may not connect,
    TimedOutError when no answer comes within `timeout_s`, and whatever error the other side gave.
    """

    def __init__(self, path: Path, *, name: str = "cli", timeout_s: float | None = 10.0) -> None:
        self._path = path
        self._name = name
        self._decoder = PlainDecoder()
        self._received: list[PlainMessage] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except PermissionError as error:
            self.close()
            raise RefusedError(
                f"{path} belongs to another user", hint="use the user who started it, or root"
            ) from error
        except TimeoutError as error:
            self.close()
            raise TimedOutError(f"{path} does not accept connections") from error
        except OSError as error:
            self.close()
            raise NotRunningError(f"nobody listens on {path}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; closing twice is fine."""
        self._socket.close()

    def request(self, kind: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The body of the reply to one request."""
        request = self._send(kind, body or {})
        return dict(self._receive(request, ("reply",)).body)

    def stream(self, kind: str, body: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The bodies of all answers to one request, until the other side ends the stream."""
        request = self._send(kind, body or {})
        while (answer := self._receive(request, ("item", "end"))).kind == "item":
            yield dict(answer.body)

    def _send(self, kind: str, body: Mapping[str, Any]) -> _Question:
        request, frame = encode_plain(kind, body, sender=self._name, to="server", wants_reply=True)
        try:
            self._socket.sendall(frame)
        except TimeoutError as error:
            raise TimedOutError(f"{self._path} does not read") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            # The server may have said why before it closed: _receive finds that answer.
            if not self._decoder.pending_bytes and not self._peek():
                raise NotRunningError(f"{self._path} closed the connection") from error
        return _Question(request, kind)

    def _peek(self) -> bool:
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _receive(self, request: _Question, kinds: tuple[str, ...]) -> PlainMessage:
        while True:
            while self._received:
                answer = self._received.pop(0)
                if answer.kind == "error":
                    raise error_from(answer.body)
                if answer.reply_to == request.id and answer.kind in kinds:
                    return answer
            try:
                data = self._socket.recv(READ_BYTES)
            except TimeoutError as error:
                raise TimedOutError(f"no answer to {request.kind!r} from {self._path}") from error
            except ConnectionResetError as error:
                raise NotRunningError(f"{self._path} closed the connection") from error
            if not data:
                self._decoder.finish()
                raise NotRunningError(f"{self._path} ended before it answered {request.kind!r}")
            self._received += self._decoder.feed(data)
