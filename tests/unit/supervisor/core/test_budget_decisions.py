"""Decisions of the connection budget that a random walk hardly ever comes to."""

from __future__ import annotations

from dims.supervisor.core import budget
from dims.supervisor.core.budget import BudgetRecord, BudgetReport
from dims.supervisor.core.facts import UnitId

BUSY, IDLE, NEW = UnitId("busy"), UnitId("idle"), UnitId("new")


def test_who_waits_for_a_second_connection_does_not_hold_up_who_has_none() -> None:
    record, _ = budget.set_total(BudgetRecord(), 2, 0.0)
    for unit in (BUSY, IDLE):
        record, words = budget.report(record, unit, BudgetReport(0, 1, 0), 1.0)
        assert [word.granted for word in words] == [1]
        record, words = budget.report(record, unit, BudgetReport(1, 1, 1), 1.0)
        assert not words
    record, words = budget.report(record, BUSY, BudgetReport(1, 2, 1), 2.0)
    assert not words, "nobody has more than it has itself"
    record, words = budget.report(record, NEW, BudgetReport(0, 1, 0), 3.0)
    assert [word.granted for word in words] == [0], "one is asked back for who has none"
