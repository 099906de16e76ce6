"""The pool in virtual time: whatever is asked, allowed, cancelled and broken in whatever order.

The connections are a twin in memory; that it does as real ones do is `check_twin`, which
tests/integration/storage/test_pool.py runs against a server.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twin_postgres import FAILS_S, LETS_GO_S, OPENS_S, TwinConnection, TwinServer, check_twin
from usual import pool_limits
from virtual import run

from dims.errors import ServiceError, TimedOutError
from dims.storage.connections.attempts import (
    FIRST_DELAY_S,
    LONGEST_DELAY_S,
    REFUSED_DELAY_S,
    Attempts,
)
from dims.storage.connections.pool import SLICE_S, Pool
from dims.storage.connections.slow_queries import SHOWN_CHARS, masked
from dims.storage.connections.storage_errors import UnavailableError
from dims.system.clock import SYSTEM

MAX = 3
LIMITS = pool_limits(max_size=MAX, idle_s=1.0, acquire_s=5.0)
TICK_S = 1e-6
"""More than a float's rounding of the clock, less than anything here takes."""


MARKS = {"begin": "BEGIN", "raw": "SET x = 1", "error": "SET x = 1"}
"""What is left behind by a body that ends in this way."""


# The world of the property


@dataclass(frozen=True)
class Ask:
    hold_s: float
    timeout_s: float
    end: str
    """How the body ends: well, raw, error or begin."""
    cancel_after_s: float | None


class World:
    """A pool, a server, and everybody who asked; every step is checked."""

    def __init__(self, draws: list[float]) -> None:
        self.server = TwinServer()
        self._draws = draws
        self._drawn = 0
        self.allowed = MAX
        self.pool = Pool(
            self.server.connect, LIMITS, name="alpha", on_change=self.check, draw=self._draw
        )
        self.tasks: list[asyncio.Task[None]] = []
        self.served_s: dict[int, float] = {}
        """By the number of the ask, when it got its connection."""
        self.holders: dict[TwinConnection, int] = {}
        self.outcomes: dict[int, str] = {}
        self.told = (0, 0)

    def _draw(self) -> float:
        self._drawn += 1
        return self._draws[self._drawn % len(self._draws)]

    def check(self) -> None:
        pool = self.pool
        assert len(self.server.held) + self.server.under_way <= pool.open <= MAX
        assert pool.wanted <= MAX
        assert (pool.open, pool.wanted) != self.told, "told without a change"
        self.told = (pool.open, pool.wanted)

    def ask(self, asked: Ask) -> None:
        number = len(self.tasks)
        task = asyncio.get_running_loop().create_task(self._use(number, asked))
        self.tasks.append(task)
        if asked.cancel_after_s is not None:
            asyncio.get_running_loop().call_later(asked.cancel_after_s, task.cancel)

    async def _use(self, number: int, asked: Ask) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + asked.timeout_s
        lease = self.pool.acquire(asked.timeout_s, raw=asked.end == "raw")
        try:
            async with lease as connection:
                assert loop.time() <= due_s + TICK_S
                assert connection not in self.holders, "handed out twice"
                assert not connection.is_in_transaction(), "handed out as the last one left it"
                assert not connection.is_changed, "handed out as the last one left it"
                self.holders[connection] = number
                self.served_s[number] = loop.time()
                try:
                    if not connection.is_closed() and asked.end in MARKS:
                        await connection.execute(MARKS[asked.end])
                    await asyncio.sleep(asked.hold_s)
                    if asked.end == "error":
                        raise KeyError(number)
                finally:
                    del self.holders[connection]
            self.outcomes[number] = "served"
        except TimedOutError:
            assert abs(loop.time() - due_s) <= TICK_S, "not at its deadline"
            self.outcomes[number] = "late"
        except ServiceError:
            self.outcomes[number] = "refused"
        except KeyError:
            self.outcomes[number] = "served"

    async def settle(self) -> None:
        """With a server that works and a connection to be had, everybody's turn comes."""
        self.server.is_down = self.server.refuses = False
        self.allow(max(1, self.allowed))
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for task in self.tasks:
            assert task.cancelled() or task.exception() is None
        await asyncio.sleep(LETS_GO_S * 2 + SLICE_S)
        assert self.pool.open <= self.allowed
        assert self.pool.wanted == 0
        assert self.told == (self.pool.open, 0), "the last change was told"
        # At one moment a task that waited may resume after one that did not have to.
        moments_s = [self.served_s[number] for number in sorted(self.served_s)]
        assert moments_s == sorted(moments_s), "who asked first was served first"

    def allow(self, n: int) -> None:
        self.allowed = n
        self.pool.allow(n)

    async def end(self) -> None:
        await self.settle()
        await asyncio.sleep(LIMITS.idle_s + LETS_GO_S * 2)
        assert self.pool.open == 0, "what is idle is given back"
        assert not self.server.held
        self._check_attempts()
        await self.pool.close(1)

    def _check_attempts(self) -> None:
        """One attempt at a time after a failure, and never before its delay has passed."""
        for began_s, beside in self.server.attempts:
            failed = [one for one in self.server.failures if one[0] <= began_s - TICK_S]
            if not failed:
                continue
            failed_s, passes = failed[-1]
            if any(failed_s <= at_s <= began_s for at_s in self.server.successes):
                continue
            assert beside == 0
            delay_s = FIRST_DELAY_S if passes else REFUSED_DELAY_S
            assert began_s >= failed_s + delay_s - TICK_S


