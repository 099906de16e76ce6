"""What every RPC handler shares: how requests are named, wrapped and refused."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from telethon.tl import functions

from dims.sandbox.mtproto.wire import UnknownObject


class RpcFault(Exception):  # noqa: N818 (Telegram calls them errors; here they are answers)
    """An rpc_error: `code` and `message` go to the client as they are."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """A request without its wrappers."""

    request: Any
    without_updates: bool


_WRAPPERS = (
    functions.InvokeWithLayerRequest,
    functions.InitConnectionRequest,
    functions.InvokeAfterMsgRequest,
    functions.InvokeAfterMsgsRequest,
    functions.InvokeWithoutUpdatesRequest,
)


def unwrap(request: Any) -> Unwrapped:
    """The request inside invokeWithLayer, initConnection and the like."""
    without_updates = False
    while isinstance(request, _WRAPPERS):
        without_updates |= isinstance(request, functions.InvokeWithoutUpdatesRequest)
        request = request.query
    return Unwrapped(request, without_updates)


def name_of(request: Any) -> str:
    """The request's name in Telegram's documentation, such as "messages.sendMessage"."""
    if isinstance(request, UnknownObject):
        return f"unknown.{request.constructor:08x}"
    kind: type = type(request)
    return _name_of_class(kind)


@cache
def _name_of_class(kind: type) -> str:
    module = kind.__module__.removeprefix(functions.__name__).lstrip(".")
    name = kind.__name__.removesuffix("Request")
    name = name[:1].lower() + name[1:]
    return f"{module}.{name}" if module else name
