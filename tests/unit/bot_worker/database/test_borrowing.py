"""How a worker borrows connections: what it says and what its pools may, by example."""

from __future__ import annotations

from typing import Any

import pytest

from dims.bot_worker.database.borrowing import Borrower
from dims.errors import ProtocolError
from dims.ipc.wire.sentences import read
from dims.ipc.words.fleet import ConnectionsHeld, ConnectionsLent

SHARE, LEASE_S = 2, 600.0


class Worker:
    """A borrower, the numbers of connections its pools heard of, and all that it said."""

    def __init__(self) -> None:
        self.said: list[ConnectionsHeld] = []
        self.allowances: list[int] = []
        self.borrower = Borrower(SHARE, self.said.append, self._allow)

    def _allow(self, connections: int) -> None:
        self.allowances.append(connections)

    @property
    def allowed(self) -> int:
        """What its pools heard last."""
        return self.allowances[-1]

    def hears(self, number: int, lent: int, now_s: float = 0.0) -> None:
        self.borrower.heard(ConnectionsLent(lent, number, LEASE_S), now_s)

    def says(self) -> list[ConnectionsHeld]:
        """What it has said since the last time."""
        said = self.said.copy()
        self.said.clear()
        return said

    def borrows_one(self) -> None:
        """Uses its share and one more."""
        self.borrower.changed(SHARE, SHARE + 1)
        self.hears(1, 1)
        self.borrower.changed(SHARE + 1, SHARE + 1)
        self.says()


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_within_its_share_it_asks_nobody(worker: Worker) -> None:
    assert worker.allowed == SHARE
    for used in (1, 2, 1, 0):
        worker.borrower.changed(used, used)
        worker.borrower.tick(1_000.0)
    assert worker.says() == []
    worker.borrower.changed(SHARE, SHARE + 1)
    assert worker.says() != []


def test_it_asks_once_for_what_it_has_not(worker: Worker) -> None:
    worker.borrower.changed(SHARE, SHARE + 1)
    worker.borrower.changed(SHARE, SHARE + 1)
    assert worker.says() == [ConnectionsHeld(0, 1, 0)]
    worker.hears(1, 1)
    assert worker.allowed == SHARE + 1
    assert worker.says() == [ConnectionsHeld(0, 1, 1)]
    worker.borrower.changed(SHARE + 1, SHARE + 1)
    assert worker.says() == [], "that it is in use now is what the brain counts with"


