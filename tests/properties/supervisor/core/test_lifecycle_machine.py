"""One unit in a world where anything happens at any time: what holds always, and what in the end.

The invariants are in `world`, next to what they watch.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from usual import POLICY, RESTART
from world import World, ask, file_changes

from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.backoff import RestartPolicy
from dims.supervisor.core.facts import (
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
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.orders import Tell
from dims.supervisor.core.states import SERVING, TRANSITIONS, Policy, UnitRecord

RESTARTS = (
    RESTART,
    replace(RESTART, max_restarts=1, within_s=50.0, slow_retry_s=5.0, max_delay_s=3.0),
    replace(RESTART, first_delay_s=0.0, max_restarts=2, within_s=30.0, slow_retry_s=0.0),
    replace(RESTART, first_delay_s=0.0, max_delay_s=0.0, max_restarts=0, stable_after_s=0.0),
    replace(RESTART, max_restarts=3, within_s=0.0, factor=1e9, first_delay_s=1e-9),
)
POLICIES = st.builds(
    Policy,
    restart=st.sampled_from(RESTARTS),
    start_timeout_s=st.sampled_from([2.0, 60.0]),
    stuck_after_s=st.sampled_from([5.0, 45.0]),
    drain_timeout_s=st.sampled_from([0.0, 20.0]),
    dump_before_term_s=st.sampled_from([0.0, 1.0]),
)
CLASSES = st.sampled_from(FailureClass)
DELAYS = st.sampled_from([0.0, 0.1, 1.0, 2.0, 5.0, 10.0, 30.0, 45.0, 60.0, 130.0, 1000.0])
STATUSES = st.sampled_from([ExitStatus(code=0), ExitStatus(code=1), ExitStatus(signal=9)])
ASKS = st.sampled_from([AskedStart, AskedStop, AskedRestart])


class OneUnit(RuleBasedStateMachine):
    """Every rule is something the world may do now."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(POLICY)

    @initialize(policy=POLICIES, state=st.sampled_from([State.STARTING, *sorted(SERVING)]))
    def begin(self, policy: Policy, state: State) -> None:
        self.world = World(policy)
        ask(self.world, AskedStart)
        if state in SERVING:
            # Left to chance hardly one unit in ten would ever come so far.
            self.world.all_goes_well()
        if state is State.DEGRADED:
            self.world.tell(Heartbeat(self.world.record.incarnation, "slow"))

    @rule(kind=ASKS)
    def somebody_asks(self, kind: type[AskedStart | AskedStop | AskedRestart]) -> None:
        ask(self.world, kind)

    @rule(steps=st.integers(2, 12))
    def things_go_well_for_a_while(self, steps: int) -> None:
        """As in most lives."""
        for _ in range(steps):
            if not self.world.settled():
                self.world.next_good_thing()

    @rule()
    def a_file_changes(self) -> None:
        file_changes(self.world)

    @rule(delay_s=DELAYS, draw=st.sampled_from([0.0, 0.5, 0.999]))
    def time_passes(self, delay_s: float, draw: float) -> None:
        self.world.draw = draw
        self.world.passes(delay_s)

    @precondition(lambda self: self.world.due())
    @rule(late_s=st.sampled_from([0.0, 3.0]))
    def the_next_timer_rings(self, late_s: float) -> None:
        at_s, number = self.world.due()[0]
        self.world.now_s = max(self.world.now_s, at_s + late_s)
        self.world.ring(number)

    @precondition(lambda self: self.world.fleet == "requested")
    @rule()
    def the_fleet_grants(self) -> None:
        self.world.grants()

    @precondition(lambda self: self.world.record.alive or self.world.fleet == "")
    @rule()
    def an_old_grant_comes_late(self) -> None:
        self.world.tell(Granted())

    @precondition(lambda self: self.world.forking)
    @rule(hung=st.booleans(), failure=st.none() | CLASSES)
    def the_fork_ends(self, hung: bool, failure: FailureClass | None) -> None:
        if failure is None:
            self.world.forks(hung=hung)
        else:
            self.world.fails_to_fork(failure)

    @precondition(lambda self: self.world.process)
    @rule()
    def the_process_is_ready(self) -> None:
        self.world.tell(Ready(self.world.record.incarnation))

    @precondition(lambda self: self.world.process and not self.world.process.hung)
    @rule(troubles=st.lists(st.sampled_from(["", "slow", "deaf"]), min_size=1, max_size=5))
    def the_process_beats(self, troubles: list[str]) -> None:
        for trouble in troubles:
            self.world.tell(Heartbeat(self.world.record.incarnation, trouble))

    @precondition(lambda self: self.world.process)
    @rule()
    def the_process_hangs(self) -> None:
        assert self.world.process is not None
        self.world.process.hung = True

    @precondition(lambda self: self.world.record.incarnation)
    @rule(failure=CLASSES, wait_s=st.sampled_from([0.0, 7.0, 1600.0]))
    def a_last_will_is_read(self, failure: FailureClass, wait_s: float) -> None:
        # Of a process that lives, or of one whose exit was faster than its will.
        self.world.tell(LastWill(self.world.record.incarnation, failure, "it said", wait_s))
        if self.world.process is not None:
            self.world.process.leaving = True

    @precondition(lambda self: self.world.process)
    @rule()
    def the_process_is_gone(self) -> None:
        self.world.exits()

    @precondition(lambda self: self.world.unreported)
    @rule(status=STATUSES)
    def the_exit_is_seen(self, status: ExitStatus) -> None:
        self.world.exit_is_seen(status)

    @precondition(lambda self: self.world.process)
    @rule(status=STATUSES)
    def the_process_crashes(self, status: ExitStatus) -> None:
        self.world.exits()
        self.world.exit_is_seen(status)

    @rule(gap_s=DELAYS)
    def the_engine_is_suspended(self, gap_s: float) -> None:
        self.world.sleeps(gap_s)

    @rule(by_s=st.sampled_from([0.5, 20.0, 5000.0]))
    def the_clock_goes_back(self, by_s: float) -> None:
        self.world.clock_goes_back(by_s)

    @precondition(lambda self: not self.world.record.alive)
    @rule()
    def the_brain_restarts(self) -> None:
        self.world.brain_restarts()

    @rule(other=st.sampled_from([-1, 1]), failure=CLASSES, status=STATUSES)
    def a_stranger_speaks(self, other: int, failure: FailureClass, status: ExitStatus) -> None:
        """Late messages of a former incarnation, and of one that never was."""
        number = Incarnation(self.world.record.incarnation + other)
        before = self.world.record
        strange: list[Fact] = [
            Spawned(number, 7),
            SpawnFailed(number, failure, "late"),
            Ready(number),
            Heartbeat(number, "late"),
            LastWill(number, failure, "late", 99.0),
            Exited(number, status),
        ]
        if not before.alive:
            gone = before.incarnation
            strange += [Spawned(gone, 7), Ready(gone), Heartbeat(gone, "x"), Exited(gone, status)]
        for fact in strange:
            assert self.world.tell(fact) == ()
            assert self.world.record == before

    @rule(timer=st.sampled_from(Timer), back=st.integers(0, 5))
    def a_stale_timer_rings(self, timer: Timer, back: int) -> None:
        number = TimerNumber(self.world.record.next_number - back)
        before = self.world.record
        if (timer, number) not in before.timers:
            assert self.world.tell(Rang(timer, number)) == ()
            assert self.world.record == before

    @invariant()
    def a_burnt_key_is_dropped(self) -> None:
        assert self.world.dropped_sessions <= self.world.record.incarnation

    def teardown(self) -> None:
        self.world.all_goes_well()
        HEARD.update(self.world.heard)


