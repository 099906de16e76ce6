"""What is promised of a message over time, whatever its handler, its readers and the clock do.

One message in a simulated mailbox: a handler that fails as it is told, readers that are killed, a
ledger that keeps late or not at all, a UTC clock that may be set back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from usual import RETRY

from dims.errors import RemoteError
from dims.ipc.mailbox.handing.judgement import (
    Bury,
    Course,
    Dispatch,
    Hand,
    Handled,
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
from dims.ipc.wire.envelope import Address, Envelope, MessageId

DISK_FULL = "the disk is full"
ROUNDING_S = 1e-6


class Life:
    """The message, its reader of now, and what is on the disk."""

    def __init__(self, message: Envelope, policy: RetryPolicy) -> None:
        self.message = message
        self.policy = policy
        self.mono_s = 0.0
        self.utc_s = 1_000.0
        self.was_set_back = False
        self.course: Course | None = Course(message)
        self.kept = (0, 0.0)
        self.noted = (0, 0.0)
        self.in_hand: Hand | None = None
        self.turn_s = 0.0
        """Monotonic time of the next turn, unless the reader is killed before."""
        self.hands: list[int] = []
        self.unnoted = 0
        self.lost = 0
        self.buried: list[Bury] = []
        self.told = 0
        self.settled = 0
        self.turn(was_in_hand=False)

    @property
    def is_over(self) -> bool:
        return self.settled > 0

    def turn(self, *, was_in_hand: bool) -> None:
        self.judge(Turn(was_in_hand=was_in_hand), 0.0)

    def judge(self, fact: MailFact, draw: float) -> None:
        assert not self.is_over, "nothing is done with a message that is settled"
        before = self.course
        assert before is not None
        found = judge(before, fact, self.policy, self.utc_s, draw)
        self.course = found.course
        for order in found.orders:
            match order:
                case NoteTry(failures, due_s):
                    assert failures == self.noted[0] + 1, "each try in vain is noted once"
                    self.noted = (failures, due_s)
                    self.kept = self.noted if order.at_once else self.kept
                case Bury():
                    self.buried.append(order)
                case Respond():
                    self.told += 1
                case Settle():
                    self.settled += 1
                case Dispatch():
                    assert self.is_over, "what is answered is settled"
        self.in_hand = None
        match found.then:
            case Hand():
                self.hand(found.then)
            case Pause(pause_s):
                assert 0 < pause_s <= max(self.policy.max_s, 1.0)
                self.turn_s = self.mono_s + pause_s
            case None:
                assert self.is_over

    def hand(self, order: Hand) -> None:
        assert self.mono_s >= self.turn_s, "not before its pause is over"
        assert self.was_set_back or self.utc_s >= self.noted[1] - ROUNDING_S, "not before it is due"
        assert order.attempt == self.noted[0] + 1
        assert order.attempt <= self.policy.attempts, "no more tries than allowed"
        assert order.is_again or not self.hands, "who gets it again is told so"
        self.hands.append(order.attempt)
        self.in_hand = order

    # What may happen

    def ends(self, fact: MailFact, draw: float) -> None:
        """The handler ends, if it has the message."""
        if self.in_hand is not None:
            self.unnoted += isinstance(fact, Raised) and bool(fact.trouble and not fact.is_hopeless)
            self.judge(fact, draw)

    def passes(self, for_s: float) -> None:
        """Time; its turn comes when that is over."""
        self.mono_s += for_s
        self.utc_s += for_s
        if self.in_hand is None and self.mono_s >= self.turn_s:
            self.turn(was_in_hand=False)

    def keeps(self) -> None:
        self.kept = self.noted

    def is_killed(self) -> None:
        """The next reader begins at once, and knows what was kept."""
        self.lost += self.noted != self.kept
        self.noted = self.kept
        self.turn_s = self.mono_s
        self.course = Course(self.message, True, *self.kept)
        self.turn(was_in_hand=True)

    def is_set_back(self, by_s: float) -> None:
        self.utc_s -= by_s
        self.was_set_back = True


@dataclass(frozen=True)
class Passes:
    for_s: float


@dataclass(frozen=True)
class Keeps:
    pass


@dataclass(frozen=True)
class Killed:
    pass


@dataclass(frozen=True)
class SetBack:
    by_s: float


@dataclass(frozen=True)
class Ends:
    fact: MailFact
    draw: float


Act = Passes | Keeps | Killed | SetBack | Ends

FAILS = Raised(RemoteError("bad"), "bad")
FACTS = st.sampled_from(
    [
        Handled(),
        FAILS,
        FAILS,
        FAILS,
        Raised(RemoteError("bad"), "bad", is_hopeless=True),
        Raised(RemoteError("bad"), "bad", trouble=DISK_FULL),
        Raised(RemoteError("bad"), "bad", is_hopeless=True, trouble=DISK_FULL),
    ]
)
POLICIES = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 5),
    first_s=st.floats(0.01, 50.0),
    max_s=st.floats(0.01, 50.0),
)
SECONDS = st.floats(0.0, 200.0)
STEADY: st.SearchStrategy[Act] = st.one_of(
    st.builds(Passes, SECONDS),
    st.builds(Ends, FACTS, st.floats(0.0, 1.0, exclude_max=True)),
    st.builds(Keeps),
    st.builds(Killed),
)
ANY: st.SearchStrategy[Act] = st.one_of(STEADY, st.builds(SetBack, st.floats(0.0, 1e6)))


def asked(*, wants_reply: bool) -> Envelope:
    return Envelope(
        MessageId("1" * 32), "n", Address("a"), Address("me"), wants_reply=wants_reply, body={}
    )


def play(message: Envelope, policy: RetryPolicy, acts: list[Act]) -> Life:
    life = Life(message, policy)
    for act in acts:
        if life.is_over:
            break
        match act:
            case Passes(for_s):
                life.passes(for_s)
            case Keeps():
                life.keeps()
            case Killed():
                life.is_killed()
            case SetBack(by_s):
                life.is_set_back(by_s)
            case Ends(fact, draw):
                life.ends(fact, draw)
    return life


@given(POLICIES, st.booleans(), st.lists(ANY, max_size=40))
def test_a_message_ends_once_and_its_asker_hears_of_it(
    policy: RetryPolicy, wants_reply: bool, acts: list[Act]
) -> None:
    life = play(asked(wants_reply=wants_reply), policy, acts)
    event("dead" if life.buried else "settled" if life.is_over else "under way")
    assert life.settled <= 1
    assert len(life.buried) <= life.settled
    assert life.told == (len(life.buried) if wants_reply else 0)


@given(POLICIES, st.lists(ANY, max_size=40))
def test_the_handler_has_it_as_often_as_allowed_and_no_try_is_lost(
    policy: RetryPolicy, acts: list[Act]
) -> None:
    life = play(asked(wants_reply=False), policy, acts)
    # Beyond that only what could not be noted, and what was not kept when its reader was killed.
    assert len(life.hands) <= policy.attempts + life.unnoted + life.lost
    for dead in life.buried:
        assert 1 <= dead.attempts <= policy.attempts


@given(POLICIES, st.lists(STEADY, max_size=40), st.integers(1, 8))
def test_what_fails_for_ever_is_a_dead_letter_in_the_end(
    policy: RetryPolicy, acts: list[Act], more: int
) -> None:
    tries: list[Act] = [Passes(100.0), Ends(FAILS, 0.5)] * (policy.attempts + more)
    life = play(asked(wants_reply=False), policy, [*acts, *tries])
    assert life.is_over


@pytest.mark.parametrize("kill", [False, True])
@given(st.integers(1, 6))
def test_as_many_tries_as_allowed_whether_the_handler_or_its_reader_ends(
    kill: bool, attempts: int
) -> None:
    """None fewer either: what is promised is not kept by giving up early."""
    fails: list[Act] = [Killed()] if kill else [Ends(FAILS, 0.0), Passes(100.0)]
    life = play(asked(wants_reply=False), replace(RETRY, attempts=attempts), fails * attempts)
    assert life.hands == list(range(1, attempts + 1))
    assert [dead.attempts for dead in life.buried] == [attempts]
