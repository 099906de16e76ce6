"""A bot's message box: messages, and their changes in order of pts. Pure; knows no TL, no accounts.

Every change raises `pts` by one per message, so a message's own numbers are enough to compute any
difference (https://core.telegram.org/api/updates).
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any, NewType

UserId = NewType("UserId", int)
"""A bot's or a persona's id; both come from one space, as in Telegram."""


class ChangeKind(StrEnum):
    """What happened to a message."""

    NEW = "new"
    EDIT = "edit"
    DELETE = "delete"


@dataclass(slots=True)
class ChatMessage:
    """One message in a bot's box; `out` means the bot wrote it. Entities and markup are opaque."""

    id: int
    peer_id: UserId
    out: bool
    date_s: int
    text: str
    entities: tuple[Any, ...] = ()
    markup: Any | None = None
    reply_to: int | None = None
    random_id: int | None = None
    edit_date_s: int | None = None
    created_pts: int = 0
    edited_pts: int = 0
    deleted_pts: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody wants to say."""

    text: str
    entities: tuple[Any, ...] = ()
    markup: Any | None = None
    reply_to: int | None = None
    random_id: int | None = None


@dataclass(slots=True)
class Box:
    """A bot's messages by id, and their changes as (pts, message id) in order of pts."""

    messages: dict[int, ChatMessage] = field(default_factory=dict)
    changes: list[tuple[int, int]] = field(default_factory=list)
    by_random_id: dict[int, int] = field(default_factory=dict)
    peers: set[UserId] = field(default_factory=set)

    def add(self, message: ChatMessage) -> None:
        """Takes a message in, new or loaded."""
        self.messages[message.id] = message
        self.peers.add(message.peer_id)
        for pts in (message.created_pts, message.edited_pts, message.deleted_pts):
            if pts:
                insort(self.changes, (pts, message.id))
        if message.random_id is not None:
            self.by_random_id[message.random_id] = message.id

    @property
    def horizon_pts(self) -> int:
        """A difference from before this pts is no longer known; 0 while nothing was forgotten."""
        first = next(iter(self.messages.values()), None)
        return 0 if first is None or first.id == 1 else first.created_pts - 1

    def forget_oldest(self, number: int) -> list[int]:
        """Drops the oldest messages; returns their ids."""
        gone = list(islice(self.messages, number))
        for message_id in gone:
            message = self.messages.pop(message_id)
            if message.random_id is not None:
                self.by_random_id.pop(message.random_id, None)
        self.changes = [change for change in self.changes if change[1] in self.messages]
        return gone


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed after some pts, up to `pts`; `is_final` is False when there is more."""

    new: tuple[ChatMessage, ...]
    edited: tuple[tuple[int, ChatMessage], ...]
    deleted: tuple[tuple[int, ChatMessage], ...]
    pts: int
    is_final: bool
