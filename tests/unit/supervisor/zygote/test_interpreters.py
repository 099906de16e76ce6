"""Which interpreters may have an immortal heap, and what the others are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dims.supervisor.zygote.interpreters import Interpreter, refusal

KNOWN = Interpreter("cpython", (3, 13), 64, "little", has_gil=True, is_debug=False)


@pytest.mark.parametrize("version", [(3, 12), (3, 13)])
def test_a_known_interpreter_is_not_refused(version: tuple[int, int]) -> None:
    assert refusal(replace(KNOWN, version=version)) == ""


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(KNOWN, name="pypy"), "pypy is not CPython"),
        (replace(KNOWN, version=(3, 11)), "3.11 has no immortal objects"),
        (replace(KNOWN, version=(3, 14)), "3.14 is not among the tested versions"),
        (replace(KNOWN, pointer_bits=32), "32 bits, little-endian"),
        (replace(KNOWN, byteorder="big"), "64 bits, big-endian"),
        (replace(KNOWN, has_gil=False), "without a GIL"),
        (replace(KNOWN, is_debug=True), "debug build"),
    ],
)
def test_any_other_is_told_why_not(other: Interpreter, said: str) -> None:
    assert said in refusal(other)