asks = st.builds(
    Ask,
    hold_s=st.sampled_from([0.0, 0.001, 0.01, 0.2]),
    timeout_s=st.sampled_from([0.0, 0.004, 0.05, 1.0, 5.0]),
    end=st.sampled_from(["well", "well", "raw", "error", "begin"]),
    cancel_after_s=st.sampled_from([None, None, None, 0.0, OPENS_S, 0.009, 0.05]),
)
steps = st.lists(
    st.one_of(
        # One alone has nobody to wait for: a pool is tried by crowds.
        st.lists(asks, min_size=2, max_size=2 * MAX),
        st.integers(0, MAX + 1),
        st.sampled_from([0.0, 0.001, OPENS_S, 0.02, 0.3, 1.1]),
        st.sampled_from(["down", "up", "crash", "refuse", "accept", "cut", "settle"]),
    ),
    min_size=5,
    max_size=40,
)


def test_whatever_happens_nothing_leaks_and_the_first_come_first() -> None:
    outcomes: Counter[str] = Counter()

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(steps=steps, draws=st.lists(st.floats(0, 1), min_size=1, max_size=5))
    def play_any(steps: list[Any], draws: list[float]) -> None:
        async def play() -> None:
            world = World(draws)
            for step in steps:
                await _take(world, step)
            await world.end()
            outcomes.update(world.outcomes.values())

        run(play())

    play_any()
    # How many of each is chance, for examples that failed before are tried first.
    assert min(outcomes[end] for end in ("served", "late")) > 100, outcomes
    assert outcomes["refused"], outcomes


def test_a_connection_found_dead_is_told_although_who_found_it_is_refused() -> None:
    soon = Ask(hold_s=0.0, timeout_s=0.0, end="well", cancel_after_s=None)
    steps: list[Any] = [[soon, soon], 0.02, [soon, soon], "refuse", 0.008, [soon, soon], "down"]

    async def play() -> None:
        world = World([0.0])
        for step in steps:
            await _take(world, step)
        await world.end()

    run(play())


async def _take(world: World, step: list[Ask] | int | float | str) -> None:
    match step:
        case list():
            for asked in step:
                world.ask(asked)
        case int():
            world.allow(step)
        case float():
            await asyncio.sleep(step)
        case "down" | "up":
            world.server.is_down = step == "down"
            if world.server.is_down:
                world.server.crash()
        case "refuse" | "accept":
            world.server.refuses = step == "refuse"
        case "crash":
            world.server.crash()
        case "cut":
            for connection in list(world.server.held)[:1]:
                connection.break_off()
        case "settle":
            await world.settle()


@settings(max_examples=80, deadline=None)
@given(steps=steps, left_s=st.sampled_from([0.0, 0.001, 0.01, 2.0]))
def test_closing_at_any_time_leaves_nothing(steps: list[Any], left_s: float) -> None:
    async def play() -> None:
        world = World([0.5])
        for step in steps:
            if step != "settle":
                await _take(world, step)
        await world.pool.close(left_s)
        for _ in range(3):
            await asyncio.sleep(0)  # What was cut off is noted by callbacks.
        assert world.pool.open == 0
        assert not world.server.held
        assert world.server.under_way == 0
        await asyncio.gather(*world.tasks, return_exceptions=True)
        assert not world.server.held
        with pytest.raises(ServiceError, match="closed"):
            await _hold(world.pool, 0)

    run(play())


# Single promises


def test_the_twin_does_as_the_real_one() -> None:
    run(check_twin(TwinServer().connect))


