"""A simulated world around one unit: processes, timers, a disk and a virtual clock.

It performs the orders of `decide` as the engine does, tells facts in any order the test likes,
and checks after every fact what must always hold and what was promised over time.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.facts import (
    Asked,
    AskedRestart,
    AskedStart,
    AskedStop,
    Exited,
    Fact,
    FileChanged,
    Found,
    Granted,
    Heartbeat,
    Incarnation,
    LastWill,
    Rang,
    Ready,
    Spawned,
    SpawnFailed,
    Suspended,
    Timer,
    TimerNumber,
    UnitId,
)
from dims.supervisor.core.lifecycle import KILL_AGAIN_S, LONGEST_WAIT_S, decide
from dims.supervisor.core.orders import (
    Arm,
    DropSession,
    Keep,
    Order,
    RequestStart,
    Signal,
    Spawn,
    Stop,
    Tell,
    WithdrawStart,
)
from dims.supervisor.core.states import SERVING, TRANSITIONS, Leaving, Policy, UnitRecord

UNIT = UnitId("echo")

TIMERS = {
    State.STOPPED: set(),
    State.READY: {Timer.STUCK},
    State.DEGRADED: {Timer.STUCK},
    State.DRAINING: {Timer.DRAIN},
    State.BACKING_OFF: {Timer.RETRY},
    State.WAITING: {Timer.RETRY},
    State.FAILED: set(),
}
"""What must be armed in each state, besides STABLE while serving; STARTING depends."""


@dataclass
class Process:
    """A process that exists: whether it hears TERM and beats, and whether it is on its way out."""

    incarnation: Incarnation
    hung: bool = False
    leaving: bool = False


@dataclass
class World:
    """One unit and everything around it."""

    policy: Policy
    now_s: float = 1_000.0
    draw: float = 0.5
    record: UnitRecord = field(init=False)
    fleet: str = ""
    """'' , 'requested' or 'granted': where the fleet has the unit."""
    forking: Incarnation | None = None
    process: Process | None = None
    unreported: Incarnation | None = None
    """A process that is gone, of which the brain has not heard."""
    armed: dict[TimerNumber, tuple[float, Timer]] = field(default_factory=dict)
    disk_desired: Desired = Desired.STOPPED
    disk_not_before_s: float | None = None
    announced_s: float = -math.inf
    """When the latest wait ends that Telegram announced to this unit."""
    retry_due_s: float = -math.inf
    asked: bool = False
    """Somebody asked for the next start."""
    spawns_s: list[float] = field(default_factory=list)
    """When there were starts that nobody asked for."""
    left_s: float = 0.0
    """When the process was asked to leave, or said that it leaves."""
    clock_went_back: bool = False
    heard: Counter[tuple[State, type[Fact]]] = field(default_factory=Counter)
    """How often the present process, or somebody, said what in which state."""
    dropped_sessions: int = 0

    def __post_init__(self) -> None:
        self.record = UnitRecord(UNIT, self.policy)

    # Facts

    def tell(self, fact: Fact) -> tuple[Order, ...]:
        """Lets the brain decide on `fact`, performs the orders and checks everything."""
        before = self.record
        if getattr(fact, "incarnation", before.incarnation) == before.incarnation:
            self.heard[before.state, type(fact)] += 1
        after, orders = decide(before, fact, self.now_s, self.draw)
        again, orders_again = decide(before, fact, self.now_s, self.draw)
        assert (again, orders_again) == (after, orders), "the same fact, another answer"
        if isinstance(fact, Asked):
            asks = not isinstance(fact, AskedStop)
            moved = (after.state, after.since_s, after.again) != (
                before.state,
                before.since_s,
                before.again,
            )
            self.asked = (self.asked or moved) if asks else False
        if isinstance(fact, LastWill):
            self._hear_wait(before, fact)
        self.record = after
        self._follow(before, orders)
        self._check(before)
        return orders

    def _hear_wait(self, before: UnitRecord, will: LastWill) -> None:
        wait_s = min(will.retry_after_s, LONGEST_WAIT_S)
        if will.incarnation == before.incarnation and wait_s > 0:
            self.announced_s = max(self.announced_s, self.now_s + wait_s)

    def _follow(self, before: UnitRecord, orders: tuple[Order, ...]) -> None:
        state = before.state
        for order in orders:
            assert order.unit == UNIT
            if isinstance(order, Tell):
                assert TRANSITIONS[state][order.cause] is order.state
                state = order.state
                assert order.reason
                if state is State.DRAINING:
                    self.left_s = self.now_s
            self._perform(order)
        assert state is self.record.state, "a state was entered and nobody told"

    def _perform(self, order: Order) -> None:
        match order:
            case RequestStart():
                assert self.record.desired is Desired.RUNNING
                assert self.asked or self.now_s >= self.retry_due_s
                self.fleet, self.retry_due_s = "requested", -math.inf
            case WithdrawStart():
                self.fleet = ""
            case Spawn():
                self._spawn(order.incarnation)
            case Signal():
                assert order.incarnation == self.record.incarnation
                self._signal(order.stop)
            case Arm():
                assert order.number not in self.armed
                assert order.number > max(self.armed, default=0), "a number used twice"
                assert order.delay_s >= 0
                self.armed[order.number] = (self.now_s + order.delay_s, order.timer)
                if order.timer is Timer.RETRY:
                    self.retry_due_s = self.now_s + order.delay_s
                    assert self.record.retry_at_s == self.retry_due_s
            case Keep():
                self.disk_desired = order.desired
                left_s = order.retry_after_s
                assert left_s is None or left_s > 0
                self.disk_not_before_s = None if left_s is None else self.now_s + left_s
            case DropSession():
                self.dropped_sessions += 1
            case Tell():
                pass

    def _spawn(self, incarnation: Incarnation) -> None:
        assert self.record.desired is Desired.RUNNING, "a stopped unit was spawned"
        alone = self.forking is None and self.process is None and self.unreported is None
        assert alone, "two at once"
        assert incarnation == self.record.incarnation
        assert self.now_s >= self.announced_s - 1e-6, "earlier than Telegram announced"
        self.forking = incarnation
        if not self.asked:
            self._count_spawn()
        self.asked = False

    def _count_spawn(self) -> None:
        restart = self.policy.restart
        since_s = self.now_s - restart.within_s
        self.spawns_s = [at_s for at_s in self.spawns_s if at_s > since_s + 1e-6]
        self.spawns_s.append(self.now_s)
        if restart.within_s > 0:
            assert len(self.spawns_s) <= restart.max_restarts + 1, "faster than the cap"

    def _signal(self, stop: Stop) -> None:
        if stop is Stop.KILL:
            waited_s = self.now_s - self.left_s
            assert self.clock_went_back or waited_s >= self.policy.drain_timeout_s - 1e-6
        if self.process is None:
            return
        if stop is Stop.TERM and not self.process.hung:
            self.process.leaving = True
        if stop is Stop.KILL:
            self.exits()

    # What must hold after every fact

    def _check(self, before: UnitRecord) -> None:
        record = self.record
        exists = (self.forking, self.process and self.process.incarnation, self.unreported)
        assert [one for one in exists if one is not None] in ([], [record.incarnation])
        assert record.alive == any(one is not None for one in exists)
        assert record.incarnation - before.incarnation in {0, 1}
        assert (record.pid is None) or record.alive
        self._check_timers()
        self._check_state()
        assert self.disk_desired is record.desired, "the disk knows another desired state"
        if self.announced_s > self.now_s + 1e-6:
            # More is possible: an elapsed wait lies in the future again once the clock went back.
            assert (record.not_before_s or -math.inf) >= self.announced_s - 1e-6
            assert (self.disk_not_before_s or -math.inf) >= self.announced_s - 1e-6, "not kept"
        assert len(record.recent) <= self.policy.restart.max_restarts + 1

    def _check_timers(self) -> None:
        record = self.record
        needed = TIMERS.get(record.state, {Timer.START} if record.alive else set())
        allowed = needed | ({Timer.STABLE} if record.state in SERVING else set())
        kinds = [timer for timer, _ in record.timers]
        assert len(kinds) == len(set(kinds))
        assert needed <= set(kinds) <= allowed, (record.state, kinds)
        for timer, number in record.timers:
            assert self.armed[number][1] is timer, "a timer that will never ring"

    def _check_state(self) -> None:
        record = self.record
        if record.state is State.STARTING:
            assert self.fleet == ("granted" if record.alive else "requested")
        else:
            assert self.fleet == "", "a place among those who start is leaked"
        assert record.state in TIMERS or record.state is State.STARTING
        assert (record.state is State.STOPPED) <= (record.desired is Desired.STOPPED)
        assert (record.desired is Desired.STOPPED) <= (
            record.state in {State.STOPPED, State.DRAINING}
        )
        running = {State.READY, State.DEGRADED, State.DRAINING}
        assert (record.state in running) <= record.alive
        assert record.alive <= (record.state in running | {State.STARTING})
        assert (record.leaving is not Leaving.NO) == (record.state is State.DRAINING)
        assert record.again <= (record.state is State.DRAINING)
        retries = {State.BACKING_OFF, State.WAITING}
        assert (record.retry_at_s is not None) == (record.state in retries)

    # What the world does

    def grants(self) -> None:
        self.fleet = "granted"
        self.tell(Granted())

    def forks(self, *, hung: bool = False) -> None:
        assert self.forking is not None
        incarnation, self.forking = self.forking, None
        self.process = Process(incarnation, hung)
        self.tell(Spawned(incarnation, 100 + incarnation))

    def fails_to_fork(self, failure: FailureClass) -> None:
        assert self.forking is not None
        incarnation, self.forking = self.forking, None
        self.tell(SpawnFailed(incarnation, failure, "no process"))

    def exits(self) -> None:
        """The process is gone, but nobody knows yet."""
        assert self.process is not None
        self.unreported, self.process = self.process.incarnation, None

    def exit_is_seen(self, status: ExitStatus) -> None:
        assert self.unreported is not None
        incarnation, self.unreported = self.unreported, None
        self.tell(Exited(incarnation, status))

    def due(self) -> list[tuple[float, TimerNumber]]:
        """Armed timers that the record still waits for, by time."""
        known = {number for _, number in self.record.timers}
        return sorted((at_s, number) for number, (at_s, _) in self.armed.items() if number in known)

    def ring(self, number: TimerNumber) -> None:
        self.tell(Rang(self.armed[number][1], number))

    def passes(self, delay_s: float) -> None:
        """Time goes on, and what is due rings in order."""
        until_s = self.now_s + delay_s
        while (due := self.due()) and due[0][0] <= until_s:
            self.now_s = max(self.now_s, due[0][0])
            self.ring(due[0][1])
        self.now_s = max(self.now_s, until_s)

    def sleeps(self, gap_s: float) -> None:
        """The engine does not run, then hears that it did not, then its late timers ring."""
        self.now_s += gap_s
        late = self.due()
        self.tell(Suspended(gap_s))
        for at_s, number in late:
            if at_s <= self.now_s:
                self.ring(number)

    def clock_goes_back(self, by_s: float) -> None:
        """Every timer keeps its distance: an engine arms with delays."""
        if self.announced_s <= self.now_s + 1e-6:
            self.announced_s = -math.inf
        self.now_s -= by_s
        self.armed = {number: (at_s - by_s, kind) for number, (at_s, kind) in self.armed.items()}
        self.retry_due_s -= by_s
        self.spawns_s.clear()
        self.clock_went_back = True

    def brain_restarts(self) -> None:
        """What was not kept is forgotten; only with no process around, as the engine does."""
        left_s = 0.0
        if self.disk_not_before_s is not None:
            left_s = self.disk_not_before_s - self.now_s
        empty = UnitRecord(UNIT, self.policy)
        self.armed.clear()
        # Restart history is in memory: a new brain counts anew.
        self.spawns_s.clear()
        self.fleet, self.retry_due_s, self.asked = "", -math.inf, True
        former = self.record.incarnation
        found = Found(self.disk_desired, former, left_s)
        self.record, orders = decide(empty, found, self.now_s, 0.0)
        self._follow(empty, orders)
        self._check(replace(empty, incarnation=former))

    # What it must come to

    def longest_s(self) -> float:
        """How long it may take at most until all is well again."""
        policy, restart = self.policy, self.policy.restart
        leaving_s = policy.dump_before_term_s + 2 * policy.drain_timeout_s + KILL_AGAIN_S
        pause_s = max(restart.slow_retry_s, restart.max_delay_s, restart.within_s)
        told_s = max(0.0, (self.record.not_before_s or 0.0) - self.now_s)
        return policy.start_timeout_s + policy.stuck_after_s + leaving_s + pause_s + told_s + 1.0

    def all_goes_well(self) -> None:
        """From now on nothing fails but what is hung already; ends when the unit is settled."""
        deadline_s = self.now_s + self.longest_s()
        while not self.settled():
            assert self.now_s <= deadline_s, f"wedged: {self.record}"
            self.next_good_thing()

    def settled(self) -> bool:
        """Whether nothing more would happen by itself."""
        state = self.record.state
        if self.record.desired is Desired.STOPPED:
            return state is State.STOPPED
        well = self.process is not None and not self.process.hung and not self.process.leaving
        return state is State.FAILED or (state is State.READY and well)

    def next_good_thing(self) -> None:
        """What happens next when nothing fails; only while not settled."""
        process = self.process
        if self.fleet == "requested":
            self.grants()
        elif self.forking is not None:
            self.forks()
        elif self.unreported is not None:
            self.exit_is_seen(ExitStatus(code=0))
        elif process is not None and process.leaving and not process.hung:
            self.exits()
        elif process is not None and not process.hung and self.record.state is State.STARTING:
            self.tell(Ready(process.incarnation))
        elif process is not None and not process.hung and self.record.state is State.DEGRADED:
            self.tell(Heartbeat(process.incarnation))
        else:
            self.passes(max(0.0, self.due()[0][0] - self.now_s))


def ask(world: World, kind: type[AskedStart | AskedStop | AskedRestart]) -> None:
    """Somebody asks, as the command line does."""
    world.tell(kind("operator"))


def file_changes(world: World) -> None:
    """Somebody saves a file; that a unit starts of it is as good as asked for, once."""
    world.tell(FileChanged())
