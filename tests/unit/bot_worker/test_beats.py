"""When a worker says that it lives."""

from __future__ import annotations

import pytest

from dims.bot_worker.worker import TOGETHER_S, pause_to_beat_s


@pytest.mark.parametrize("every_s", [2.5, 10.0, 11.1])
@pytest.mark.parametrize("now_s", [0.0, 1_000.0, 1_000.1, 1_000.24, 98_765.4321])
def test_beats_of_all_workers_fall_on_the_same_moments(now_s: float, every_s: float) -> None:
    pause_s = pause_to_beat_s(now_s, every_s)
    assert abs(pause_s - every_s) <= TOGETHER_S / 2 + 1e-9
    assert (now_s + pause_s) % TOGETHER_S == pytest.approx(0.0, abs=1e-9)


def test_who_wakes_up_late_keeps_to_its_moments() -> None:
    due_s = 500.0
    for _ in range(100):
        woken_s = due_s + 0.02
        due_s = woken_s + pause_to_beat_s(woken_s, 10.0)
    assert due_s == pytest.approx(500.0 + 100 * 10.0)


def test_frequent_beats_are_left_alone() -> None:
    assert pause_to_beat_s(1_000.1, 0.2) == 0.2