def test_a_connection_beyond_its_allowance_serves_its_own_for_a_slice() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", allowed=1, draw=SYSTEM.draw)
        tasks = [asyncio.create_task(_hold(pool, 0.01)) for _ in range(20)]
        await asyncio.sleep(OPENS_S + 0.001)
        pool.allow(0)
        await asyncio.sleep(1)
        assert 5 <= pool.stats().acquired <= 7
        assert pool.open == 0
        for _ in range(20):
            pool.allow(1)
            await asyncio.sleep(OPENS_S + 0.001)
            pool.allow(0)
            await asyncio.sleep(SLICE_S + 0.02)
        await asyncio.gather(*tasks)
        assert len(server.attempts) == 4, "shared by slices, not by single uses"
        await pool.close(1)

    run(play(TwinServer()))


def test_nobody_is_asked_again_while_nobody_asks() -> None:
    async def play(server: TwinServer) -> None:
        server.is_down = True
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        with pytest.raises(TimedOutError, match="nobody listens there"):
            await _hold(pool, 0, timeout_s=5)
        tried = len(server.attempts)
        assert 3 <= tried <= 5.0 / FIRST_DELAY_S
        await asyncio.sleep(100)
        assert len(server.attempts) <= tried + 1
        await pool.close(1)

    run(play(TwinServer()))


def test_a_refusal_ends_everybodys_wait_and_is_asked_again_a_second_later() -> None:
    async def play(server: TwinServer) -> None:
        loop = asyncio.get_running_loop()
        server.refuses = True
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        began_s = loop.time()
        both = (_hold(pool, 0), _hold(pool, 0))
        results = await asyncio.gather(*both, return_exceptions=True)
        assert [str(result) for result in results] == ["the password is wrong"] * 2
        assert results[0] is not results[1]
        assert loop.time() - began_s == pytest.approx(FAILS_S)
        server.refuses = False
        with pytest.raises(ServiceError, match="password"):
            await _hold(pool, 0)
        assert len(server.attempts) == 1
        await asyncio.sleep(REFUSED_DELAY_S)
        await _hold(pool, 0)
        assert len(server.attempts) == 2
        await pool.close(1)

    run(play(TwinServer()))


def test_what_still_works_is_waited_for_though_the_server_refuses_more() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        holding = asyncio.create_task(_hold(pool, 1.0))
        await asyncio.sleep(0.1)
        server.refuses = True
        others = [asyncio.create_task(_hold(pool, 0)) for _ in range(2)]
        await asyncio.sleep(FAILS_S * 2)
        assert pool.stats().failures == 2
        await asyncio.gather(_hold(pool, 0), *others, holding)
        await pool.close(1)

    run(play(TwinServer()))


def test_whoever_is_cancelled_just_when_it_is_served_leaves_the_connection() -> None:
    async def play(server: TwinServer) -> None:
        waiting: list[asyncio.Task[None]] = []

        def cancel_when_served() -> None:
            if waiting and pool.stats().waiting == 0:
                waiting.pop().cancel()

        pool = Pool(
            server.connect,
            LIMITS,
            name="alpha",
            on_change=cancel_when_served,
            allowed=1,
            draw=SYSTEM.draw,
        )
        first = asyncio.create_task(_hold(pool, 0.1))
        second = asyncio.create_task(_hold(pool, 0.1))
        await asyncio.sleep(OPENS_S + 0.05)
        assert (pool.stats().in_use, pool.stats().waiting) == (1, 1)
        waiting.append(second)
        await asyncio.wait([first, second])
        assert second.cancelled()
        await _hold(pool, 0, timeout_s=1)
        await pool.close(1)

    run(play(TwinServer()))


def test_what_broke_a_moment_ago_is_not_handed_out() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        await asyncio.gather(*(_hold(pool, 0.1) for _ in range(MAX)))
        server.crash()  # Nobody has been told yet.
        async with pool.acquire() as connection:
            assert not connection.is_closed()
        assert server.attempts[-1][1] == 0
        await pool.close(1)

    run(play(TwinServer()))


def test_what_broke_while_idle_is_no_longer_counted() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        await _hold(pool, 0)
        server.crash()
        await asyncio.sleep(TICK_S)
        assert pool.open == 0
        await pool.close(1)

    run(play(TwinServer()))


def test_a_connection_that_is_being_reset_is_worth_waiting_for() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        async with pool.acquire(raw=True):
            pass
        await _hold(pool, 0)
        assert len(server.attempts) == 1
        await pool.close(1)

    run(play(TwinServer()))


