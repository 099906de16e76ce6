"""From what the kernel counts to percent of a core."""

from __future__ import annotations

import pytest

from dims.system.cpu_times import ProcessTimes, Spent, core_percent, family_times

ZYGOTE, WORKER, CHILD, GRANDCHILD, STRANGER = 10, 20, 30, 40, 50


def times(pid: int, parent: int, own_s: float, reaped_s: float = 0.0) -> ProcessTimes:
    return ProcessTimes(pid, parent, own_s, reaped_s)


def test_a_second_of_two_is_half_a_core_and_two_cores_are_two_hundred() -> None:
    before = Spent(1, at_s=100.0, cpu_s=7.0)
    assert core_percent(before, Spent(1, 102.0, 8.0)) == 50.0
    assert core_percent(before, Spent(1, 102.0, 11.0)) == 200.0
    assert core_percent(before, Spent(1, 102.0, 7.0)) == 0.0


def test_nothing_is_said_of_a_life_that_was_not_there_before() -> None:
    assert core_percent(None, Spent(1, 102.0, 8.0)) is None


def test_a_process_that_got_a_used_pid_or_name_is_another_life() -> None:
    assert core_percent(Spent(1, 100.0, 7.0), Spent(2, 102.0, 8.0)) is None


@pytest.mark.parametrize("at_s", [100.0, 99.0])
def test_nothing_is_said_when_the_clock_stands_or_goes_back(at_s: float) -> None:
    assert core_percent(Spent(1, 100.0, 7.0), Spent(1, at_s, 8.0)) is None


def test_a_family_that_a_child_has_left_has_used_nothing_and_not_less() -> None:
    assert core_percent(Spent(1, 100.0, 7.0), Spent(1, 102.0, 3.0)) == 0.0


def test_children_count_for_the_nearest_head_above_them() -> None:
    processes = [
        times(ZYGOTE, 1, 1.0),
        times(WORKER, ZYGOTE, 2.0),
        times(CHILD, WORKER, 4.0),
        times(GRANDCHILD, CHILD, 8.0),
        times(STRANGER, 1, 16.0),
    ]
    assert family_times(processes, {ZYGOTE, WORKER}) == {ZYGOTE: 1.0, WORKER: 14.0}


def test_a_child_that_ended_takes_nothing_away() -> None:
    lives = [times(WORKER, 1, 2.0, reaped_s=1.0), times(CHILD, WORKER, 4.0)]
    ended = [times(WORKER, 1, 2.0, reaped_s=5.0)]
    assert family_times(lives, {WORKER}) == family_times(ended, {WORKER}) == {WORKER: 7.0}


def test_a_worker_that_ended_is_no_use_of_the_zygote_that_waited_for_it() -> None:
    ended = [times(ZYGOTE, 1, 1.0, reaped_s=90.0)]
    assert family_times(ended, {ZYGOTE}, nurses={ZYGOTE}) == {ZYGOTE: 1.0}


def test_a_head_that_is_gone_has_no_times() -> None:
    assert family_times([times(CHILD, WORKER, 4.0)], {WORKER, ZYGOTE}) == {WORKER: 4.0}
    assert family_times([], {WORKER}) == {}


def test_a_circle_of_parents_belongs_to_nobody() -> None:
    circle = [times(CHILD, GRANDCHILD, 1.0), times(GRANDCHILD, CHILD, 1.0)]
    assert family_times(circle, {WORKER}) == {}