def test_it_gives_back_what_it_no_longer_needs(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.changed(SHARE, 0)
    assert worker.says() == [ConnectionsHeld(0, 0, 1)]
    assert (worker.allowed, worker.borrower.granted) == (SHARE, 0)


def test_asked_back_it_answers_when_the_connection_is_closed(worker: Worker) -> None:
    worker.borrows_one()
    worker.hears(2, 0)
    assert worker.allowed == SHARE
    assert worker.says() == [ConnectionsHeld(1, 1, 2)], "still in use, still wanted"
    worker.borrower.changed(SHARE, SHARE + 1)
    assert worker.says() == [ConnectionsHeld(0, 1, 2)]


def test_while_more_is_open_than_it_may_have_it_has_nothing_to_answer(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.changed(SHARE + 1, SHARE)
    worker.hears(2, 0)
    assert worker.says() == []
    worker.borrower.changed(SHARE, SHARE)
    assert worker.says() == [ConnectionsHeld(0, 0, 2)]


def test_a_word_is_answered_once(worker: Worker) -> None:
    worker.borrows_one()
    worker.hears(2, 1)
    worker.borrower.changed(SHARE + 1, SHARE + 1)
    assert worker.says() == [ConnectionsHeld(1, 1, 2)]


def test_it_gives_back_a_part(worker: Worker) -> None:
    worker.borrower.changed(SHARE, SHARE + 2)
    worker.hears(1, 2)
    worker.says()
    worker.borrower.changed(SHARE, SHARE + 1)
    assert (worker.allowed, worker.borrower.granted) == (SHARE + 1, 1)
    assert worker.says() == [ConnectionsHeld(0, 1, 1)]


def test_who_wants_no_more_than_it_may_have_asks_for_nothing(worker: Worker) -> None:
    worker.borrower.changed(SHARE, SHARE + 3)
    worker.hears(1, 2)
    worker.borrower.changed(SHARE + 2, SHARE + 3)
    worker.says()
    for wanted in (2, 1, 0, 1):
        worker.borrower.changed(SHARE + 2, SHARE + wanted)
    assert worker.says() == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_old_word_counts_no_more(worker: Worker, number: int) -> None:
    worker.borrows_one()
    worker.hears(3, 1)
    worker.says()
    worker.hears(number, 0)
    assert (worker.allowed, worker.says()) == (SHARE + 1, [])


def test_what_is_borrowed_is_renewed_after_a_third_of_its_time(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.tick(LEASE_S / 3 - 1)
    assert worker.says() == []
    worker.borrower.tick(LEASE_S / 3)
    assert worker.says() == [ConnectionsHeld(1, 1, 1, renews=True)]
    worker.hears(2, 1, now_s=LEASE_S / 3)
    worker.says()
    worker.borrower.tick(LEASE_S - 1)
    worker.borrower.tick(LEASE_S + 1)
    assert worker.borrower.granted == 1


def test_without_a_brain_it_expires_and_the_share_stays(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.tick(LEASE_S - 0.001)
    assert worker.allowed == SHARE + 1
    worker.borrower.tick(LEASE_S)
    assert (worker.allowed, worker.borrower.granted) == (SHARE, 0)
    assert worker.says()[-1].wants == 1, "it says so to whatever brain comes"
    worker.borrower.changed(SHARE, SHARE)
    worker.borrower.tick(10 * LEASE_S)
    assert worker.allowed == SHARE


def test_what_is_open_and_not_in_use_expires_too(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.changed(SHARE + 1, 0)
    worker.borrower.tick(LEASE_S)
    assert worker.allowed == SHARE
    assert worker.says() == [ConnectionsHeld(1, 0, 1, renews=True)]
    worker.borrower.changed(SHARE, 0)
    assert worker.says() == [], "it owes no answer to anybody"


def test_who_waits_is_not_told_over_and_over_that_it_has_its_share(worker: Worker) -> None:
    worker.borrower.changed(SHARE, SHARE + 1)
    for now_s in (1.0, LEASE_S, 2 * LEASE_S):
        worker.borrower.tick(now_s)
    assert worker.allowances == [SHARE]


def test_a_word_after_it_has_expired_is_as_good_as_any(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.tick(LEASE_S)
    worker.borrower.changed(SHARE, SHARE + 1)
    worker.hears(2, 1, now_s=LEASE_S + 1)
    assert worker.allowed == SHARE + 1


def test_who_waits_asks_again_with_the_next_heartbeat(worker: Worker) -> None:
    """What was said may have been lost with a brain."""
    worker.borrower.changed(SHARE, SHARE + 1)
    worker.says()
    worker.borrower.tick(1.0)
    assert worker.says() == [ConnectionsHeld(0, 1, 0, renews=True)]


def test_another_brain_hears_at_once_what_is_held(worker: Worker) -> None:
    worker.borrows_one()
    worker.borrower.rejoined()
    assert worker.says() == [ConnectionsHeld(1, 1, 1, renews=True)]


def test_a_brain_that_grants_less_than_nothing_leaves_the_share(worker: Worker) -> None:
    worker.hears(1, -5)
    assert worker.allowed == SHARE
    worker.borrower.changed(SHARE, SHARE + 1)
    assert worker.says()[-1].seen == 1, "it has heard"


@pytest.mark.parametrize("word", [{}, {"number": 1, "lent": "x", "lease_s": 1}, {"number": None}])
def test_nonsense_is_refused_before_it_changes_anything(worker: Worker, word: Any) -> None:
    with pytest.raises(ProtocolError):
        worker.borrower.heard(read(ConnectionsLent, word), 0.0)
    assert worker.allowed == SHARE
    worker.hears(1, 1)
    assert worker.says(), "the next word counts"
