"""What becomes of a message, one fact at a time: facts in, orders out."""

from __future__ import annotations

from typing import Any

import pytest
from post import letter

from dims.errors import DimsError, RefusedError, RemoteError
from dims.ipc.mailbox.handing.judgement import (
    EXPIRED,
    INTERRUPTED,
    TRY_AGAIN_S,
    Bury,
    Count,
    Course,
    Dispatch,
    ForgetTries,
    Hand,
    Handled,
    Judgement,
    MailFact,
    NoteTry,
    Pause,
    Raised,
    Respond,
    Settle,
    Turn,
    judge,
)
from dims.ipc.retry import RetryPolicy
from dims.ipc.wire.ids import new_id

NOW_S = 1_000.0
POLICY = RetryPolicy(attempts=3, first_s=4.0, max_s=10.0)
ERROR = RemoteError("ValueError: bad")
RAISED = Raised(ERROR, "ValueError: bad")


def course(*, doubtful: bool = False, failures: int = 0, due_s: float = 0.0, **more: Any) -> Course:
    return Course(letter(id_="1" * 32, **more), doubtful, failures, due_s)


def judged(before: Course, fact: MailFact) -> Judgement:
    return judge(before, fact, POLICY, NOW_S, 0.5)


def told(found: Judgement) -> list[DimsError]:
    return [order.error for order in found.orders if isinstance(order, Respond)]


# Its turn


@pytest.mark.parametrize(
    ("before", "hand"),
    [
        (course(), Hand(1, is_again=False)),
        (course(doubtful=True), Hand(1, is_again=True)),
        (course(failures=2), Hand(3, is_again=True)),
        (course(failures=1, due_s=NOW_S), Hand(2, is_again=True)),
    ],
)
def test_a_message_goes_to_its_handler_with_the_number_of_the_try(
    before: Course, hand: Hand
) -> None:
    assert judged(before, Turn()) == Judgement(before, (), hand)


@pytest.mark.parametrize("doubtful", [False, True])
def test_what_is_known_is_settled_without_its_handler(doubtful: bool) -> None:
    before = course(doubtful=doubtful, expires_s=1.0)
    fact = Turn(is_known=True, was_in_hand=True, is_permitted=False)
    orders = (Count("duplicates"), Settle(at_once=doubtful))
    assert judged(before, fact) == Judgement(before, orders)


@pytest.mark.parametrize("doubtful", [False, True])
def test_what_is_expired_is_a_dead_letter_of_which_nobody_is_told(doubtful: bool) -> None:
    before = course(doubtful=doubtful, failures=1, expires_s=NOW_S, wants_reply=True)
    orders = (Count("expired"), Bury(1, EXPIRED), Settle(at_once=doubtful))
    assert judged(before, Turn(is_permitted=False)) == Judgement(before, orders)


def test_what_expires_later_has_its_turn() -> None:
    assert judged(course(expires_s=NOW_S + 0.1), Turn()).then == Hand(1, is_again=False)


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (Turn(is_permitted=False), "no grant lets a send 'n'"),
        (Turn(has_handler=False), "no handler for 'n'"),
        (Turn(is_permitted=False, has_handler=False, was_in_hand=True), "no grant lets a send 'n'"),
    ],
)
def test_what_no_handler_may_have_is_a_dead_letter(fact: Turn, reason: str) -> None:
    before = course()
    assert judged(before, fact) == Judgement(before, (Bury(0, reason), Settle()))
    asked = judged(course(failures=1, doubtful=True, wants_reply=True), fact)
    (error,) = told(asked)
    assert (type(error), str(error)) == (RefusedError, reason)
    assert asked.orders[1:] == (Bury(1, reason), Settle(at_once=True), Dispatch())
    assert asked.then is None


def test_an_answer_needs_no_grant_no_handler_and_no_time() -> None:
    answer = course(reply_to=new_id(), expires_s=1.0)
    found = judged(answer, Turn(is_permitted=False, has_handler=False))
    assert found == Judgement(answer, (), Hand(1, is_again=False))


def test_a_pause_that_was_noted_goes_on() -> None:
    before = course(failures=1, due_s=NOW_S + 3.0)
    assert judged(before, Turn()) == Judgement(course(failures=1), (), Pause(3.0))


def test_no_pause_is_longer_than_the_longest_though_the_clock_was_set_back() -> None:
    assert judged(course(failures=1, due_s=NOW_S + 1e6), Turn()).then == Pause(POLICY.max_s)


