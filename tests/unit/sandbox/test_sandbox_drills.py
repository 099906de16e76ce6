"""Faults are decided by a pure function: table, moment, bot, request and time in, verdict out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dims.errors import UsageError
from dims.sandbox.drills import (
    NOTHING,
    Fault,
    FaultKind,
    Moment,
    Verdict,
    decide,
    describe,
    outage_end,
    parse,
)

SEND = "messages.sendMessage"
kinds = st.sampled_from(FaultKind)
moments = st.sampled_from(Moment)
faults = st.builds(
    Fault,
    number=st.integers(1, 9),
    kind=kinds,
    bot=st.sampled_from([None, "a", "b"]),
    request=st.sampled_from([None, SEND]),
    seconds=st.floats(0, 100),
    left=st.sampled_from([None, 1, 3]),
    until_s=st.sampled_from([None, 10.0]),
)


@given(table=st.lists(faults, max_size=4), moment=moments)
def test_a_fault_of_another_bot_changes_nothing(table: list[Fault], moment: Moment) -> None:
    mine = tuple(fault for fault in table if fault.bot == "b")
    assert decide(mine, moment, "a", SEND, 0.0) == (NOTHING, mine)


@given(table=st.lists(faults, max_size=4), moment=moments)
def test_a_fault_is_over_when_its_time_is_over(table: list[Fault], moment: Moment) -> None:
    timed = tuple(fault for fault in table if fault.until_s is not None)
    assert decide(timed, moment, "a", SEND, 10.0) == (NOTHING, ())


@given(fault=faults, moment=moments, times=st.integers(1, 6))
def test_a_counted_fault_strikes_as_often_as_counted(
    fault: Fault, moment: Moment, times: int
) -> None:
    table: tuple[Fault, ...] = (fault,)
    struck = 0
    for _ in range(times):
        verdict, table = decide(table, moment, "a", SEND, 0.0)
        struck += verdict != NOTHING
    assert struck in (0, times if fault.left is None else min(times, fault.left))


def test_a_flood_wait_hits_only_its_request() -> None:
    table = (Fault(1, FaultKind.FLOOD_WAIT, request=SEND, seconds=7),)
    assert decide(table, Moment.REQUEST, "a", SEND, 0)[0] == Verdict(error=(420, "FLOOD_WAIT_7"))
    assert decide(table, Moment.REQUEST, "a", "users.getUsers", 0)[0] is NOTHING


def test_latencies_add_up() -> None:
    table = (
        Fault(1, FaultKind.LATENCY, seconds=1),
        Fault(2, FaultKind.LATENCY, bot="a", seconds=2),
    )
    assert decide(table, Moment.REQUEST, "a", SEND, 0)[0].delay_s == 3


def test_a_deactivated_account_still_gets_the_configuration() -> None:
    table = (Fault(1, FaultKind.DEACTIVATED),)
    assert decide(table, Moment.REQUEST, "a", "help.getConfig", 0)[0] is NOTHING
    assert decide(table, Moment.REQUEST, "a", SEND, 0)[0].error == (401, "USER_DEACTIVATED")


def test_an_outage_lasts_as_long_as_its_longest_cut_of_all() -> None:
    one = Fault(1, FaultKind.CUT, until_s=5)
    two = Fault(2, FaultKind.CUT, until_s=9)
    mine = Fault(3, FaultKind.CUT, bot="a", until_s=99)
    assert outage_end((one, two, mine), 1) == 9
    assert outage_end((one, two, mine), 9) is None
    assert outage_end((Fault(4, FaultKind.CUT),), 1) == float("inf")


def test_a_request_to_the_control_api_becomes_a_fault() -> None:
    body = {"kind": "flood_wait", "bot": "a", "seconds": 5, "count": 2, "duration_s": 60}
    fault = parse(7, body, now_s=100.0)
    assert fault == Fault(7, FaultKind.FLOOD_WAIT, "a", None, 5.0, 2, 160.0)
    assert describe(fault, 130.0)["remaining_s"] == 30.0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "plague"},
        {"kind": "latency", "seconds": "long"},
        {"kind": "latency", "seconds": -1},
        {"kind": "cut", "count": 0},
        {"kind": "cut", "count": True},
        {"kind": "cut", "bot": 5},
        {"kind": "cut", "duration_s": float("nan")},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        parse(1, body, 0.0)
