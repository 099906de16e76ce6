"""The longest record, and one that says it is longer."""

from __future__ import annotations

from dims.ipc.mailbox.files.records import HEADER, MAGIC, RECORD_LIMIT_BYTES, Rest, pack, scan


def test_the_longest_record_is_one() -> None:
    data = pack(bytes(RECORD_LIMIT_BYTES))
    assert scan(data).payloads == [(bytes(RECORD_LIMIT_BYTES), len(data))]
    assert scan(data[: HEADER.size]).rest is Rest.CUT


def test_what_says_that_it_is_longer_is_damage_and_is_not_waited_for() -> None:
    found = scan(HEADER.pack(MAGIC, RECORD_LIMIT_BYTES + 1, 0))
    assert (found.rest, found.needs_bytes) == (Rest.DAMAGED, 0)
