"""A message is allowed by a grant, to oneself or from the operator, and else never."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from itertools import product

import pytest

from dims.errors import ProtocolError
from dims.ipc.grants import MOST_DECISIONS, Grant, Grants
from dims.ipc.wire.sentences import read, written

SHOP = Grant(("shop-*", "echo"), ("stock",), ("order.*", "ping"))
CONTROL = Grant(("admin",), ("brain",), ("restart", "status"))
FLEET = Grants((SHOP, CONTROL, Grant(("admin",), ("*",), ("*",))))


def test_without_grants_nobody_may_send_to_anybody_else() -> None:
    for recipient in ("stock", "brain", "operator"):
        assert not Grants().allows("echo", recipient, "ping")


def test_a_bot_may_send_anything_to_itself() -> None:
    assert Grants().allows("echo", "echo", "anything")


def test_the_operator_may_send_anything_to_all() -> None:
    assert Grants().allows("operator", "echo", "anything")
    assert Grants().allows("operator", "brain", "stop")


@pytest.mark.parametrize(
    ("sender", "recipient", "kind", "is_allowed"),
    [
        ("shop-a", "stock", "order.new", True),
        ("echo", "stock", "ping", True),
        ("shop-a", "stock", "orders", False),
        ("shop-a", "stock", "Ping", False),
        ("shop-a", "stocks", "ping", False),
        ("shop", "stock", "ping", False),
        ("stock", "shop-a", "ping", False),
        ("admin", "shop-a", "anything", True),
    ],
)
def test_sender_recipient_and_kind_must_all_fit_one_grant(
    sender: str, recipient: str, kind: str, is_allowed: bool
) -> None:
    assert FLEET.allows(sender, recipient, kind) is is_allowed


def test_halves_of_two_grants_do_not_make_a_whole() -> None:
    two = Grants((Grant(("a",), ("b",), ("x",)), Grant(("a",), ("c",), ("y",))))
    assert not two.allows("a", "b", "y")
    assert not two.allows("a", "c", "x")


def test_the_brain_is_reached_only_where_name_and_kind_are_written_out() -> None:
    assert FLEET.allows("admin", "brain", "restart")
    assert not FLEET.allows("admin", "brain", "stop")
    for recipients, kinds in ((("*",), ("stop",)), (("brai?",), ("stop",)), (("brain",), ("*",))):
        assert not Grants((Grant(("admin",), recipients, kinds),)).allows("admin", "brain", "stop")


def test_no_pattern_takes_a_part_of_dims_for_a_bot() -> None:
    everybody = Grants((Grant(("*",), ("*",), ("*",)),))
    for name in ("brain", "cli", "keeper", "sandbox", "zygote"):
        assert not everybody.allows(name, "echo", "ping")
        assert not everybody.allows("echo", name, "ping")


def test_the_grants_of_a_bot_are_those_it_can_send_or_receive_by() -> None:
    assert FLEET.of("shop-a").grants == (SHOP, FLEET.grants[2])
    assert FLEET.of("admin").grants == FLEET.grants[1:]
    assert Grants((SHOP, CONTROL)).of("nobody") == Grants()
    assert FLEET.of("brain").grants == (CONTROL,)


def test_the_grants_of_a_bot_decide_its_messages_as_all_grants_do() -> None:
    names = ("shop-a", "echo", "stock", "admin", "brain", "operator", "nobody")
    for bot, other, kind in product(names, names, ("ping", "order.x", "restart", "stop")):
        own = FLEET.of(bot)
        assert own.allows(bot, other, kind) is FLEET.allows(bot, other, kind)
        assert own.allows(other, bot, kind) is FLEET.allows(other, bot, kind)


def test_more_decisions_than_are_remembered_stay_right() -> None:
    one = Grants((Grant(("a",), ("b",), ("k1*",)),))
    for number in [*range(MOST_DECISIONS + 100), 1, 2]:
        assert one.allows("a", "b", f"k{number}") is str(number).startswith("1")


def test_a_grant_comes_back_from_the_wire_as_it_went() -> None:
    for grant in FLEET.grants:
        assert read(Grant, json.loads(json.dumps(written(grant)))) == grant
    assert json.loads(json.dumps(written(SHOP))) == {
        "senders": ["shop-*", "echo"],
        "recipients": ["stock"],
        "kinds": ["order.*", "ping"],
    }


def test_unknown_keys_of_a_newer_writer_are_ignored() -> None:
    assert read(Grant, written(SHOP) | {"until": 5}) == SHOP


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        {},
        {"senders": ["a"], "recipients": ["b"]},
        {"senders": "a", "recipients": ["b"], "kinds": ["*"]},
        {"senders": ["a"], "recipients": [5], "kinds": ["*"]},
        {"senders": ["a"], "recipients": ["b"], "kinds": None},
    ],
)
def test_what_is_no_grant_on_the_wire_is_refused(wire: object) -> None:
    with pytest.raises(ProtocolError, match="a malformed Grant"):
        read(Grant, wire)


def test_grants_are_frozen_and_compare_by_what_they_say() -> None:
    assert Grants((SHOP,)) == Grants((SHOP,))
    assert hash(Grants((SHOP,))) == hash(Grants((SHOP,)))
    assert "_decided" not in repr(Grants((SHOP,)))
    with pytest.raises(FrozenInstanceError):
        SHOP.kinds = ("*",)  # type: ignore[misc]  # it is frozen