HEARD: Counter[tuple[State, type[Fact]]] = Counter()
"""What units heard in which state, over all examples."""
USUAL = {
    *((state, fact) for state in SERVING for fact in (Heartbeat, Exited, Rang)),
    *((State.STARTING, fact) for fact in (Spawned, Ready, Exited)),
    *((State.DRAINING, fact) for fact in (LastWill, Exited, Rang)),
    *((state, Rang) for state in (State.BACKING_OFF, State.WAITING)),
    (State.READY, LastWill),
    (State.STOPPED, AskedStart),
}


class TestOneUnit(OneUnit.TestCase):  # type: ignore[misc, valid-type]  # made at run time
    settings = settings(deadline=None, max_examples=300)

    def runTest(self) -> None:  # noqa: N802  # unittest's
        HEARD.clear()
        super().runTest()
        # An invariant says nothing about what never happened.
        assert HEARD.keys() >= USUAL, USUAL - HEARD.keys()


ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)
INCARNATIONS = st.integers(0, 3).map(Incarnation)
ANY_FACT: st.SearchStrategy[Fact] = st.one_of(
    st.builds(AskedStart, st.text(max_size=3)),
    st.builds(AskedStop, st.text(max_size=3)),
    st.builds(AskedRestart, st.text(max_size=3)),
    st.builds(Granted),
    st.builds(FileChanged),
    st.builds(Spawned, INCARNATIONS, st.integers()),
    st.builds(SpawnFailed, INCARNATIONS, CLASSES, st.text(max_size=3)),
    st.builds(Ready, INCARNATIONS),
    st.builds(Heartbeat, INCARNATIONS, st.sampled_from(["", "slow"])),
    st.builds(LastWill, INCARNATIONS, CLASSES, st.text(max_size=3), ANY_FLOAT),
    st.builds(Exited, INCARNATIONS, STATUSES),
    st.builds(Rang, st.sampled_from(Timer), st.integers(1, 9).map(TimerNumber)),
    st.builds(Suspended, ANY_FLOAT),
)
ANY_POLICY = st.builds(
    RestartPolicy,
    first_delay_s=st.floats(0, 1e308),
    factor=st.floats(0, 1e308),
    max_delay_s=st.floats(0, 1e308),
    stable_after_s=st.floats(0, 1e308),
    max_restarts=st.integers(-5, 10**9),
    within_s=st.floats(0, math.inf),
    slow_retry_s=st.floats(0, 1e308),
)