# In hand when its reader ended


def test_a_try_that_ended_with_its_reader_counts_before_the_next_begins() -> None:
    found = judged(course(doubtful=True), Turn(was_in_hand=True))
    note = NoteTry(1, NOW_S, INTERRUPTED, at_once=True)
    after = course(doubtful=True, failures=1)
    assert found == Judgement(after, (note,), Hand(2, is_again=True))


def test_a_reader_that_ends_shortens_no_pause_not_even_for_the_one_after_it() -> None:
    due_s = NOW_S + 5.0
    found = judged(course(doubtful=True, failures=1, due_s=due_s), Turn(was_in_hand=True))
    assert found.orders == (NoteTry(2, due_s, INTERRUPTED, at_once=True),)
    assert found.then == Pause(5.0)


def test_a_message_that_ends_its_readers_is_a_dead_letter_after_all_its_tries() -> None:
    before = course(doubtful=True, failures=2)
    found = judged(before, Turn(was_in_hand=True))
    assert found == Judgement(before, (Bury(3, INTERRUPTED), Settle(at_once=True)))
    (error,) = told(judged(course(failures=2, wants_reply=True), Turn(was_in_hand=True)))
    assert (type(error), str(error)) == (RemoteError, INTERRUPTED)


# Handled


@pytest.mark.parametrize("doubtful", [False, True])
def test_what_is_handled_is_settled_and_remembered(doubtful: bool) -> None:
    before = course(doubtful=doubtful)
    settle = Settle(remembers=True, at_once=doubtful)
    assert judged(before, Handled()) == Judgement(before, (settle,))


def test_what_a_transaction_settled_is_not_settled_again() -> None:
    assert judged(course(), Handled(is_settled=True)) == Judgement(course())


def test_what_was_noted_of_its_tries_is_forgotten() -> None:
    assert judged(course(failures=1), Handled()).orders == (ForgetTries(), Settle(remembers=True))
    assert judged(course(failures=1), Handled(is_settled=True)).orders == (ForgetTries(),)


def test_an_answer_goes_out_with_the_settling_of_its_request() -> None:
    asked = course(wants_reply=True)
    assert judged(asked, Handled()).orders == (Settle(remembers=True), Dispatch())
    assert judged(asked, Handled(is_settled=True)).orders == (Dispatch(),)


# Raised


def test_a_try_in_vain_is_noted_and_followed_by_another_after_a_pause() -> None:
    found = judged(course(failures=1, due_s=3.0, doubtful=True), RAISED)
    pause_s = POLICY.pause_s(2, 0.5)
    assert pause_s == 6.0
    after = course(failures=2, doubtful=True)
    note = NoteTry(2, NOW_S + pause_s, RAISED.reason)
    assert found == Judgement(after, (note,), Pause(pause_s))


@pytest.mark.parametrize(
    ("failures", "fact"),
    [
        (2, RAISED),
        (0, Raised(ERROR, "ValueError: bad", is_hopeless=True)),
        (0, Raised(ERROR, "ValueError: bad", is_hopeless=True, trouble="disk")),
    ],
)
def test_the_last_try_in_vain_makes_a_dead_letter(failures: int, fact: Raised) -> None:
    orders = (Bury(failures + 1, RAISED.reason), Settle())
    before = course(failures=failures)
    assert judged(before, fact) == Judgement(before, orders)
    asked = judged(course(failures=failures, wants_reply=True), fact)
    assert asked.orders == (Respond(ERROR), *orders, Dispatch())


def test_a_try_that_cannot_be_noted_is_not_held_against_a_message() -> None:
    fact = Raised(ERROR, "ValueError: bad", trouble="disk full")
    found = judged(course(failures=2), fact)
    after = course(failures=2, doubtful=True)
    assert found == Judgement(after, (), Pause(TRY_AGAIN_S, "disk full"))


def test_what_a_transaction_settled_is_over_though_its_handler_fails_afterwards() -> None:
    fact = Raised(ERROR, "ValueError: bad", is_settled=True, trouble="disk full")
    assert judged(course(), fact) == Judgement(course())
    asked = course(wants_reply=True)
    assert judged(asked, fact).orders == (Respond(ERROR), Dispatch())
    answered = Raised(ERROR, "ValueError: bad", is_settled=True, is_answered=True)
    assert judged(asked, answered).orders == (Dispatch(),)
