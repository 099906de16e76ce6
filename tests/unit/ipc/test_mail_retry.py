"""Pauses between tries: they grow, stay within bounds, and end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from usual import RETRY

from dims.ipc.retry import RetryPolicy


@pytest.mark.parametrize("failures", [1, 2, 10, 1_100, 10**6, 10**30])
@pytest.mark.parametrize("draw", [0.0, 0.5, 0.999_999])
def test_a_pause_is_between_half_of_the_first_and_the_longest(failures: int, draw: float) -> None:
    policy = RetryPolicy(attempts=10**31, first_s=0.2, max_s=30.0)
    pause_s = policy.pause_s(failures, draw)
    assert pause_s is not None
    assert 0.1 <= pause_s <= 30.0


def test_pauses_double_until_the_longest() -> None:
    policy = RetryPolicy(attempts=100, first_s=1.0, max_s=10.0)
    assert [policy.pause_s(n, 1.0) for n in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert [policy.pause_s(n, 0.0) for n in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_there_are_as_many_tries_as_allowed(attempts: int) -> None:
    policy = replace(RETRY, attempts=attempts)
    pauses = [policy.pause_s(n, 0.5) for n in range(1, attempts + 2)]
    assert None not in pauses[: attempts - 1]
    assert pauses[attempts - 1 :] == [None, None]


def test_the_longest_pause_holds_even_for_the_first() -> None:
    pause_s = RetryPolicy(attempts=2, first_s=100.0, max_s=5.0).pause_s(1, 0.999)
    assert pause_s is not None
    assert pause_s <= 5.0
