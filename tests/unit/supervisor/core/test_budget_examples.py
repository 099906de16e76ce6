"""The connection budget by example: shares, lending, asking back, what it costs."""

from __future__ import annotations

import time

import pytest

from dims.supervisor.core import budget
from dims.supervisor.core.budget import BudgetRecord, BudgetReport
from dims.supervisor.core.facts import UnitId

ADA, BOB, EVE = UnitId("ada"), UnitId("bob"), UnitId("eve")


class Lender:
    """A budget, a clock in the test's hand, and workers that answer what they are told."""

    def __init__(self, total: int) -> None:
        self.now_s = 100.0
        self.record = BudgetRecord()
        self.words: dict[UnitId, tuple[int, int]] = {}
        self._said(budget.set_total(self.record, total, self.now_s))

    def _said(self, decision: budget.Decision) -> dict[UnitId, int]:
        self.record, words = decision
        self.words.update({word.unit: (word.number, word.granted) for word in words})
        return {word.unit: word.granted for word in words}

    def reports(
        self, unit: UnitId, holds: int, wants: int, *, seen: int | None = None, renews: bool = False
    ) -> dict[UnitId, int]:
        """A second later; knows the last word unless another number is `seen`. Who is told what."""
        self.now_s += 1.0
        seen = self.words.get(unit, (0, 0))[0] if seen is None else seen
        report = BudgetReport(holds, wants, seen)
        return self._said(budget.report(self.record, unit, report, self.now_s, renews=renews))

    def uses(self, unit: UnitId, number: int) -> None:
        """Asks, gets and opens so many."""
        self.reports(unit, 0, number)
        assert self.words[unit][1] == number
        assert self.reports(unit, number, number) == {}

    def ends(self, unit: UnitId) -> dict[UnitId, int]:
        return self._said(budget.gone(self.record, unit, self.now_s))

    def total(self, total: int) -> dict[UnitId, int]:
        return self._said(budget.set_total(self.record, total, self.now_s))


@pytest.mark.parametrize(
    ("connections", "workers", "share", "left"),
    [(92, 10, 4, 52), (92, 22, 4, 4), (92, 23, 4, 0), (92, 30, 3, 2), (92, 100, 0, 92),
     (92, 0, 0, 92), (0, 5, 0, 1), (1, 1, 1, 0)],
)  # fmt: skip
def test_a_share_is_at_most_a_pool_and_the_rest_is_lent(
    connections: int, workers: int, share: int, left: int
) -> None:
    assert budget.share_of(connections, workers, most=4) == (share, left)


@pytest.mark.parametrize(
    ("most", "reserved", "usable"), [(100, 3, 89), (500, 3, 469), (20, 3, 13), (5, 3, 1), (1, 3, 1)]
)
def test_some_connections_are_for_others(most: int, reserved: int, usable: int) -> None:
    assert budget.usable(most, reserved) == usable


def test_what_is_free_is_lent_at_once() -> None:
    lender = Lender(3)
    assert lender.reports(ADA, 0, 2) == {ADA: 2}
    assert lender.record.lent == 2


def test_who_waits_is_served_in_order_of_arrival() -> None:
    lender = Lender(1)
    lender.uses(ADA, 1)
    assert lender.reports(BOB, 0, 1) == {ADA: 1 - 1}
    assert lender.reports(EVE, 0, 1) == {}
    assert lender.reports(ADA, 0, 0) == {BOB: 1}
    assert lender.reports(BOB, 1, 1) == {BOB: 0}, "taken up, so it may be asked back"
    assert lender.reports(BOB, 0, 0) == {EVE: 1}
    assert lender.record.waited_max_s == 3.0


def test_who_has_most_gives_one_back() -> None:
    lender = Lender(4)
    lender.uses(ADA, 1)
    lender.uses(BOB, 3)
    assert lender.reports(EVE, 0, 1) == {BOB: 2}
    assert lender.reports(BOB, 3, 2) == {}, "it is still open"
    assert lender.reports(BOB, 2, 2) == {EVE: 1}


def test_who_has_most_gives_one_back_whoever_came_first() -> None:
    lender = Lender(5)
    lender.uses(ADA, 3)
    lender.uses(BOB, 2)
    assert lender.reports(EVE, 0, 1) == {ADA: 2}


def test_who_gave_one_back_and_wants_it_stands_behind_who_waits() -> None:
    lender = Lender(2)
    lender.uses(ADA, 2)
    lender.reports(BOB, 0, 1)
    assert list(lender.record.queue) == [BOB, ADA]


def test_what_is_open_and_not_in_use_stays_with_who_has_it() -> None:
    lender = Lender(2)
    lender.uses(ADA, 1)
    lender.reports(ADA, 1, 0)
    assert (lender.record.granted, lender.record.lent) == (1, 1)


def test_who_has_as_many_as_others_takes_nothing_from_them() -> None:
    lender = Lender(2)
    lender.uses(ADA, 1)
    lender.uses(BOB, 1)
    assert lender.reports(ADA, 1, 2) == {}


def test_what_was_just_given_is_not_taken_back_before_it_was_used() -> None:
    lender = Lender(1)
    assert lender.reports(ADA, 0, 1) == {ADA: 1}
    assert lender.reports(BOB, 0, 1) == {}, "Ada has not even heard of hers"
    assert lender.reports(ADA, 1, 1) == {ADA: 0}


def test_a_report_that_crossed_a_word_changes_nothing() -> None:
    lender = Lender(2)
    lender.uses(ADA, 2)
    assert lender.reports(BOB, 0, 1) == {ADA: 1}
    former = lender.words[ADA][0] - 1
    assert lender.reports(ADA, 2, 2, seen=former) == {}
    assert lender.record.lent == 2


