"""Readings as a worker says them: only sound numbers count."""

from __future__ import annotations

from typing import Any

import pytest

from dims.ipc.words.fleet import MOST_READ, sound


@pytest.mark.parametrize("said", [0, 0.0, 1.5, MOST_READ - 1])
def test_a_sound_number_is_read(said: float) -> None:
    assert sound(said) == said


@pytest.mark.parametrize(
    "said", [None, "1", True, -1, -0.1, MOST_READ, float("nan"), float("inf"), [1]]
)
def test_anything_else_is_unknown(said: Any) -> None:
    assert sound(said) is None
