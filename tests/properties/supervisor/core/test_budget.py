"""The brain's budget and the workers' borrowing together: messages cross, are late, processes die.

Whatever the order of things: never are more connections open than there are, and who waits is
served.
"""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dims.bot_worker.database.borrowing import Borrower
from dims.ipc.words.fleet import ConnectionsHeld, ConnectionsLent
from dims.supervisor.core import budget
from dims.supervisor.core.budget import BudgetRecord, BudgetReport, Word
from dims.supervisor.core.facts import UnitId

UNITS = [UnitId(f"bot{n}") for n in range(4)]
LEASE_S = 90.0


class Pool:
    """As much of a pool as counts: connections that are open, in use, or waited for."""

    def __init__(self) -> None:
        self.allowed = 0
        self.open = 0
        self.in_use = 0
        self.waiting = 0
        self.borrower: Borrower | None = None

    def allow(self, allowed: int) -> None:
        self.allowed = allowed
        self.go_on()

    def go_on(self) -> None:
        """Closes idle ones beyond what is allowed, opens what is wanted and allowed."""
        while self.open > self.allowed and self.open > self.in_use:
            self.open -= 1
        while self.waiting and (self.open > self.in_use or self.open < self.allowed):
            self.open += self.open == self.in_use
            self.waiting -= 1
            self.in_use += 1
        self.tell()

    def tell(self) -> None:
        if self.borrower is not None:
            self.borrower.changed(self.open, self.in_use + self.waiting)


class Fleet(RuleBasedStateMachine):
    """A brain, workers, and a channel to and from each, which keeps the order, but is late."""

    @initialize(connections=st.integers(1, 9), shares=st.booleans())
    def begin(self, connections: int, shares: bool) -> None:
        self.now_s = 0.0
        self.connections = connections
        self.share, left = budget.share_of(connections, len(UNITS) if shares else 99, 3)
        self.record = BudgetRecord()
        self.pools: dict[UnitId, Pool] = {}
        self.to_brain: dict[UnitId, deque[ConnectionsHeld]] = {}
        self.to_worker: dict[UnitId, deque[Word]] = {}
        self.alive = True
        left = connections - self.share * len(UNITS)
        self.left = left
        self.say(budget.set_total(self.record, left, 0.0))
        for unit in UNITS:
            self.start(unit)

    def start(self, unit: UnitId) -> None:
        pool = Pool()
        self.pools[unit] = pool
        self.to_brain[unit], self.to_worker[unit] = deque(), deque()
        pool.borrower = Borrower(self.share, self.to_brain[unit].append, pool.allow)

    def say(self, decision: budget.Decision) -> None:
        self.record, words = decision
        for word in words:
            assert word.unit in self.to_worker
            self.to_worker[word.unit].append(word)

    # What bots do

    @rule(unit=st.sampled_from(UNITS))
    def wants(self, unit: UnitId) -> None:
        pool = self.pools[unit]
        if pool.in_use + pool.waiting < 3:
            pool.waiting += 1
            pool.tell()
            pool.go_on()

    @rule(unit=st.sampled_from(UNITS))
    def is_done(self, unit: UnitId) -> None:
        pool = self.pools[unit]
        if pool.in_use:
            pool.in_use -= 1
            pool.go_on()

    @rule(unit=st.sampled_from(UNITS))
    def gives_up(self, unit: UnitId) -> None:
        pool = self.pools[unit]
        if pool.waiting:
            pool.waiting -= 1
            pool.go_on()

    @rule(unit=st.sampled_from(UNITS))
    def idle_ones_close(self, unit: UnitId) -> None:
        pool = self.pools[unit]
        pool.open = pool.in_use
        pool.go_on()

    # What the channel does

    @rule(unit=st.sampled_from(UNITS))
    def brain_hears(self, unit: UnitId) -> None:
        if self.alive and self.to_brain[unit]:
            said = self.to_brain[unit].popleft()
            report = BudgetReport(said.holds, said.wants, said.seen)
            self.say(budget.report(self.record, unit, report, self.now_s, renews=said.renews))

    @rule(unit=st.sampled_from(UNITS))
    def worker_hears(self, unit: UnitId) -> None:
        if self.to_worker[unit]:
            word = self.to_worker[unit].popleft()
            lent = ConnectionsLent(word.granted, word.number, LEASE_S)
            self.borrower(unit).heard(lent, self.now_s)

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for unit in UNITS:
            self.borrower(unit).tick(self.now_s)

    # What goes wrong

    @rule(unit=st.sampled_from(UNITS))
    def is_killed(self, unit: UnitId) -> None:
        if self.alive:
            self.start(unit)
            self.say(budget.gone(self.record, unit, self.now_s))

    @precondition(lambda self: self.alive)
    @rule()
    def brain_is_killed(self) -> None:
        self.alive = False
        for unit in UNITS:
            # What was said and not read is lost with the channel.
            self.to_brain[unit].clear()
            self.to_worker[unit].clear()

    @precondition(lambda self: not self.alive)
    @rule()
    def another_brain_comes(self) -> None:
        self.alive = True
        self.record = BudgetRecord()
        for unit in UNITS:
            self.to_brain[unit].clear()
            self.record = budget.former(self.record, unit, 3)
        self.say(budget.set_total(self.record, self.left, self.now_s))
        for unit in UNITS:
            self.borrower(unit).rejoined()

    def borrower(self, unit: UnitId) -> Borrower:
        found = self.pools[unit].borrower
        assert found is not None
        return found

    @invariant()
    def never_more_than_there_are(self) -> None:
        if hasattr(self, "pools"):
            open_ones = sum(pool.open for pool in self.pools.values())
            assert open_ones <= self.connections
            holders = self.record.holders.values()
            assert self.record.lent == sum(holder.charged for holder in holders)
            assert self.record.granted == sum(holder.granted for holder in holders)

    def teardown(self) -> None:
        """Once nothing goes wrong any more, whoever waits is served, one use after the other."""
        if not hasattr(self, "pools"):
            return
        if not self.alive:
            self.another_brain_comes()
        if not self.left and not self.share:
            return
        for _ in range(60):
            for _ in range(8):
                for unit in UNITS:
                    self.brain_hears(unit)
                    self.worker_hears(unit)
            for unit in UNITS:
                self.is_done(unit)
            self.never_more_than_there_are()
        assert [pool.waiting for pool in self.pools.values()] == [0] * len(UNITS)


Fleet.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestFleet = Fleet.TestCase
