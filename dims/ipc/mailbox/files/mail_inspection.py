"""What an operator may ask of a mailbox: of its reader while it runs, else of the files themselves.

    mail.status  mail.peek {limit}  mail.values
    mail.dead.list {limit}  mail.dead.show {n}  mail.dead.replay {numbers}  mail.dead.drop {numbers}

`numbers` None means all. Knows an open mailbox; refuses to know who asks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dims.errors import RefusedError, StateError, UsageError
from dims.ipc.mailbox.files.ledger import DEAD_LIMIT, DeadLetter
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.wire.envelope import Priority
from dims.ipc.wire.framing import decode_payload, encode_payload

MOST_PEEKED = 1_000
ANSWER_BYTES = 2 * 1024 * 1024
"""What is shown of messages at once: an answer has to fit into a frame."""
REASON_CHARS = 500
"""What the list shows of a reason."""


def answer(mailbox: Mailbox, kind: str, body: Mapping[str, Any], now_s: float) -> dict[str, Any]:
    """The answer as a JSON object; `now_s` is UTC. Raises UsageError for what is wrong in `body`,
    RefusedError for an unknown kind, StateError when the files refuse."""
    try:
        match kind:
            case "mail.status":
                return _status(mailbox, now_s)
            case "mail.peek":
                return {"messages": _peek(mailbox, _limit(body, MOST_PEEKED))}
            case "mail.values":
                values = mailbox.ledger.values()
                return {"values": {key: json.loads(raw) for key, raw in values.items()}}
            case "mail.dead.list":
                letters = mailbox.ledger.dead(_limit(body, DEAD_LIMIT))
                return {"dead": [_summary(letter) for letter in letters]}
            case "mail.dead.show":
                return _whole(next(_letters(mailbox, _chosen(mailbox, [body.get("n")]))))
            case "mail.dead.replay":
                chosen = _chosen(mailbox, body.get("numbers"))
                return {"replayed": mailbox.replay(_letters(mailbox, chosen))}
            case "mail.dead.drop":
                numbers = _chosen(mailbox, body.get("numbers"))
                mailbox.ledger.exhume(numbers)
                return {"dropped": numbers}
    except OSError as error:
        raise StateError(f"mailbox {mailbox.directory.name}: {error.strerror}") from error
    raise RefusedError(f"a mailbox does not know {kind!r}")


def _status(mailbox: Mailbox, now_s: float) -> dict[str, Any]:
    depths = mailbox.depths()
    lanes = [
        {
            "sender": depth.sender,
            "priority": depth.priority.name.lower(),
            "messages": depth.messages,
            "bytes": depth.size_bytes,
            "oldest_age_s": max(0.0, round(now_s - depth.oldest_s, 3)) if depth.oldest_s else None,
        }
        for depth in depths
    ]
    ages = [lane["oldest_age_s"] for lane in lanes if lane["oldest_age_s"] is not None]
    return {
        "bot": mailbox.directory.name,
        "messages": sum(depth.messages for depth in depths),
        "bytes": sum(depth.size_bytes for depth in depths),
        "oldest_age_s": max(ages, default=None),
        "by_priority": {
            priority.name.lower(): _of_priority(lanes, priority.name.lower())
            for priority in Priority
        },
        "dead": mailbox.ledger.dead_count(),
        "lanes": lanes,
        "counters": mailbox.ledger.counters(),
        "trouble": mailbox.ledger.trouble,
    }


def _of_priority(lanes: list[dict[str, Any]], name: str) -> dict[str, Any]:
    mine = [lane for lane in lanes if lane["priority"] == name]
    ages = [lane["oldest_age_s"] for lane in mine if lane["oldest_age_s"] is not None]
    return {
        "messages": sum(lane["messages"] for lane in mine),
        "oldest_age_s": max(ages, default=None),
    }


def _peek(mailbox: Mailbox, limit: int) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    left_bytes = ANSWER_BYTES
    for message in mailbox.peek(limit):
        left_bytes -= len(encode_payload(message))
        if left_bytes < 0:
            break
        shown.append(message.to_wire())
    return shown


def _summary(letter: DeadLetter) -> dict[str, Any]:
    reason = letter.reason
    return {
        "n": letter.n,
        "at": letter.at,
        "id": letter.id,
        "kind": letter.kind,
        "sender": letter.sender,
        "attempts": letter.attempts,
        "reason": reason if len(reason) <= REASON_CHARS else reason[:REASON_CHARS] + "…",
        "bytes": len(letter.payload),
        "readable": letter.readable,
    }


def _whole(letter: DeadLetter) -> dict[str, Any]:
    """With the message, or with its bytes in hex where it is none."""
    whole = {**_summary(letter), "reason": letter.reason}
    if letter.readable:
        return {**whole, "message": decode_payload(letter.payload).to_wire()}
    return {**whole, "hex": letter.payload[:65_536].hex()}


def _letters(mailbox: Mailbox, numbers: list[int]) -> Iterator[DeadLetter]:
    """One after the other: all of them may be more than memory holds."""
    return filter(None, map(mailbox.ledger.dead_letter, numbers))


def _chosen(mailbox: Mailbox, numbers: object) -> list[int]:
    there = mailbox.ledger.dead_numbers()
    if numbers is None:
        return there
    if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
        raise UsageError("dead letters are named by their numbers")
    missing = [str(n) for n in numbers if n not in there]
    if missing:
        raise UsageError(
            f"there is no dead letter {', '.join(missing)} in mailbox {mailbox.directory.name}",
            hint="`dims ipc dead list` shows them",
        )
    return numbers


def _limit(body: Mapping[str, Any], most: int) -> int:
    limit = body.get("limit", 20)
    if type(limit) is not int or not 0 < limit <= most:
        raise UsageError(f"the limit must be a number from 1 to {most}")
    return limit
