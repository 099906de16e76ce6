"""The fleet in a world where units come and go and services flap: pacing, order, no starvation."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dims.supervisor.core import pacing as fleet
from dims.supervisor.core.facts import UnitId
from dims.supervisor.core.pacing import MINUTE_S, FleetDecision, FleetRecord, LetStart, Pace, Wish

UNITS = st.integers(0, 12).map(lambda n: UnitId(f"bot-{n}"))
SERVICES = (UnitId("zygote"), UnitId("sandbox"), UnitId("postgres"))
NEEDS = st.frozensets(st.sampled_from(SERVICES), max_size=3)


class OneFleet(RuleBasedStateMachine):
    """The fleet, the services, and a clock; what is granted stays starting until withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.record = FleetRecord(Pace(8, None))
        self.now_s = 500.0
        self.up: set[UnitId] = set()
        self.wishes: dict[UnitId, Wish] = {}
        self.starting: set[UnitId] = set()
        self.cold_s: list[float] = []
        self.wakes_s: list[float] = []

    @initialize(at_once=st.integers(1, 4), ration=st.none() | st.integers(1, 3))
    def begin(self, at_once: int, ration: int | None) -> None:
        self.record = FleetRecord(Pace(at_once, ration))

    def perform(self, decision: FleetDecision) -> None:
        self.record, orders = decision
        for order in orders:
            if isinstance(order, LetStart):
                self.grant(order.unit)
            else:
                assert 0 < order.delay_s <= MINUTE_S
                self.wakes_s.append(self.now_s + order.delay_s)

    def grant(self, unit: UnitId) -> None:
        waited = list(self.wishes)
        wanted = self.wishes.pop(unit)
        assert wanted.needs <= self.up, "started before what it needs"
        may_be_cold = self.ration_allows(1)
        for other in waited[: waited.index(unit)]:
            wish = self.wishes[other]
            held = not wish.needs <= self.up or (wish.cold and not may_be_cold)
            assert held, f"{unit} went past {other}"
        self.starting.add(unit)
        assert len(self.starting) <= self.record.pace.starts_at_once
        if wanted.cold:
            assert may_be_cold
            self.cold_s.append(self.now_s)

    def ration_allows(self, more: int) -> bool:
        ration = self.record.pace.cold_logins_per_minute
        last_minute = [at_s for at_s in self.cold_s if at_s > self.now_s - MINUTE_S]
        return ration is None or len(last_minute) + more <= ration

    @rule(unit=UNITS, cold=st.booleans(), needs=NEEDS)
    def a_unit_wants_to_start(self, unit: UnitId, cold: bool, needs: frozenset[UnitId]) -> None:
        self.wishes.pop(unit, None)
        self.starting.discard(unit)
        self.wishes[unit] = Wish(unit, cold, needs)
        self.perform(fleet.wish(self.record, self.wishes[unit], self.now_s))

    @rule(unit=UNITS)
    def a_unit_is_ready_or_gives_up(self, unit: UnitId) -> None:
        self.wishes.pop(unit, None)
        self.starting.discard(unit)
        self.perform(fleet.withdraw(self.record, unit, self.now_s))

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def one_that_starts_is_ready(self, data: st.DataObject) -> None:
        self.a_unit_is_ready_or_gives_up(data.draw(st.sampled_from(sorted(self.starting))))

    @rule(service=st.sampled_from(SERVICES))
    def a_service_comes_up(self, service: UnitId) -> None:
        self.up.add(service)
        self.perform(fleet.service_up(self.record, service, self.now_s))

    @rule(service=st.sampled_from(SERVICES))
    def a_service_goes_down(self, service: UnitId) -> None:
        self.up.discard(service)
        self.perform(fleet.service_down(self.record, service))

    @rule(delay_s=st.sampled_from([0.0, 1.0, 20.0, 59.0, 60.0, 200.0]))
    def time_passes(self, delay_s: float) -> None:
        until_s = self.now_s + delay_s
        while self.wakes_s and min(self.wakes_s) <= until_s:
            self.wake()
        self.now_s = until_s

    def wake(self) -> None:
        at_s = min(self.wakes_s)
        self.wakes_s.remove(at_s)
        self.now_s = max(self.now_s, at_s)
        self.perform(fleet.wake(self.record, self.now_s))

    @invariant()
    def it_knows_who_waits_and_who_starts(self) -> None:
        assert self.record.waiting == tuple(self.wishes.values())
        assert self.record.starting == self.starting
        assert self.record.up == self.up

    @invariant()
    def nobody_waits_without_a_cause(self) -> None:
        if len(self.starting) < self.record.pace.starts_at_once:
            for wanted in self.wishes.values():
                if wanted.needs <= self.up:
                    assert wanted.cold, "a place is free, and somebody waits"
                    assert self.wakes_s, "the ration is used up, and nobody will look again"

    @invariant()
    def the_engine_is_not_flooded_with_wakes(self) -> None:
        # One at most per cold login of the last minute and one from before.
        assert len(self.wakes_s) <= 2

    def teardown(self) -> None:
        """Services stay up, who starts becomes ready: everybody gets a turn, in bounded time."""
        for service in SERVICES:
            self.a_service_comes_up(service)
        end_s = self.now_s + MINUTE_S * (len(self.wishes) + 1)
        while self.wishes:
            if self.starting:
                self.a_unit_is_ready_or_gives_up(min(self.starting))
            else:
                self.wake()
            assert self.now_s <= end_s


TestOneFleet = OneFleet.TestCase
TestOneFleet.settings = settings(deadline=None)
