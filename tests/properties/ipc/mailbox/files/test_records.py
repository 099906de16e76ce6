"""Records: any bytes are read without harm, and nothing is taken for a message that was none."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from dims.ipc.mailbox.files.records import HEADER, MAGIC, Rest, count, pack, resume, scan

payload = st.binary(max_size=80)
payloads = st.lists(payload, max_size=6)
# Bytes that look like records more often than chance would have it.
pieces = st.one_of(
    st.binary(max_size=20),
    st.just(MAGIC),
    payload.map(pack),
    payload.map(lambda body: pack(body)[:-1]),
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)).map(
        lambda numbers: HEADER.pack(MAGIC, *numbers)
    ),
)
anything = st.lists(pieces, max_size=6).map(b"".join)


def borders(sent: list[bytes]) -> list[int]:
    return list(accumulate((HEADER.size + len(body) for body in sent), initial=0))


@given(anything, st.integers(0, 300), st.integers(0, 5))
def test_no_bytes_do_harm_and_what_is_found_stands_there(
    data: bytes, position: int, limit: int
) -> None:
    found = scan(data, position, limit)
    assert len(found.payloads) <= limit
    at = position
    for body, end in found.payloads:
        assert data[at:end] == pack(body)
        at = end
    assert found.position == at
    assert found.needs_bytes == 0 or found.rest is Rest.CUT


@given(payloads, st.data())
def test_a_prefix_gives_its_whole_records_and_says_whether_one_is_cut(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream, ends = b"".join(map(pack, sent)), borders(sent)
    size = data.draw(st.integers(0, len(stream)))
    found = scan(stream[:size])
    whole = sum(end <= size for end in ends[1:])
    assert found.payloads == list(zip(sent[:whole], ends[1 : whole + 1], strict=True))
    if size in ends:
        assert found.rest is Rest.NOTHING
    else:
        assert found.rest is Rest.CUT
        needed = ends[whole + 1] - ends[whole]
        begun = size - ends[whole]
        assert found.needs_bytes == (needed if begun >= HEADER.size else HEADER.size)


@given(st.lists(payload, min_size=1, max_size=6), st.data())
def test_one_changed_byte_costs_its_own_record_and_invents_none(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream, ends = bytearray(b"".join(map(pack, sent))), borders(sent)
    where = data.draw(st.integers(0, len(stream) - 1))
    stream[where] ^= data.draw(st.integers(1, 255))
    hit = sum(end <= where for end in ends[1:])
    found = scan(bytes(stream))
    assert [body for body, _ in found.payloads] == sent[:hit]
    assert found.rest is not Rest.NOTHING
    if hit + 1 < len(sent):
        next_one = resume(bytes(stream), ends[hit] + 1)
        assert next_one is not None
        assert next_one <= ends[hit + 1]


@given(anything, st.integers(0, 50))
def test_resuming_finds_the_first_record_that_checks(data: bytes, position: int) -> None:
    sound = (at for at in range(position, len(data)) if scan(data, at, 1).payloads)
    assert resume(data, position) == next(sound, None)


@given(payloads, st.data())
def test_counting_agrees_with_reading_on_sound_records(
    sent: list[bytes], data: st.DataObject
) -> None:
    stream, ends = b"".join(map(pack, sent)), borders(sent)
    first = data.draw(st.integers(0, len(sent)))
    tail = data.draw(st.sampled_from([b"", b"D", MAGIC, pack(b"cut")[:-1], b"garbage here"]))
    assert list(count(stream + tail, ends[first])) == ends[first:-1]
    assert len(scan(stream + tail, ends[first]).payloads) == len(sent) - first


@given(anything, st.integers(0, 300))
def test_counting_any_bytes_does_no_harm(data: bytes, position: int) -> None:
    positions = list(count(data, position))
    assert positions == sorted(set(positions))
    assert all(data.startswith(MAGIC, at) for at in positions)