def test_a_report_that_crossed_what_was_given_gives_nothing_back() -> None:
    lender = Lender(2)
    lender.reports(ADA, 0, 1)
    lender.reports(ADA, 0, 0, seen=0)
    assert (lender.record.granted, lender.record.lent) == (1, 1)


def test_a_report_that_crossed_a_word_counts_what_is_open_if_that_is_more() -> None:
    lender = Lender(3)
    lender.uses(ADA, 1)
    lender.reports(ADA, 1, 1, renews=True)
    assert lender.reports(ADA, 3, 3, seen=1) == {}, "nothing is left to lend"
    assert lender.record.lent == 3


def test_a_report_that_crossed_a_word_spares_nobody_from_giving_back() -> None:
    lender = Lender(3)
    lender.uses(ADA, 3)
    assert lender.reports(BOB, 0, 1) == {ADA: 2}
    former = lender.words[ADA][0] - 1
    assert lender.reports(ADA, 3, 3, seen=former) == {}
    assert lender.reports(EVE, 0, 1) == {ADA: 1}


def test_who_has_heard_no_word_gets_one_for_what_it_holds() -> None:
    lender = Lender(4)
    assert lender.reports(ADA, 2, 2, seen=0) == {ADA: 2}
    assert lender.record.lent == 2


def test_nothing_counts_as_free_before_the_worker_said_so_or_has_ended() -> None:
    lender = Lender(1)
    lender.uses(ADA, 1)
    lender.reports(BOB, 0, 1)
    lender.reports(ADA, 1, 0)
    assert lender.record.lent == 1
    assert lender.ends(ADA) == {BOB: 1}


def test_the_end_of_who_waits_gives_its_place_to_the_next() -> None:
    lender = Lender(1)
    lender.uses(ADA, 1)
    lender.reports(BOB, 0, 1)
    lender.reports(EVE, 0, 1)
    lender.ends(BOB)
    assert lender.reports(ADA, 0, 0) == {EVE: 1}


def test_a_worker_of_a_former_brain_counts_in_full_until_it_reports() -> None:
    lender = Lender(5)
    lender.record = budget.former(lender.record, ADA, 4)
    assert lender.record.lent == 4
    assert lender.reports(BOB, 0, 2) == {BOB: 1}
    # It holds two by the seventh word of the former brain: those go on, the rest is free.
    assert lender.reports(ADA, 2, 2, seen=7, renews=True) == {BOB: 2, ADA: 2}
    assert lender.words[ADA][0] == 8
    assert lender.record.lent == 4


def test_a_worker_of_a_former_brain_that_ends_unheard_frees_all() -> None:
    lender = Lender(4)
    lender.record = budget.former(lender.record, ADA, 4)
    assert lender.reports(BOB, 0, 1) == {}
    assert lender.ends(ADA) == {BOB: 1}


def test_a_renewal_is_answered_although_nothing_has_changed() -> None:
    lender = Lender(2)
    lender.uses(ADA, 1)
    assert lender.reports(ADA, 1, 1) == {}
    assert lender.reports(ADA, 1, 1, renews=True) == {ADA: 1}


def test_a_total_that_shrinks_is_asked_back_and_nothing_is_lent_meanwhile() -> None:
    lender = Lender(4)
    lender.uses(ADA, 3)
    assert lender.total(1) == {ADA: 1}
    lender.reports(BOB, 0, 1)
    lender.reports(ADA, 2, 1)
    assert BOB not in lender.words, "more are open than there are"
    lender.reports(ADA, 0, 0)
    assert lender.words[BOB][1] == 1


def test_a_total_that_shrinks_takes_nothing_that_is_on_its_way() -> None:
    lender = Lender(1)
    assert lender.reports(ADA, 0, 1) == {ADA: 1}
    assert lender.total(0) == {}
    assert lender.reports(ADA, 1, 1) == {ADA: 0}


def test_a_total_that_shrinks_leaves_something_to_who_waits() -> None:
    lender = Lender(3)
    lender.uses(ADA, 3)
    assert lender.reports(BOB, 0, 1) == {ADA: 2}
    assert lender.total(1) == {ADA: 0}
    assert lender.reports(ADA, 0, 0) == {BOB: 1}


@pytest.mark.parametrize(
    "lie", [BudgetReport(-5, -5, -5), BudgetReport(40, 40, 2**53), BudgetReport(0, 9, 99)]
)
def test_whatever_is_reported_the_sums_stay_true(lie: BudgetReport) -> None:
    lender = Lender(3)
    lender.uses(BOB, 2)
    for _ in range(3):
        lender.record, _ = budget.report(lender.record, ADA, lie, lender.now_s)
        holders = lender.record.holders.values()
        assert lender.record.lent == sum(holder.charged for holder in holders)
        assert lender.record.granted == sum(holder.granted for holder in holders)
    lender.ends(ADA)
    assert lender.record.lent == 2
    assert lender.record.holders.keys() == {BOB}


@pytest.mark.parametrize("total", [10, 100, 900])
def test_a_thousand_workers_that_contend_cost_well_under_a_millisecond_a_report(total: int) -> None:
    lender = Lender(total)
    units = [UnitId(f"bot{n}") for n in range(1_000)]
    reports = 0
    began_s = time.process_time()
    for wants in (1, 4, 2, 4):
        for unit in units:
            granted = lender.words.get(unit, (0, 0))[1]
            lender.reports(unit, granted, wants)
            reports += 1
    took_s = time.process_time() - began_s
    assert lender.record.lent <= total
    assert took_s / reports < 0.001, f"{took_s / reports * 1e6:.0f} us per report"
