"""What operators see of a mailbox fits into an answer, however much lies there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from post import letter, put

from dims.errors import UsageError
from dims.ipc.mailbox.files import mail_inspection as inspection
from dims.ipc.mailbox.files.ledger import DeadLetter
from dims.ipc.mailbox.files.mailbox import Mailbox
from dims.ipc.mailbox.files.segment import list_names
from dims.ipc.mailbox.handing.recipient import MOST_REASON_CHARS
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.framing import encode, encode_payload
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM

WORST = "\U0001f4a9"
"""Takes four bytes of UTF-8."""


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[Mailbox]:
    with closing(Mailbox(tmp_path)) as opened:
        yield opened


def bury(mailbox: Mailbox, count: int, reason: str = "why", *, readable: bool = True) -> None:
    for n in range(count):
        message = letter(n)
        payload = encode_payload(message) if readable else b"\xff"
        mailbox.ledger.bury(DeadLetter(0, 1.0, message.id, "n", "a", 1, reason, payload, readable))


def asked(mailbox: Mailbox, kind: str, **body: Any) -> dict[str, Any]:
    """The answer, which was sent as one frame."""
    answer = inspection.answer(mailbox, kind, body, SYSTEM.utc())
    encode(Envelope(new_id(), "reply", Address("me"), Address("cli"), body=answer))
    return answer


def test_large_messages_are_shown_as_many_as_fit(tmp_path: Path) -> None:
    put(tmp_path, *(replace(letter(n), body={"n": n, "text": "x" * 900_000}) for n in range(8)))
    with closing(Mailbox(tmp_path)) as mailbox:
        shown = asked(mailbox, "mail.peek", limit=20)["messages"]
        assert [message["body"]["n"] for message in shown] == list(range(len(shown)))
        assert shown


def test_long_reasons_are_cut_in_the_list_and_shown_whole_alone(mailbox: Mailbox) -> None:
    bury(mailbox, 1_000, WORST * MOST_REASON_CHARS)
    listed = asked(mailbox, "mail.dead.list", limit=1_000)["dead"]
    assert len(listed) == 1_000
    assert listed[0]["reason"].endswith(WORST + "…")
    shown = asked(mailbox, "mail.dead.show", n=listed[0]["n"])
    assert shown["reason"] == WORST * MOST_REASON_CHARS
    assert shown["message"]["body"] == {"n": 0}


def test_dead_letters_are_chosen_by_number_or_all_at_once(mailbox: Mailbox, tmp_path: Path) -> None:
    bury(mailbox, 4)
    bury(mailbox, 1, readable=False)
    for wrong in ([7], "all", [1.0], [True]):
        with pytest.raises(UsageError):
            asked(mailbox, "mail.dead.drop", numbers=wrong)
    assert asked(mailbox, "mail.dead.drop", numbers=[2]) == {"dropped": [2]}
    assert asked(mailbox, "mail.dead.replay", numbers=[3]) == {"replayed": [3]}
    assert len(list_names(tmp_path)) == 1
    assert asked(mailbox, "mail.dead.replay", numbers=None) == {"replayed": [1, 4]}
    assert asked(mailbox, "mail.dead.show", n=5)["hex"] == "ff"
    assert asked(mailbox, "mail.dead.drop", numbers=None) == {"dropped": [5]}
    assert asked(mailbox, "mail.status")["dead"] == 0
