"""How long to wait after the n-th failure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usual import RESTART

from dims.supervisor.core.backoff import RestartPolicy, ceiling_s, delay_s, slow_delay_s

POLICIES = st.builds(
    partial(replace, RESTART),
    first_delay_s=st.floats(0, 1e308),
    factor=st.floats(1, 1e308),
    max_delay_s=st.floats(0, 1e308),
)


def test_each_failure_doubles_the_ceiling_up_to_the_cap() -> None:
    policy = replace(RESTART, first_delay_s=1.0, factor=2.0, max_delay_s=20.0)
    assert [ceiling_s(policy, n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 20, 20]


def test_a_first_delay_of_zero_makes_only_the_first_restart_immediate() -> None:
    policy = replace(RESTART, first_delay_s=0.0, factor=2.0, max_delay_s=20.0)
    assert [ceiling_s(policy, n) for n in range(1, 6)] == [0, 1, 2, 4, 8]


@pytest.mark.parametrize("failures", [64, 65, 66, 1_100, 10**9])
def test_thousands_of_failures_do_not_overflow(failures: int) -> None:
    policy = replace(RESTART, first_delay_s=1e-18, factor=2.0, max_delay_s=1e9)
    assert ceiling_s(policy, failures) == pytest.approx(1e-18 * 2.0 ** min(failures - 1, 64))


def test_a_factor_that_would_overflow_is_cut() -> None:
    policy = replace(RESTART, first_delay_s=1e-9, factor=1e300, max_delay_s=1e9)
    assert [ceiling_s(policy, n) for n in (1, 2, 3)] == pytest.approx([1e-9, 1e-6, 1e-3])
    assert ceiling_s(policy, 10**6) == 1e9


def test_jitter_takes_its_share_of_the_ceiling() -> None:
    policy = replace(RESTART, first_delay_s=8.0)
    assert [delay_s(policy, 1, draw) for draw in (0.0, 0.25, 1.0)] == [0.0, 2.0, 8.0]


def test_a_slow_retry_is_at_least_half_of_its_longest() -> None:
    assert [slow_delay_s(900.0, draw) for draw in (0.0, 0.5, 1.0)] == [450.0, 675.0, 900.0]


@given(POLICIES, st.integers(1, 10**9), st.floats(-9, 9))
def test_no_delay_exceeds_the_cap_whatever_the_draw(
    policy: RestartPolicy, failures: int, draw: float
) -> None:
    assert 0 <= delay_s(policy, failures, draw) <= policy.max_delay_s
    assert policy.max_delay_s / 2 <= slow_delay_s(policy.max_delay_s, draw) <= policy.max_delay_s


@given(POLICIES, st.integers(1, 200))
def test_the_ceiling_never_falls(policy: RestartPolicy, failures: int) -> None:
    assert ceiling_s(policy, failures) <= ceiling_s(policy, failures + 1)
