"""Names in the database."""

from __future__ import annotations

import pytest

from dims.errors import UsageError
from dims.storage.names import PARTITIONS_LIMIT, Shape, literal, quoted

SHAPE = Shape(prefix="fleet")


def test_each_role_bears_the_prefix_of_its_fleet() -> None:
    roles = (SHAPE.owner, SHAPE.migrator, SHAPE.operator, SHAPE.auditor, SHAPE.bot)
    assert roles == (
        "fleet_owner",
        "fleet_migrator",
        "fleet_operator",
        "fleet_auditor",
        "fleet_bot",
    )


def test_the_name_of_a_bots_role_is_the_bot() -> None:
    assert SHAPE.bot_role("shop-1_b") == f"{SHAPE.bot_prefix}shop-1_b" == "fleet_bot_shop-1_b"
    assert SHAPE.bot_role("b" * 32)


@pytest.mark.parametrize("bot_id", ["", "Shop", "1shop", "a b", 'a"b', "b" * 33, "shop\n"])
def test_what_is_no_bot_id_names_no_role(bot_id: str) -> None:
    with pytest.raises(UsageError) as caught:
        SHAPE.bot_role(bot_id)
    assert (str(caught.value), caught.value.hint) == (
        f"{bot_id!r} is no bot id",
        "a-z, 0-9, - and _, at most 32",
    )


@pytest.mark.parametrize("partitions", [1, PARTITIONS_LIMIT])
def test_a_shape_that_can_be_made_is_itself(partitions: int) -> None:
    shape = Shape(partitions, "a" * 16)
    assert shape.check() is shape


@pytest.mark.parametrize("partitions", [0, -1, PARTITIONS_LIMIT + 1])
def test_no_database_has_so_many_partitions(partitions: int) -> None:
    with pytest.raises(UsageError, match=f"1 to {PARTITIONS_LIMIT}, not {partitions}"):
        Shape(partitions).check()


@pytest.mark.parametrize("prefix", ["", "Dims", "1a", "a-b", "a" * 17])
def test_no_role_has_such_a_prefix(prefix: str) -> None:
    with pytest.raises(UsageError) as caught:
        Shape(prefix=prefix).check()
    assert (str(caught.value), caught.value.hint) == (
        f"{prefix!r} is no prefix of roles",
        "a-z, 0-9 and _",
    )


def test_whatever_is_in_a_name_or_a_text_stays_in_it() -> None:
    assert quoted("""it's "me\"""") == """"it's ""me\"\"\""""
    assert literal("""it's "me\"""") == """'it''s "me"'"""
