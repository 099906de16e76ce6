"""The queue against a model that counts, for each class, how often its head was passed over."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dims.ipc.queue import PATIENCE, PriorityQueue
from dims.ipc.wire.envelope import Priority

priorities = st.sampled_from(Priority)
Thing = tuple[Priority, int]


class QueueMachine(RuleBasedStateMachine):
    """Each thing knows its class and number, so that what comes out tells what should have."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: PriorityQueue[Thing] = PriorityQueue()
        self.waiting: dict[Priority, list[Thing]] = {priority: [] for priority in Priority}
        self.passed = dict.fromkeys(Priority, 0)
        self.number = 0

    @rule(priority=priorities, count=st.integers(1, 60))
    def push(self, priority: Priority, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.waiting[priority].append((priority, self.number))
            self.queue.push(priority, (priority, self.number))

    @precondition(lambda self: self.queue)
    @rule(count=st.integers(1, 60))
    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.queue))):
            self.take_one()

    @precondition(lambda self: self.queue)
    @rule(count=st.integers(1, 60), priority=priorities)
    def take_while_more_comes(self, count: int, priority: Priority) -> None:
        for _ in range(count):
            self.push(priority, 1)
            self.take_one()

    def take_one(self) -> None:
        taken = self.queue.pop()
        priority = taken[0]
        assert taken == self.waiting[priority].pop(0), "not first in, first out"
        more_urgent = [other for other in Priority if other < priority and self.waiting[other]]
        assert not more_urgent or self.passed[priority] >= PATIENCE[priority], "overtook in vain"
        self.passed[priority] = 0
        for other in Priority:
            if other != priority and self.waiting[other]:
                self.passed[other] += 1
                assert self.passed[other] <= PATIENCE[other] + 3, f"{other.name} starves"

    @precondition(lambda self: self.waiting[Priority.URGENT])
    @rule()
    def take_urgent(self) -> None:
        assert self.queue.pop_urgent() == self.waiting[Priority.URGENT].pop(0)
        self.passed[Priority.URGENT] = 0

    @rule()
    def clear(self) -> None:
        expected = [thing for priority in Priority for thing in self.waiting[priority]]
        assert self.queue.clear() == expected
        for priority in Priority:
            self.waiting[priority].clear()
            self.passed[priority] = 0

    @invariant()
    def it_holds_what_the_model_holds(self) -> None:
        assert list(self.queue) == [one for some in self.waiting.values() for one in some]
        assert len(self.queue) == sum(map(len, self.waiting.values()))
        assert self.queue.has_urgent == bool(self.waiting[Priority.URGENT])


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(priorities, st.lists(st.lists(priorities, max_size=4), min_size=40, max_size=60))
@settings(deadline=None)
def test_a_head_is_taken_within_its_bound_whatever_comes_meanwhile(
    patient: Priority, coming: list[list[Priority]]
) -> None:
    queue: PriorityQueue[str] = PriorityQueue()
    queue.push(patient, "it")
    for others, more in enumerate(coming):
        for priority in more:
            queue.push(priority, "other")
        if queue.pop() == "it":
            return
        assert others < PATIENCE[patient] + 3, "it is passed over too often"
    raise AssertionError("it was never taken")
