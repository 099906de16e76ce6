"""Names of segment files: what they say, and in which order they come."""

from __future__ import annotations

import pytest

from dims.ipc.mailbox.files.file_names import SegmentName, Writer, next_number, parse_name
from dims.ipc.wire.envelope import Priority

NAME = SegmentName(Writer("echo"), Priority.NORMAL, 0x6423F1E0A7B40, "3f9c")


def test_a_name_reads_as_it_was_written() -> None:
    assert str(NAME) == "echo~2~0006423f1e0a7b40-3f9c.seg"
    assert parse_name(str(NAME)) == NAME
    assert NAME.lane == (Writer("echo"), Priority.NORMAL)


def test_of_many_processes_under_one_name_each_has_its_lane_and_all_one_sender() -> None:
    one, two = (SegmentName(Writer(f"operator+{pid}"), Priority.HIGH, 1, "0000") for pid in (7, 8))
    assert one.lane != two.lane
    assert one.sender == two.sender == "operator"
    assert parse_name(str(one)) == one


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".seg",
        "reader.db",
        "reader.lock",
        ".123-echo~2~0006423f1e0a7b40-3f9c.seg",
        "echo~4~0006423f1e0a7b40-3f9c.seg",
        "echo~2~6423f1e0a7b40-3f9c.seg",
        "echo~2~0006423F1E0A7B40-3f9c.seg",
        "echo~2~0006423f1e0a7b40.seg",
        "echo~2~0006423f1e0a7b40-3f9c.seg~",
        "echo~2~0006423f1e0a7b40-3f9c.seg\n",
        "Echo~2~0006423f1e0a7b40-3f9c.seg",
        "../echo~2~0006423f1e0a7b40-3f9c.seg",
        "e" * 65 + "~2~0006423f1e0a7b40-3f9c.seg",
    ],
)
def test_foreign_names_are_none(name: str) -> None:
    assert parse_name(name) is None


def test_numbers_follow_the_clock_and_grow_though_it_goes_back() -> None:
    assert next_number([], 1_000) == 1_000
    assert next_number([900], 1_000) == 1_000
    assert next_number([1_000], 1_000) == 1_001
    numbers: list[int] = []
    for now_us in (5_000, 4_000, 3_000, 10, 6_000):
        numbers.append(next_number(numbers, now_us))
    assert numbers == [5_000, 5_001, 5_002, 5_003, 6_000]


def test_names_sort_by_number_within_a_lane_as_text_and_as_names() -> None:
    names = [
        SegmentName(Writer("a"), Priority.LOW, number, salt)
        for number, salt in ((2, "ffff"), (1, "0001"), (2**63, "0000"), (16, "0000"))
    ]
    assert list(map(str, sorted(names))) == sorted(map(str, names))
    assert [name.number for name in sorted(names)] == [1, 2, 16, 2**63]
