"""Dialogues with the fleet: who asks, who is granted."""

from __future__ import annotations

from dims.supervisor.core import pacing as fleet
from dims.supervisor.core.facts import UnitId
from dims.supervisor.core.pacing import (
    FleetDecision,
    FleetOrder,
    FleetRecord,
    LetStart,
    Pace,
    WakeAfter,
    Wish,
)

A, B, C, D = (UnitId(name) for name in "abcd")
ZYGOTE, SANDBOX = UnitId("zygote"), UnitId("sandbox")


class Talk:
    """A dialogue: each call returns what the fleet orders."""

    def __init__(self, at_once: int = 8, ration: int | None = None) -> None:
        self.record = FleetRecord(Pace(at_once, ration))
        self.now_s = 100.0

    def _heard(self, decision: FleetDecision) -> list[FleetOrder]:
        self.record, orders = decision
        return list(orders)

    def wish(self, unit: UnitId, *needs: UnitId, cold: bool = False) -> list[FleetOrder]:
        return self._heard(fleet.wish(self.record, Wish(unit, cold, frozenset(needs)), self.now_s))

    def withdraw(self, unit: UnitId) -> list[FleetOrder]:
        return self._heard(fleet.withdraw(self.record, unit, self.now_s))

    def up(self, unit: UnitId) -> list[FleetOrder]:
        return self._heard(fleet.service_up(self.record, unit, self.now_s))

    def down(self, unit: UnitId) -> list[FleetOrder]:
        return self._heard(fleet.service_down(self.record, unit))

    def wake(self, later_s: float = 0.0) -> list[FleetOrder]:
        self.now_s += later_s
        return self._heard(fleet.wake(self.record, self.now_s))


def test_a_free_place_is_granted_at_once_and_the_next_when_one_is_ready() -> None:
    talk = Talk(at_once=2)
    assert talk.wish(A) == [LetStart(A)]
    assert talk.wish(B) == [LetStart(B)]
    assert talk.wish(C) == []
    assert talk.wish(D) == []
    assert talk.withdraw(A) == [LetStart(C)]
    assert talk.withdraw(B) == [LetStart(D)]


def test_who_withdraws_while_waiting_is_not_granted() -> None:
    talk = Talk(at_once=1)
    talk.wish(A)
    talk.wish(B)
    talk.wish(C)
    assert talk.withdraw(B) == []
    assert talk.withdraw(A) == [LetStart(C)]
    assert talk.record.waiting == ()


def test_a_second_wish_gives_up_the_place_of_the_first() -> None:
    talk = Talk(at_once=1)
    talk.wish(A)
    talk.wish(B)
    talk.wish(C)
    talk.wish(B)
    assert [wanted.unit for wanted in talk.record.waiting] == [C, B]
    assert talk.wish(A) == [LetStart(C)]
    assert talk.withdraw(C) == [LetStart(B)]


def test_nobody_starts_before_all_it_needs_is_up() -> None:
    talk = Talk()
    assert talk.wish(A, ZYGOTE, SANDBOX) == []
    assert talk.wish(B) == [LetStart(B)]
    assert talk.up(ZYGOTE) == []
    assert talk.up(SANDBOX) == [LetStart(A)]


def test_a_service_that_went_down_holds_those_who_wait_for_a_place() -> None:
    talk = Talk(at_once=1)
    talk.up(ZYGOTE)
    talk.wish(A)
    talk.wish(B, ZYGOTE)
    talk.wish(C)
    assert talk.down(ZYGOTE) == []
    assert talk.withdraw(A) == [LetStart(C)]
    assert talk.withdraw(C) == []
    assert talk.up(ZYGOTE) == [LetStart(B)]


def test_who_waited_for_a_service_keeps_its_place() -> None:
    talk = Talk(at_once=1)
    talk.wish(A)
    talk.wish(B, ZYGOTE)
    talk.wish(C)
    talk.up(ZYGOTE)
    assert talk.withdraw(A) == [LetStart(B)]


