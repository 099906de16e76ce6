"""The envelope: tolerant of what is new, strict about what it needs."""

from __future__ import annotations

from typing import Any

import pytest

from dims.errors import ProtocolError
from dims.ipc.wire.envelope import Address, Envelope, MessageId, Priority, created_s
from dims.ipc.wire.ids import new_id

WIRE: dict[str, Any] = {"v": 1, "id": "1", "kind": "status", "from": "cli", "to": "brain"}


def test_fields_that_are_left_out_have_their_defaults() -> None:
    read = Envelope.from_wire(WIRE)
    assert read == Envelope(MessageId("1"), "status", Address("cli"), Address("brain"), version=1)
    assert (read.priority, read.reply_to, read.body) == (Priority.NORMAL, None, {})


def test_a_newer_writer_with_more_fields_is_understood() -> None:
    assert Envelope.from_wire({**WIRE, "v": 2, "new": [1]}).version == 2


WRONG: dict[str, list[Any]] = {
    **{key: ["", 1, None, []] for key in ("id", "kind", "from", "to")},
    "v": [0, -1, True, "1", None, 1.5],
    "body": [[], "x", 1],
    "re": [1, [], {}],
    "prio": [4, -1, True, "1", None],
}


@pytest.mark.parametrize(
    "change", [{key: value} for key, values in WRONG.items() for value in values]
)
def test_a_field_of_a_wrong_kind_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="a message"):
        Envelope.from_wire({**WIRE, **change})


@pytest.mark.parametrize("wire", [None, [], "x", 1])
def test_what_is_no_object_is_refused(wire: object) -> None:
    with pytest.raises(ProtocolError, match="Expected `object`"):
        Envelope.from_wire(wire)


@pytest.mark.parametrize(
    ("id_", "made_s"),
    [
        ("00000000ffff" + 20 * "0", 65.535),
        ("00000000fffg" + 20 * "0", 0.0),
        ("00000000ffff", 0.0),
        ("00000000ffff" + 21 * "0", 0.0),
    ],
)
def test_an_id_says_when_it_was_made_or_nothing(id_: str, made_s: float) -> None:
    assert created_s(id_) == made_s
    message = Envelope(MessageId(id_), "n", Address("a"), Address("b"))
    assert message.created_s == made_s


def test_ids_are_unique_and_sort_by_the_time_they_were_made() -> None:
    ids = [new_id() for _ in range(1_000)]
    assert len(set(ids)) == len(ids)
    assert all(len(one) == 32 and int(one, 16) for one in ids)
    stamps = [one[:12] for one in ids]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ({"re": "7"}, "reply_to", "7"),
        ({"ask": True}, "wants_reply", True),
        ({"cid": "7"}, "correlation", "7"),
        ({"cause": "7"}, "causation", "7"),
        ({"exp": 7}, "expires_s", 7.0),
        ({"try": 7}, "attempt", 7),
    ],
)
@pytest.mark.parametrize("rest", [{}, {"prio": 2}, {"body": {}}, {"prio": 2, "body": {}}])
def test_no_field_is_overlooked_whichever_others_are_left_out(
    more: dict[str, Any], field: str, value: Any, rest: dict[str, Any]
) -> None:
    assert getattr(Envelope.from_wire({**WIRE, **rest, **more}), field) == value
