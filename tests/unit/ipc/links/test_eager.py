"""Tasks whose first step is taken at once, from a callback as sockets have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from dims.ipc.links.eager import start_now
from dims.ipc.mailbox.handing.places import Places
from dims.ipc.wire.envelope import Priority


async def from_callback(act: Callable[[], Any]) -> Any:
    """What `act` gives when the loop calls it, and no task."""
    loop = asyncio.get_running_loop()
    given: asyncio.Future[Any] = loop.create_future()
    loop.call_soon(lambda: given.set_result(act()))
    return await given


async def started(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    loop = asyncio.get_running_loop()
    task: asyncio.Task[None] = await from_callback(lambda: start_now(loop, work))
    return task


async def test_the_first_step_is_done_when_it_returns_and_nothing_queued_is_lost() -> None:
    loop, order = asyncio.get_running_loop(), list[str]()
    go = asyncio.Event()

    async def work() -> None:
        order.append("first")
        await go.wait()
        order.append("last")

    def act() -> asyncio.Task[None]:
        loop.call_soon(order.append, "queued before")
        task = start_now(loop, work())
        order.append("back")
        loop.call_soon(order.append, "queued after")
        return task

    task = await from_callback(act)
    await asyncio.sleep(0)
    assert order == ["first", "back", "queued before", "queued after"]
    go.set()
    await task
    assert order[-1] == "last"


async def test_the_task_is_the_current_one_in_its_first_step() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def work() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    task = await started(work())
    await task
    assert seen == [task, task]
    assert asyncio.current_task() is not task


async def test_a_time_limit_in_the_first_step_holds() -> None:
    late = False

    async def work() -> None:
        nonlocal late
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            late = True

    await (await started(work()))
    assert late


async def test_one_that_needs_no_other_step_is_done_with_its_error() -> None:
    async def work() -> None:
        raise ValueError("at once")

    task = await started(work())
    with pytest.raises(ValueError, match="at once"):
        await task


async def test_a_pool_reports_what_fails_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("at once")

    pool = Places(1)
    await from_callback(lambda: pool.begin_at_once(Priority.NORMAL, work))
    assert "a delivery failed" in caplog.text
    assert "at once" in caplog.text
    assert pool.busy == 0
    await pool.close()


async def test_it_may_be_cancelled_after_its_first_step() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    task = await started(work())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_within_another_task_it_starts_in_the_next_turn() -> None:
    begun = False

    async def work() -> None:
        nonlocal begun
        begun = True

    task = start_now(asyncio.get_running_loop(), work())
    assert not begun
    await task
    assert begun


async def test_work_inherits_nothing_of_what_the_one_who_made_it_ready_has_in_hand() -> None:
    in_hand: ContextVar[str] = ContextVar("in hand", default="nothing")
    seen: list[str] = []
    all_seen = asyncio.Event()

    async def work() -> None:
        seen.append(in_hand.get())
        in_hand.set("its own")
        if len(seen) == 3:
            all_seen.set()

    pool = Places(slots=1)
    in_hand.set("a transaction")
    pool.begin_at_once(Priority.NORMAL, work)
    pool.push(Priority.NORMAL, work)
    await from_callback(lambda: pool.begin_at_once(Priority.NORMAL, work))
    await all_seen.wait()
    await pool.drain()
    assert seen == ["nothing"] * 3
    assert in_hand.get() == "a transaction"
