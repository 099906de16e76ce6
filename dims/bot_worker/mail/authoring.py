"""Messages between bots as their authors meet them: `@on("kind")` and `Message`.

Nothing here sends or receives: a decorator notes, a message shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from dims.errors import UsageError
from dims.ipc.mailbox.handing.delivery import Delivery, HandlerTransaction
from dims.ipc.wire.bodies import unwrap_body, wrap_body
from dims.ipc.wire.envelope import Priority

Function = Callable[["Message"], Awaitable[Any]]
F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__dims_kinds__"


@dataclass(frozen=True, slots=True)
class Handler:
    """What takes messages of a kind, and the pydantic model of their bodies if any."""

    function: Function
    model: Any = None


def on(*kinds: str, model: Any = None) -> Callable[[F], F]:
    """Marks `async def handler(message)` as taking messages of these kinds.

    With `model`, a pydantic model, `message.body` is an instance of it, and a body that does not
    fit is refused. What the handler returns (JSON or a model) is the reply to a request.
    Raises UsageError when it is given no kind, or something other than an async function.
    """
    if not kinds or not all(isinstance(kind, str) and kind for kind in kinds):
        raise UsageError("@on needs the kind of message it takes", hint='for example @on("order")')

    def mark(function: F) -> F:
        marks = list(getattr(function, _MARK, ()))
        setattr(function, _MARK, [*marks, *((kind, model) for kind in kinds)])
        return function

    return mark


def handlers_in(module: ModuleType) -> dict[str, Handler]:
    """The functions of a module that are marked by `on`, by kind; UsageError when two take the
    same kind."""
    found: dict[str, Handler] = {}
    for value in vars(module).values():
        marks = getattr(value, _MARK, None) if callable(value) else None
        if marks:
            add_handlers(found, value, marks)
    return found


def add_handlers(found: dict[str, Handler], function: Any, marks: Iterable[Any]) -> None:
    """Adds one marked function; UsageError when its kind is taken by another."""
    for kind, model in marks:
        taken = found.get(kind)
        if taken is not None and taken.function is not function:
            raise UsageError(f"two handlers take messages of kind {kind!r}")
        found[kind] = Handler(function, model)


def marks_of(function: Any) -> list[tuple[str, Any]]:
    """What `on` noted at a function."""
    return list(getattr(function, _MARK, ()))


class Message:
    """A message from another bot, the operator, or this bot itself."""

    def __init__(self, delivery: Delivery, model: Any = None) -> None:
        envelope = delivery.message
        self._delivery = delivery
        self.id: str = envelope.id
        self.kind = envelope.kind
        self.sender: str = envelope.sender
        self.priority = envelope.priority
        self.body = unwrap_body(envelope.body, model)
        self.wants_reply = envelope.wants_reply
        self.durable = delivery.item is not None
        self.redelivered = delivery.redelivered
        """Whether a handler may have seen it before; what it did in a transaction did not
        happen."""
        self.attempt = envelope.attempt
        """Which try this is, from 1."""
        self.created_s = envelope.created_s
        """UTC seconds since 1970."""
        self.expires_s = envelope.expires_s
        self.conversation: str = envelope.correlation or envelope.id
        """The id of the message, or of the update of Telegram, with which it all began."""

    def __repr__(self) -> str:
        # Without the body, which may hold what no log should.
        return f"Message({self.kind!r} from {self.sender!r}, id {self.id}, attempt {self.attempt})"

    def transaction(self) -> MessageTransaction:
        """`async with message.transaction() as tx:` does what must happen exactly once.

        `tx` is a mapping of the bot's own values (JSON under text keys); `tx.send(...)` sends
        messages. Values, sends and the end of this message are kept together or not at all.
        """
        return MessageTransaction(self._delivery.transaction())


class MessageTransaction:
    """The open transaction of a message; see `Message.transaction`."""

    def __init__(self, inner: HandlerTransaction) -> None:
        self._inner = inner

    async def __aenter__(self) -> MessageTransaction:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)

    def __getitem__(self, key: str) -> Any:
        return self._inner[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._inner[key] = value

    def __delitem__(self, key: str) -> None:
        del self._inner[key]

    def __contains__(self, key: str) -> bool:
        return key in self._inner

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or `default`."""
        return self._inner.get(key, default)

    def send(
        self, to: str, kind: str, body: Any = None, *, priority: Priority | str = Priority.NORMAL
    ) -> None:
        """Sends a durable message when the block ends well. Raises RefusedError, ProtocolError."""
        self._inner.send(to, kind, dict(wrap_body(body)), priority=as_priority(priority))

    def reply(self, body: Any = None) -> None:
        """Answers a request when the block ends well; what the handler returns then is ignored.

        Raises RuntimeError when the message is no request, ProtocolError."""
        self._inner.reply(wrap_body(body))


def as_priority(priority: Priority | str | int) -> Priority:
    """`urgent`, `high`, `normal`, `low` or a Priority; UsageError for anything else."""
    if isinstance(priority, Priority):
        return priority
    if isinstance(priority, str) and priority.upper() in Priority.__members__:
        return Priority[priority.upper()]
    names = ", ".join(name.lower() for name in Priority.__members__)
    raise UsageError(f"there is no priority {priority!r}", hint=f"one of: {names}")
