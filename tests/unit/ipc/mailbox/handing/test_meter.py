"""How often something happens: by hand, second for second."""

from __future__ import annotations

import pytest

from dims.ipc.mailbox.handing.meter import SPAN_S, Meter

BEGAN_S = 1_000.5


def test_before_anything_happens_the_rate_is_nothing() -> None:
    assert Meter(BEGAN_S).per_s(BEGAN_S) == 0.0


def test_what_happens_in_the_first_second_counts_as_in_a_whole_one() -> None:
    meter = Meter(BEGAN_S)
    meter.add(BEGAN_S)
    meter.add(BEGAN_S + 0.1)
    assert meter.per_s(BEGAN_S + 0.2) == 2.0


def test_the_rate_is_over_the_time_since_the_beginning() -> None:
    meter = Meter(BEGAN_S)
    for second in range(10):
        meter.add(BEGAN_S + second)
    assert meter.per_s(BEGAN_S + 20) == 0.5


def test_what_is_older_than_a_minute_counts_no_more() -> None:
    meter = Meter(BEGAN_S)
    meter.add(BEGAN_S)
    meter.add(BEGAN_S + 1)
    assert meter.per_s(BEGAN_S + SPAN_S - 1) == pytest.approx(2 / (SPAN_S - 1))
    assert meter.per_s(BEGAN_S + SPAN_S) == 1 / SPAN_S
    assert meter.per_s(BEGAN_S + SPAN_S + 1) == 0.0


def test_a_second_that_comes_again_after_a_minute_begins_anew() -> None:
    meter = Meter(BEGAN_S)
    for _ in range(5):
        meter.add(BEGAN_S)
    meter.add(BEGAN_S + SPAN_S)
    assert meter.per_s(BEGAN_S + SPAN_S) == 1 / SPAN_S


@pytest.mark.parametrize("after_s", [SPAN_S, 1.5 * SPAN_S, 1e6])
def test_after_a_long_silence_nothing_of_before_is_left(after_s: float) -> None:
    meter = Meter(BEGAN_S)
    for second in range(SPAN_S):
        meter.add(BEGAN_S + second)
    later_s = BEGAN_S + SPAN_S + after_s
    meter.add(later_s)
    assert meter.per_s(later_s) == 1 / SPAN_S


def test_what_is_told_late_counts_as_now_and_undoes_nothing() -> None:
    meter = Meter(BEGAN_S)
    meter.add(BEGAN_S + 10)
    meter.add(BEGAN_S + 5)
    assert meter.per_s(BEGAN_S + 10) == 0.2
    assert meter.per_s(BEGAN_S + 2) == 1.0
    assert meter.per_s(BEGAN_S + 10) == 0.2
