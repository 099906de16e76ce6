"""Ids that follow from another."""

from __future__ import annotations

from dims.ipc.mailbox.handing.derived import derived_id
from dims.ipc.wire.envelope import ID_DIGITS, MessageId, created_s
from dims.ipc.wire.ids import new_id


def test_it_is_the_same_whenever_it_is_made_and_unlike_all_others() -> None:
    causes = [new_id(), new_id(), MessageId("short")]
    made = [derived_id(cause, number) for cause in causes for number in (-1, 0, 1)]
    assert made == [derived_id(cause, number) for cause in causes for number in (-1, 0, 1)]
    assert len({*made, *causes}) == 12
    assert {len(one) for one in made} == {ID_DIGITS}


def test_it_sorts_with_its_cause() -> None:
    cause = new_id()
    assert created_s(derived_id(cause, 0)) == created_s(cause)
