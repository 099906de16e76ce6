"""When a pool may try to connect: one at a time, later and later, at once where it worked."""

from __future__ import annotations

import pytest

from dims.errors import ServiceError
from dims.storage.connections.attempts import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    REFUSED_DELAY_S,
    Attempts,
)

NOW_S = 100.0
REASON = ServiceError("nobody answers")


def fail(attempts: Attempts, now_s: float, *, draw: float = 1.0, passing: bool = True) -> None:
    attempts.failed(REASON, is_passing=passing, now_s=now_s, draw=draw)


def test_before_anything_is_known_one_may_begin_and_no_other_beside_it() -> None:
    attempts = Attempts()
    assert attempts.may_begin(0.0, 0)
    assert not attempts.may_begin(0.0, 1)
    assert (attempts.failures, attempts.reason, attempts.refusal(0.0)) == (0, None, None)


def test_where_it_worked_any_number_may_begin_until_one_is_lost() -> None:
    attempts = Attempts()
    fail(attempts, NOW_S)
    attempts.succeeded()
    assert attempts.may_begin(NOW_S, 5)
    assert (attempts.failures, attempts.reason) == (0, None)
    attempts.lost()
    assert not attempts.may_begin(NOW_S + LONGEST_DELAY_S, 1)
    assert attempts.may_begin(NOW_S + LONGEST_DELAY_S, 0)


def test_after_a_failure_none_begins_before_its_time() -> None:
    attempts = Attempts()
    attempts.succeeded()
    fail(attempts, NOW_S)
    assert (attempts.failures, attempts.reason) == (1, REASON)
    assert not attempts.may_begin(attempts.not_before_s - 0.001, 0)
    assert attempts.may_begin(attempts.not_before_s, 0)
    assert not attempts.may_begin(attempts.not_before_s, 1)


def test_pauses_double_up_to_the_longest() -> None:
    attempts, now_s, pauses_s = Attempts(), NOW_S, []
    for _ in range(8):
        fail(attempts, now_s)
        pauses_s.append(attempts.not_before_s - now_s)
        now_s = attempts.not_before_s
    assert pauses_s == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])


@pytest.mark.parametrize("failures", [1, 3, 2_000])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_a_pause_is_drawn_between_the_first_and_its_ceiling(failures: int, draw: float) -> None:
    attempts, now_s = Attempts(), NOW_S
    for _ in range(failures):
        now_s = max(now_s, attempts.not_before_s)
        fail(attempts, now_s, draw=draw)
    ceiling_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(failures, 10))
    expected_s = FIRST_DELAY_S + draw * (ceiling_s - FIRST_DELAY_S)
    assert attempts.not_before_s - now_s == pytest.approx(expected_s)


def test_those_that_fail_beside_each_other_count_as_one() -> None:
    attempts = Attempts()
    fail(attempts, NOW_S)
    fail(attempts, NOW_S + 0.01)
    assert attempts.failures == 1
    fail(attempts, attempts.not_before_s)
    assert attempts.failures == 2


def test_a_refusal_that_does_not_pass_is_told_for_a_second() -> None:
    attempts = Attempts()
    fail(attempts, NOW_S, passing=False)
    assert attempts.not_before_s == NOW_S + REFUSED_DELAY_S
    assert attempts.refusal(NOW_S + REFUSED_DELAY_S - 0.001) is REASON
    assert attempts.refusal(NOW_S + REFUSED_DELAY_S) is None
    fail(attempts, NOW_S + REFUSED_DELAY_S)
    assert attempts.refusal(NOW_S + REFUSED_DELAY_S) is None, "that one passes"


def test_a_success_ends_every_refusal() -> None:
    attempts = Attempts()
    fail(attempts, NOW_S, passing=False)
    attempts.succeeded()
    assert attempts.refusal(NOW_S) is None
    attempts.lost()
    assert attempts.refusal(NOW_S) is None
