"""What is stored as finished: never above anything that is still in hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dims.bot_worker.telegram.watermark import Ticket, Watermark


def test_a_fresh_mark_stands_where_it_was_stored() -> None:
    assert Watermark(7).pts == 7
    assert Watermark(7).in_hand == 0


def test_the_mark_stays_below_an_update_until_its_handlers_end() -> None:
    mark = Watermark(10)
    ticket = mark.begin(10, 11)
    assert (mark.pts, mark.in_hand) == (10, 1)
    mark.finish(ticket)
    assert (mark.pts, mark.in_hand) == (11, 0)


def test_an_update_that_ends_early_waits_for_those_before_it() -> None:
    mark = Watermark(10)
    first, second, third = mark.begin(10, 11), mark.begin(11, 12), mark.begin(12, 14)
    mark.finish(third)
    mark.finish(second)
    assert mark.pts == 10
    mark.finish(first)
    assert mark.pts == 14


def test_messages_of_one_difference_hold_the_mark_until_the_last_of_them_ends() -> None:
    mark = Watermark(10)
    first, second = mark.begin(10, 15), mark.begin(10, 15)
    after = mark.begin(15, 16)
    mark.finish(first)
    mark.finish(after)
    assert mark.pts == 10
    mark.finish(second)
    assert mark.pts == 16


def test_an_update_that_comes_twice_is_in_hand_twice() -> None:
    mark = Watermark(10)
    first, again = mark.begin(10, 11), mark.begin(10, 11)
    mark.finish(again)
    assert mark.pts == 10
    mark.finish(first)
    assert mark.pts == 11


def test_what_the_account_does_itself_is_finished_at_once() -> None:
    mark = Watermark(10)
    mark.own(10, 11)
    assert (mark.pts, mark.in_hand) == (11, 0)
    ticket = mark.begin(11, 12)
    mark.own(12, 13)
    assert (mark.pts, mark.highest) == (11, 13)
    mark.finish(ticket)
    assert mark.pts == 13


def test_what_the_account_does_past_a_gap_counts_when_the_gap_is_closed() -> None:
    mark = Watermark(10)
    mark.own(13, 14)
    mark.own(12, 13)
    assert (mark.pts, mark.highest) == (10, 10)
    ticket = mark.begin(10, 12)
    assert (mark.pts, mark.highest) == (10, 14)
    mark.finish(ticket)
    assert mark.pts == 14


def test_what_the_account_did_long_before_takes_the_mark_nowhere() -> None:
    mark = Watermark(10)
    mark.own(5, 6)
    assert mark.pts == 10


@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=30),
    draw=st.data(),
)
def test_the_mark_never_passes_what_is_in_hand_and_never_goes_back(
    counts: list[int], draw: st.DataObject
) -> None:
    mark, pts = Watermark(100), 100
    in_hand: dict[Ticket, int] = {}
    stored = mark.pts
    waiting = list(counts)
    while waiting or in_hand:
        if waiting and (not in_hand or draw.draw(st.booleans())):
            before, pts = pts, pts + waiting.pop(0)
            in_hand[mark.begin(before, pts)] = before
        else:
            ticket = draw.draw(st.sampled_from(sorted(in_hand)))
            del in_hand[ticket]
            mark.finish(ticket)
        assert stored <= mark.pts <= min(in_hand.values(), default=pts)
        assert mark.in_hand == len(in_hand)
        stored = mark.pts
    assert mark.pts == pts
