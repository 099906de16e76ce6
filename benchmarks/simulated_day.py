"""A day of 10,000 bots through the real `decide` and the real fleet, in virtual time.

    python benchmarks/simulated_day.py [--bots 10000] [--seed 1] [--stuck-after 1800]

The world: bots crash, hang, hit flood waits, lose the network all at once at noon, leave because of
their memory, loop in a crash, are stopped and started. One heap of what will happen, no sleep.
Checked on the way, for each bot: one process at a time; no start before an announced wait ended; no
window with more starts than the cap; no start of a stopped bot; never more starts at once, and
never more cold logins a minute, than the fleet allows. At the end: whoever should serve does, or
waits for a reason.

A heartbeat only notes its time until the STUCK timer looks at the note, so one heartbeat per ring
is played, right before it. `--stuck-after` is 1,800 s here and 45 s in life: the number of rings is
the only difference, and 45 s would be 38 million of them.
"""

from __future__ import annotations

import argparse
import heapq
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))

from dims.config import LimitSettings, RestartSettings
from dims.ipc.words.failures import ExitStatus, FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core import pacing as fleet
from dims.supervisor.core.facts import (
    AskedRestart,
    AskedStart,
    AskedStop,
    Exited,
    Fact,
    Granted,
    Heartbeat,
    LastWill,
    Rang,
    Ready,
    Spawned,
    SpawnFailed,
    Suspended,
    Timer,
    UnitId,
)
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.orders import (
    Arm,
    DropSession,
    Order,
    RequestStart,
    Signal,
    Spawn,
    Stop,
    WithdrawStart,
)
from dims.supervisor.core.pacing import MINUTE_S, FleetDecision, FleetRecord, LetStart, Pace, Wish
from dims.supervisor.core.states import SERVING, UnitRecord
from dims.supervisor.units.units import policy_of

DAY_S = 86_400.0
OUTAGE_S = (43_200.0, 43_800.0)
"""The network is away for ten minutes at noon."""
LOOPING_SHARE = 0.01
"""Bots that crash within seconds of each start, all day."""
MEAN_LIFE_S = 4 * 3600.0
ENDS = (
    (FailureClass.CRASH, 60),
    (FailureClass.RECYCLE, 15),
    (FailureClass.WAIT, 10),
    (FailureClass.STUCK, 10),
    (FailureClass.DEAF, 4),
    (FailureClass.FENCED, 1),
)
"""How a life ends, and how often of a hundred."""


@dataclass(slots=True)
class Bot:
    """What the world knows of one bot, apart from the brain's record."""

    record: UnitRecord
    looping: bool
    alive: int = 0
    """The incarnation that exists; 0: none."""
    hung: bool = False
    cold: bool = False
    not_before_s: float = 0.0
    asked: bool = False
    starts_s: deque[float] = field(default_factory=deque)
    serving_since_s: float | None = None
    served_s: float = 0.0
    wanted_since_s: float | None = None
    wanted_s: float = 0.0


