"""What a worker is told: levels that are lent, stacks within their limit, settings that differ."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dims.bot_worker.commands import Commands, changed_keys
from dims.bot_worker.log_levels import LogLevels
from dims.bot_worker.memory import unshared_bytes
from dims.bot_worker.stacks import frames_of, joined, stacks
from dims.errors import RefusedError, UsageError
from dims.ipc.words.terms import Limits, worth_hiding
from dims.logs import Redactor

NAME = "test_worker_commands.levels"
LIMITS = Limits(1.0, 1.0, 1.0, 1.0, 1, 1_024, 1, 1, 64)


class Later:
    """Rings when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, delay_s: float, callback: Callable[[], None]) -> Later.Handle:
        self.waiting.append((delay_s, callback))
        return Later.Handle(self, self.waiting[-1])

    class Handle:
        def __init__(self, later: Later, what: tuple[float, Callable[[], None]]) -> None:
            self._later, self._what = later, what

        def cancel(self) -> None:
            self._later.waiting.remove(self._what)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger(NAME)
    logger.setLevel(logging.WARNING)
    yield logger
    logger.setLevel(logging.NOTSET)


def test_a_level_stays_until_it_is_changed_again(logger: logging.Logger) -> None:
    later = Later()
    levels = LogLevels(later)
    assert levels.set(NAME, "debug", None) == "warning"
    assert levels.set(NAME, "error", None) == "debug"
    assert (logger.level, later.waiting) == (logging.ERROR, [])


def test_a_lent_level_goes_back_when_its_time_is_over(logger: logging.Logger) -> None:
    later = Later()
    LogLevels(later).set(NAME, "debug", 60)
    [(delay_s, ring)] = later.waiting
    assert (delay_s, logger.level) == (60, logging.DEBUG)
    ring()
    assert logger.level == logging.WARNING


def test_a_second_loan_goes_back_to_what_was_before_the_first(logger: logging.Logger) -> None:
    later = Later()
    levels = LogLevels(later)
    levels.set(NAME, "debug", 60)
    assert levels.set(NAME, "info", 5) == "debug"
    [(delay_s, ring)] = later.waiting
    ring()
    assert (delay_s, logger.level) == (5, logging.WARNING)


def test_a_level_set_for_good_ends_a_loan(logger: logging.Logger) -> None:
    later = Later()
    levels = LogLevels(later)
    levels.set(NAME, "debug", 60)
    levels.set(NAME, "error", None)
    assert (logger.level, later.waiting) == (logging.ERROR, [])


@pytest.mark.parametrize(("name", "level"), [("no.such.logger", "info"), (NAME, "INFO")])
def test_an_unknown_logger_or_level_is_refused(
    logger: logging.Logger, name: str, level: str
) -> None:
    with pytest.raises(UsageError):
        LogLevels(Later()).set(name, level, None)
    assert logger.level == logging.WARNING
    assert "no.such.logger" not in logging.root.manager.loggerDict


async def inner(go: asyncio.Event) -> None:
    await go.wait()


async def outer(go: asyncio.Event) -> None:
    await inner(go)


async def test_the_frames_of_a_task_lead_down_to_what_it_waits_for() -> None:
    go = asyncio.Event()
    task = asyncio.create_task(outer(go), name="waits for go")
    await asyncio.sleep(0)
    assert [f.f_code.co_name for f in frames_of(task.get_coro())] == ["outer", "inner", "wait"]
    text = stacks(256 * 1024)
    assert "task waits for go: outer\n" in text
    assert "in inner\n    await go.wait()\n" in text
    assert "thread MainThread\n" in text
    go.set()
    await task


async def test_stacks_keep_to_their_limit() -> None:
    go = asyncio.Event()
    tasks = [asyncio.create_task(outer(go)) for _ in range(100)]
    await asyncio.sleep(0)
    text = stacks(4_096)
    assert len(text.encode()) <= 4_096
    assert text.endswith(" more are left out)\n")
    go.set()
    await asyncio.gather(*tasks)


def test_what_does_not_fit_is_not_even_made() -> None:
    made = []

    def parts() -> Iterator[str]:
        for number in range(1_000):
            made.append(number)
            yield "é" * 10

    text = joined(parts(), 1_000, 100)
    assert text == "é" * 30 + "(997 more are left out)\n"
    assert len(made) == 4
    assert joined(["a", "b"], 2, 100) == "ab"


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({}, {}, []),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ({"a": 1, "b": 2}, {"a": 2, "c": 3}, ["a", "b", "c"]),
        ({"a": None}, {}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": {"x": [1]}}, {"a": {"x": [1]}}, []),
    ],
)
def test_changed_settings_are_named(
    old: dict[str, Any], new: dict[str, Any], changed: list[str]
) -> None:
    assert changed_keys(old, new) == changed


def test_a_secret_that_came_later_is_hidden_like_the_others() -> None:
    redactor = Redactor(("first-secret",))
    redactor.hide(("first-secret-and-more", 'with"quote'))
    assert redactor.clean('a first-secret-and-more b first-secret c with\\"quote') == (
        "a *** b *** c ***"
    )


def test_texts_too_short_to_hide_are_left_alone() -> None:
    assert worth_hiding(["yes", "secret"]) == ("secret",)


@pytest.fixture
async def commands() -> Commands:
    return Commands(
        LIMITS,
        7,
        clean=str,
        hide=lambda _texts: None,
        leave=lambda _failure: None,
        trouble=lambda: "something",
    )


async def test_a_worker_that_is_not_ready_tells_how_it_is(commands: Commands) -> None:
    readings = await commands.answer("readings", {})
    assert (readings["incarnation"], readings["ready"]) == (7, False)
    assert (readings["updates"], readings["in_hand"]) == (None, None)
    assert readings["trouble"] == "something"
    assert (readings["unshared_bytes"] is None) == (unshared_bytes() is None)


@pytest.mark.parametrize("kind", ["reload", "warm", "drop-caches", "drain"])
async def test_what_needs_the_client_waits_until_there_is_one(
    commands: Commands, kind: str
) -> None:
    with pytest.raises(RefusedError, match="not ready yet"):
        await commands.answer(kind, {})


async def test_an_unknown_command_is_refused_with_the_likely_cause(commands: Commands) -> None:
    with pytest.raises(RefusedError, match="does not know 'dance'") as refused:
        await commands.answer("dance", {})
    assert "older than the supervisor" in refused.value.hint