@settings(deadline=None)
@given(
    ANY_POLICY,
    st.lists(st.tuples(ANY_FACT, st.floats(-1e9, 1e9), st.floats(0, 1)), max_size=30),
)
def test_any_fact_at_any_time_gets_an_answer_from_the_table(
    restart: RestartPolicy, story: list[tuple[Fact, float, float]]
) -> None:
    record = UnitRecord(UnitId("echo"), replace(POLICY, restart=restart))
    for fact, now_s, draw in story:
        state = record.state
        record, orders = decide(record, fact, now_s, draw)
        for order in orders:
            if isinstance(order, Tell):
                assert TRANSITIONS[state][order.cause] is order.state
                state = order.state
        assert state is record.state


@settings(deadline=None)
@given(
    st.sampled_from(Desired),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -5.0, 0.001, 1e300]),
    st.floats(-1e9, 1e9),
)
def test_a_new_brain_starts_what_should_run_unless_told_to_wait(
    desired: Desired, retry_after_s: float, now_s: float
) -> None:
    found = Found(desired, Incarnation(3), retry_after_s)
    record, orders = decide(UnitRecord(UnitId("echo"), POLICY), found, now_s, 0.0)
    told = retry_after_s > 0
    assert record.incarnation == 3
    if desired is Desired.STOPPED:
        assert orders == ()
        assert record.state is State.STOPPED
    else:
        assert record.state is (State.WAITING if told else State.STARTING)
    assert (record.not_before_s is not None) == told