class Day:
    """The world, the brain and the checks."""

    def __init__(self, bots: int, seed: int, stuck_after_s: float) -> None:
        self.random = Random(seed)
        self.policy = replace(
            policy_of(RestartSettings(), LimitSettings()), stuck_after_s=stuck_after_s
        )
        self.now_s = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.fleet = FleetRecord(Pace(starts_at_once=64, cold_logins_per_minute=20))
        self.bots = {
            unit: Bot(UnitRecord(unit, self.policy), self.random.random() < LOOPING_SHARE)
            for unit in (UnitId(f"bot-{n}") for n in range(bots))
        }
        self.seen: Counter[str] = Counter()
        self.grants: deque[Bot] = deque()
        self.cold_s: deque[float] = deque()
        self.starting: set[UnitId] = set()

    # Time

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (self.now_s + delay_s, self.count, event))

    def run(self) -> None:
        """Plays the day."""
        draw = self.random.random
        for bot in self.bots.values():
            self.after(0.0, partial(self.ask, bot, AskedStart()))
        for _ in range(len(self.bots) // 10):
            bot = self.random.choice(list(self.bots.values()))
            asked = self.random.choice((AskedStop(), AskedRestart(), AskedStart()))
            at_s = draw() * DAY_S * 0.9
            self.after(at_s, partial(self.ask, bot, asked))
            self.after(at_s + draw() * 3_600.0, partial(self.ask, bot, AskedStart()))
        self.after(OUTAGE_S[0], self.outage)
        self.after(DAY_S / 3, self.suspension)
        heap = self.heap
        while heap and heap[0][0] <= DAY_S:
            self.now_s, _, event = heapq.heappop(heap)
            event()
            while self.grants:
                self.tell(self.grants.popleft(), Granted())

    # The brain

    def tell(self, bot: Bot, fact: Fact) -> None:
        before = bot.record
        bot.record, orders = decide(before, fact, self.now_s, self.random.random())
        self.seen["facts"] += 1
        if bot.record.state is not before.state:
            self.changed(bot, before.state)
        for order in orders:
            self.perform(bot, order)

    def changed(self, bot: Bot, before: State) -> None:
        serves = bot.record.state in SERVING
        if serves and before not in SERVING:
            bot.serving_since_s, bot.cold = self.now_s, False
        elif not serves and bot.serving_since_s is not None:
            bot.served_s += self.now_s - bot.serving_since_s
            bot.serving_since_s = None

    def perform(self, bot: Bot, order: Order) -> None:
        match order:
            case Arm():
                self.after(order.delay_s, partial(self.ring, bot, Rang(order.timer, order.number)))
            case RequestStart():
                wish = Wish(order.unit, bot.cold)
                self.hear_fleet(fleet.wish(self.fleet, wish, self.now_s))
            case WithdrawStart():
                self.starting.discard(order.unit)
                self.hear_fleet(fleet.withdraw(self.fleet, order.unit, self.now_s))
            case Spawn():
                self.spawn(bot)
            case Signal():
                self.signal(bot, order)
            case DropSession():
                bot.cold = True
            case _:
                pass

    def hear_fleet(self, decision: FleetDecision) -> None:
        self.fleet, orders = decision
        for order in orders:
            if isinstance(order, LetStart):
                self.granted(self.bots[order.unit])
            else:
                self.after(order.delay_s, self.wake)

    def granted(self, bot: Bot) -> None:
        self.starting.add(bot.record.unit)
        assert len(self.starting) <= self.fleet.pace.starts_at_once
        if bot.cold:
            self.cold_s.append(self.now_s)
            while self.cold_s[0] <= self.now_s - MINUTE_S:
                self.cold_s.popleft()
            assert len(self.cold_s) <= (self.fleet.pace.cold_logins_per_minute or 0)
        self.grants.append(bot)

    def wake(self) -> None:
        self.hear_fleet(fleet.wake(self.fleet, self.now_s))

    def ring(self, bot: Bot, rang: Rang) -> None:
        if rang.timer is Timer.STUCK and bot.alive and not bot.hung:
            self.tell(bot, Heartbeat(bot.record.incarnation))
        self.tell(bot, rang)

    # The operator

    def ask(self, bot: Bot, asked: AskedStart | AskedStop | AskedRestart) -> None:
        stops = isinstance(asked, AskedStop)
        bot.asked = not stops
        if stops and bot.wanted_since_s is not None:
            bot.wanted_s += self.now_s - bot.wanted_since_s
            bot.wanted_since_s = None
        elif not stops and bot.wanted_since_s is None:
            bot.wanted_since_s = self.now_s
        self.tell(bot, asked)

    # Processes

    def spawn(self, bot: Bot) -> None:
        assert not bot.alive, "two processes at once"
        assert bot.record.desired is Desired.RUNNING, "a stopped bot was started"
        assert self.now_s >= bot.not_before_s - 1e-6, "before the announced wait ended"
        if not bot.asked:
            restart = self.policy.restart
            bot.starts_s.append(self.now_s)
            while bot.starts_s[0] <= self.now_s - restart.within_s + 1e-6:
                bot.starts_s.popleft()
            assert len(bot.starts_s) <= restart.max_restarts + 1, "faster than the cap"
        bot.asked = False
        self.seen["spawns"] += 1
        bot.alive, bot.hung = bot.record.incarnation, False
        self.after(0.006, partial(self.spawned, bot, bot.alive))

    def spawned(self, bot: Bot, born: int) -> None:
        if self.random.random() < 0.001:
            bot.alive = 0
            self.tell(bot, SpawnFailed(bot.record.incarnation, FailureClass.CRASH, "no memory"))
            return
        self.tell(bot, Spawned(bot.record.incarnation, 1_000 + born))
        if OUTAGE_S[0] <= self.now_s < OUTAGE_S[1]:
            self.after(5.0, partial(self.leave, bot, born, FailureClass.NETWORK))
            return
        self.after(0.1 + self.random.random(), partial(self.ready, bot, born))
        life_s = self.random.expovariate(1 / (3.0 if bot.looping else MEAN_LIFE_S))
        classes = [failure for failure, _ in ENDS]
        failure = self.random.choices(classes, [share for _, share in ENDS])[0]
        end = FailureClass.CRASH if bot.looping else failure
        self.after(life_s, partial(self.leave, bot, born, end))

    def ready(self, bot: Bot, born: int) -> None:
        if bot.alive == born:
            self.tell(bot, Ready(bot.record.incarnation))

    def leave(self, bot: Bot, born: int, failure: FailureClass) -> None:
        """A life ends as it must."""
        if bot.alive != born:
            return
        self.seen[failure] += 1
        if failure is FailureClass.STUCK:
            bot.hung = True
            return
        if failure is not FailureClass.CRASH:
            wait_s = self.random.uniform(5.0, 3_100.0) if failure is FailureClass.WAIT else 0.0
            bot.not_before_s = max(bot.not_before_s, self.now_s + wait_s)
            self.tell(bot, LastWill(bot.record.incarnation, failure, "as it must", wait_s))
        self.after(self.random.random(), partial(self.gone, bot, born, ExitStatus(code=1)))

    def signal(self, bot: Bot, order: Signal) -> None:
        if order.stop is Stop.KILL or (order.stop is Stop.TERM and not bot.hung):
            status = ExitStatus(signal=9 if order.stop is Stop.KILL else 15)
            self.after(self.random.random(), partial(self.gone, bot, bot.alive, status))

    def gone(self, bot: Bot, born: int, status: ExitStatus) -> None:
        if bot.alive == born:
            bot.alive = 0
            self.tell(bot, Exited(bot.record.incarnation, status))

    def outage(self) -> None:
        """Everybody's connection is lost within five seconds."""
        for bot in self.bots.values():
            if bot.alive:
                delay_s = self.random.random() * 5.0
                self.after(delay_s, partial(self.leave, bot, bot.alive, FailureClass.NETWORK))

    def suspension(self) -> None:
        """The brain hears that it slept; the world went on."""
        for bot in self.bots.values():
            self.tell(bot, Suspended(self.policy.stuck_after_s))

    # The end of the day

    def close(self) -> tuple[float, Counter[State]]:
        """The share of the wanted time in which bots served, and where they are now."""
        served_s = wanted_s = 0.0
        for bot in self.bots.values():
            served_s += bot.served_s
            wanted_s += bot.wanted_s
            if bot.serving_since_s is not None:
                served_s += DAY_S - bot.serving_since_s
            if bot.wanted_since_s is not None:
                wanted_s += DAY_S - bot.wanted_since_s
            self.justify(bot)
        return served_s / wanted_s, Counter(bot.record.state for bot in self.bots.values())

    @staticmethod
    def justify(bot: Bot) -> None:
        record = bot.record
        if record.desired is Desired.STOPPED:
            assert record.state in {State.STOPPED, State.DRAINING}
        elif record.state not in SERVING:
            recent = DAY_S - record.since_s < 120.0
            waits = record.retry_at_s is not None and record.retry_at_s > DAY_S
            assert recent or waits or record.failure is FailureClass.FENCED, record


def main() -> None:
    """Plays a day and prints what it was like."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bots", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stuck-after", type=float, default=1_800.0)
    arguments = parser.parse_args()
    day = Day(arguments.bots, arguments.seed, arguments.stuck_after)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    day.run()
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    availability, states = day.close()
    facts = day.seen.pop("facts")
    print(f"{arguments.bots:,} bots, a day in {took_s:.1f} s, of which {cpu_s:.1f} s of CPU")
    print(f"{facts:,} facts, {facts / cpu_s:,.0f} a CPU second; {day.seen.pop('spawns'):,} spawns")
    print("ends: " + ", ".join(f"{count:,} {end}" for end, count in day.seen.most_common()))
    print(f"availability {availability:.4%} of the time in which bots should serve")
    print(
        "at midnight: " + ", ".join(f"{count:,} {state}" for state, count in states.most_common())
    )


if __name__ == "__main__":
    main()
