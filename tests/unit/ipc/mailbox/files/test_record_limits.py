"""The longest record, one that says it is longer, and what only looks like one."""

from __future__ import annotations

from dims.ipc.mailbox.files.records import (
    HEADER,
    MAGIC,
    RECORD_LIMIT_BYTES,
    Rest,
    count,
    pack,
    scan,
)


def test_the_longest_record_is_one() -> None:
    data = pack(bytes(RECORD_LIMIT_BYTES))
    assert scan(data).payloads == [(bytes(RECORD_LIMIT_BYTES), len(data))]
    assert scan(data[: HEADER.size]).rest is Rest.CUT


def test_what_says_that_it_is_longer_is_damage_and_is_not_waited_for() -> None:
    found = scan(HEADER.pack(MAGIC, RECORD_LIMIT_BYTES + 1, 0))
    assert (found.rest, found.needs_bytes) == (Rest.DAMAGED, 0)


def test_what_only_has_the_length_of_a_record_is_not_counted() -> None:
    one = pack(b"x")
    assert list(count(one + one, 0)) == [0, len(one)]
    assert list(count(one + HEADER.pack(b"XX", 1, 0) + b"x" + one, 0)) == [0]