def test_closing_does_not_wait_for_an_answer_to_come_in() -> None:
    async def never() -> TwinConnection:
        await asyncio.sleep(100)
        raise AssertionError

    async def play() -> None:
        loop = asyncio.get_running_loop()
        pool = Pool(never, LIMITS, name="alpha", draw=SYSTEM.draw)
        waiting = asyncio.create_task(_hold(pool, 0))
        await asyncio.sleep(1)
        began_s = loop.time()
        await pool.close(10)
        assert loop.time() - began_s < TICK_S
        with pytest.raises(ServiceError, match="closed"):
            await waiting

    run(play())


def test_a_crash_noticed_in_use_makes_the_next_attempt_a_lone_one() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        holding = asyncio.create_task(_hold(pool, 0.1))
        await asyncio.sleep(0.05)
        server.crash()
        begun = len(server.attempts)
        await asyncio.gather(holding, *(_hold(pool, 0.05) for _ in range(8)))
        assert server.attempts[begun][1] == 0
        assert server.attempts[begun + 1][0] >= server.attempts[begun][0] + OPENS_S
        await pool.close(1)

    run(play(TwinServer()))


def test_the_first_connection_is_opened_alone() -> None:
    async def play(server: TwinServer) -> None:
        pool = Pool(server.connect, LIMITS, name="alpha", draw=SYSTEM.draw)
        await asyncio.gather(*(_hold(pool, 0.1) for _ in range(MAX)))
        assert [beside for _, beside in server.attempts] == [0, 0, 1]
        await pool.close(1)

    run(play(TwinServer()))


async def _hold(pool: Pool, hold_s: float, timeout_s: float | None = None) -> None:
    async with pool.acquire(timeout_s):
        await asyncio.sleep(hold_s)


# When to try again


@given(draws=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_delays_lie_between_the_first_and_the_longest(draws: list[float]) -> None:
    attempts, now_s = Attempts(), 100.0
    for number, draw in enumerate(draws):
        attempts.failed(UnavailableError("x"), is_passing=True, now_s=now_s, draw=draw)
        delay_s = attempts.not_before_s - now_s
        ceiling_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (number + 1))
        assert FIRST_DELAY_S - TICK_S <= delay_s <= ceiling_s + TICK_S
        assert not attempts.may_begin(now_s, 0)
        assert not attempts.may_begin(attempts.not_before_s, 1)
        assert attempts.may_begin(attempts.not_before_s, 0)
        now_s = attempts.not_before_s
    attempts.succeeded()
    assert attempts.may_begin(now_s, 5)
    assert (attempts.failures, attempts.reason) == (0, None)


def test_those_that_fail_beside_each_other_count_as_one() -> None:
    attempts = Attempts()
    for _ in range(4):
        attempts.failed(UnavailableError("x"), is_passing=True, now_s=7.0, draw=1.0)
    assert attempts.failures == 1


# What is shown of a statement


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT 'a''b', 1", "SELECT ?, ?"),
        ("SELECT E'a\\'b', x1, $1, $2::int4", "SELECT ?, x1, $1, $2::int4"),
        ("SELECT $$a'b$$, $tag$ $$ $tag$, 'x'", "SELECT ?, ?, ?"),
        ("SELECT 1.5e-10, .5, 0xFF, 1_000, -7", "SELECT ?, ?, ?, ?, -?"),
        ('SELECT "it\'s", "a""b", 5', 'SELECT "it\'s", "a""b", ?'),
        ("SELECT 1 -- don't\n, 'x'", "SELECT ? , ?"),
        ("SELECT /* a /* don't */ 'b' */ 'x'", "SELECT ?"),
        ("SELECT 'never ends", "SELECT ?"),
        ("SELECT $$never ends", "SELECT ?"),
        ("SELECT 1 /* never ends", "SELECT ?"),
        ("SELECT\n\t a,\r\n b", "SELECT a, b"),
        ("", ""),
    ],
)
def test_literals_and_comments_are_not_shown(sql: str, shown: str) -> None:
    assert masked(sql) == shown


@given(text=st.text(), number=st.integers(10_000, 10**9))
def test_no_literal_is_shown_whatever_is_in_it(text: str, number: int) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert masked(f"VALUES ({quoted}, {number}) -- {text!r}") == "VALUES (?, ?)"


@given(sql=st.text(alphabet="'\"$/*-Ee\\ \n1a", max_size=50))
def test_anything_is_shown_on_one_short_line(sql: str) -> None:
    line = masked(sql * 20)
    assert len(line) <= SHOWN_CHARS
    assert "\n" not in line


def test_a_long_statement_is_shortened_quickly() -> None:
    assert masked("SELECT " + "a, " * 10_000).endswith("…")
    assert masked("SELECT '" + "x" * 5_000_000) == "SELECT ?"