def test_who_withdrew_while_its_service_was_down_is_forgotten() -> None:
    talk = Talk()
    talk.wish(A, ZYGOTE)
    talk.withdraw(A)
    talk.wish(B, ZYGOTE)
    talk.wish(B)
    assert talk.up(ZYGOTE) == []
    assert talk.record.starting == {B}


def test_cold_logins_are_rationed_and_warm_starts_go_past_them() -> None:
    talk = Talk(ration=1)
    assert talk.wish(A, cold=True) == [LetStart(A)]
    assert talk.wish(B, cold=True) == [WakeAfter(60.0)]
    assert talk.wish(C) == [LetStart(C)]
    assert talk.wake(59.0) == [WakeAfter(1.0)]
    assert talk.wake(1.0) == [LetStart(B)]


def test_a_ration_of_several_frees_each_after_its_own_minute() -> None:
    talk = Talk(ration=2)
    talk.wish(A, cold=True)
    talk.now_s += 20.0
    talk.wish(B, cold=True)
    assert talk.wish(C, cold=True) == [WakeAfter(40.0)]
    assert talk.wish(D, cold=True) == []
    assert talk.wake(40.0) == [LetStart(C), WakeAfter(20.0)]
    assert talk.wake(20.0) == [LetStart(D)]


def test_the_engine_is_asked_once_for_a_call_and_again_only_when_it_called() -> None:
    talk = Talk(ration=1)
    talk.wish(A, cold=True)
    assert talk.wish(B, cold=True) == [WakeAfter(60.0)]
    assert talk.wish(C, cold=True) == []
    talk.now_s += 60.0
    assert talk.withdraw(A) == [LetStart(B)]
    assert talk.wake() == [WakeAfter(60.0)]


def test_a_cold_wish_that_came_first_goes_first_once_it_may() -> None:
    talk = Talk(at_once=2, ration=1)
    talk.wish(A, cold=True)
    talk.wish(B, cold=True)
    talk.wish(C)
    talk.wish(D)
    talk.now_s += 60.0
    assert talk.withdraw(C) == [LetStart(B)]
    assert talk.withdraw(A) == [LetStart(D)]


def test_nobody_asks_for_a_call_when_no_cold_wish_is_left() -> None:
    talk = Talk(ration=1)
    talk.wish(A, cold=True)
    talk.wish(B, cold=True)
    assert talk.withdraw(B) == []
    assert talk.wake() == []


def test_a_ration_of_zero_lets_no_cold_login_through_and_asks_for_nothing() -> None:
    talk = Talk(ration=0)
    assert talk.wish(A, cold=True) == []
    assert talk.wish(B) == [LetStart(B)]


def test_without_a_ration_cold_logins_are_paced_like_all_others() -> None:
    talk = Talk(at_once=3)
    assert talk.wish(A, cold=True) == [LetStart(A)]
    assert talk.wish(B, cold=True) == [LetStart(B)]
    assert talk.wish(C, cold=True) == [LetStart(C)]


def test_a_ration_that_is_lowered_counts_the_logins_of_the_last_minute() -> None:
    talk = Talk()
    talk.wish(A, cold=True)
    talk.record.pace = Pace(8, cold_logins_per_minute=1)
    assert talk.wish(B, cold=True) == [WakeAfter(60.0)]


def test_ten_thousand_wishes_leave_nothing_behind() -> None:
    talk = Talk(at_once=1, ration=1)
    for n in range(10_000):
        talk.wish(UnitId(f"bot-{n}"), cold=n % 2 == 0)
        talk.withdraw(UnitId(f"bot-{n}"))
    assert len(talk.record.warm) + len(talk.record.cold) <= 2
    assert not talk.record.wishes
    talk.wake(61.0)
    assert not talk.record.cold_at_s
