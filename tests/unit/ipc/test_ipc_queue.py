"""The priority queue: order within a class, urgency between them, and turns for the patient."""

from __future__ import annotations

import pytest

from dims.ipc.queue import PATIENCE, PriorityQueue
from dims.ipc.wire.envelope import Priority

URGENT, HIGH, NORMAL, LOW = Priority


def filled(*things: tuple[Priority, object]) -> PriorityQueue[object]:
    queue: PriorityQueue[object] = PriorityQueue()
    for priority, thing in things:
        queue.push(priority, thing)
    return queue


def test_each_class_is_first_in_first_out() -> None:
    queue = filled(*((NORMAL, n) for n in range(10)))
    assert [queue.pop() for _ in range(10)] == list(range(10))


def test_the_most_urgent_class_goes_first() -> None:
    queue = filled((LOW, "l"), (NORMAL, "n"), (URGENT, "u"), (HIGH, "h"))
    assert [queue.pop() for _ in range(4)] == ["u", "h", "n", "l"]


def test_an_empty_queue_has_nothing_to_take() -> None:
    queue: PriorityQueue[int] = PriorityQueue()
    assert not queue
    assert not queue.has_urgent
    with pytest.raises(IndexError):
        queue.pop()
    with pytest.raises(IndexError):
        queue.pop_urgent()
    assert len(queue) == 0


@pytest.mark.parametrize("patient", [HIGH, NORMAL, LOW])
def test_a_class_has_its_turn_while_urgent_things_never_end(patient: Priority) -> None:
    queue = filled((patient, "patient"))
    before = 0
    queue.push(URGENT, "urgent")
    while queue.pop() != "patient":
        before += 1
        queue.push(URGENT, "urgent")
    assert before == PATIENCE[patient]


def test_low_gets_one_turn_in_thirty_three_and_no_more() -> None:
    queue = filled(*((LOW, "low") for _ in range(100)))
    taken = []
    for _ in range(330):
        queue.push(URGENT, "urgent")
        taken.append(queue.pop())
    assert taken.count("low") == 10


def test_a_turn_begins_the_patience_of_the_next_in_the_class_anew() -> None:
    queue = filled((HIGH, 1), (HIGH, 2))
    taken = []
    for _ in range(2 * (PATIENCE[HIGH] + 1)):
        queue.push(URGENT, "urgent")
        taken.append(queue.pop())
    assert taken.index(1) == PATIENCE[HIGH]
    assert taken.index(2) == 2 * PATIENCE[HIGH] + 1


def test_urgent_things_can_be_taken_out_of_turn() -> None:
    queue = filled((LOW, "l"), (URGENT, 1), (URGENT, 2))
    assert queue.has_urgent
    assert (queue.pop_urgent(), len(queue), queue.pop_urgent()) == (1, 2, 2)
    assert not queue.has_urgent
    assert list(queue) == ["l"]


def test_clearing_takes_everything_by_class_and_forgets_who_waited() -> None:
    queue = filled((LOW, "l"), (NORMAL, "n"), (URGENT, "u"))
    assert queue.clear() == ["u", "n", "l"]
    assert (len(queue), list(queue)) == (0, [])
    queue.push(LOW, "l")
    queue.push(URGENT, "u")
    assert queue.pop() == "u"
