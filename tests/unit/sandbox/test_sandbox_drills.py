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


TOKEN_GONE = Verdict(error=(400, "ACCESS_TOKEN_EXPIRED"))
STRIKES = {
    (FaultKind.SILENCE, Moment.PACKET): Verdict(drop=True),
    (FaultKind.SILENCE, Moment.PUSH): Verdict(drop=True),
    (FaultKind.WITHHOLD_UPDATES, Moment.PUSH): Verdict(drop=True),
    (FaultKind.CUT, Moment.PACKET): Verdict(cut=True),
    (FaultKind.LATENCY, Moment.REQUEST): Verdict(delay_s=5.0),
    (FaultKind.FLOOD_WAIT, Moment.REQUEST): Verdict(error=(420, "FLOOD_WAIT_5")),
    (FaultKind.DEACTIVATED, Moment.REQUEST): Verdict(error=(401, "USER_DEACTIVATED")),
    (FaultKind.TOKEN_EXPIRED, Moment.REQUEST): TOKEN_GONE,
}
"""What a fault of one bot does to its login."""


@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("kind", FaultKind)
def test_each_fault_strikes_at_its_moments_only(kind: FaultKind, moment: Moment) -> None:
    table = (Fault(1, kind, bot="a", seconds=5.0),)
    found, left = decide(table, moment, "a", "auth.importBotAuthorization", 0.0)
    assert found == STRIKES.get((kind, moment), NOTHING)
    assert left == table


@pytest.mark.parametrize("moment", Moment)
def test_a_cut_of_all_refuses_connections_too(moment: Moment) -> None:
    found = decide((Fault(1, FaultKind.CUT),), moment, None, None, 0.0)[0]
    assert found.cut is (moment in {Moment.ACCEPT, Moment.PACKET})


def test_a_token_that_expired_shows_at_the_login_only() -> None:
    table = (Fault(1, FaultKind.TOKEN_EXPIRED, left=1),)
    assert decide(table, Moment.REQUEST, "a", SEND, 0.0) == (NOTHING, table)
    assert decide(table, Moment.REQUEST, "a", "auth.importBotAuthorization", 0.0) == (
        TOKEN_GONE,
        (),
    )


def test_a_request_without_a_name_is_answered_as_any() -> None:
    assert decide((Fault(1, FaultKind.DEACTIVATED),), Moment.REQUEST, "a", None, 0.0)[0].error


def test_a_fault_goes_with_its_last_strike_and_a_table_that_did_nothing_stays() -> None:
    used = Fault(1, FaultKind.LATENCY, bot="a", seconds=1.0, left=1)
    other = Fault(2, FaultKind.LATENCY, bot="b", seconds=1.0)
    table = (used, other)
    assert decide(table, Moment.REQUEST, "a", SEND, 0.0) == (Verdict(delay_s=1.0), (other,))
    assert decide(table, Moment.PUSH, "a", SEND, 0.0)[1] is table


@pytest.mark.parametrize(
    ("fault", "matches"),
    [
        (Fault(1, FaultKind.CUT), True),
        (Fault(1, FaultKind.CUT, bot="a", request=SEND), True),
        (Fault(1, FaultKind.CUT, bot="b"), False),
        (Fault(1, FaultKind.CUT, request="users.getUsers"), False),
        (Fault(1, FaultKind.CUT, left=1), True),
        (Fault(1, FaultKind.CUT, left=0), False),
        (Fault(1, FaultKind.CUT, until_s=10.1), True),
        (Fault(1, FaultKind.CUT, until_s=10.0), False),
    ],
)
def test_a_fault_concerns_its_bot_its_request_its_count_and_its_time(
    fault: Fault, matches: bool
) -> None:
    assert fault.matches("a", SEND, 10.0) is matches


def test_only_a_cut_of_all_without_a_count_is_an_outage() -> None:
    assert outage_end((), 1.0) is None
    assert outage_end((Fault(1, FaultKind.SILENCE),), 1.0) is None
    assert outage_end((Fault(1, FaultKind.CUT, bot="a"),), 1.0) is None
    assert outage_end((Fault(1, FaultKind.CUT, left=2),), 1.0) is None


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"kind": "flood_wait"}, Fault(1, FaultKind.FLOOD_WAIT, seconds=30.0)),
        ({"kind": "latency", "request": SEND}, Fault(1, FaultKind.LATENCY, None, SEND, 1.0)),
        ({"kind": "cut", "count": 1}, Fault(1, FaultKind.CUT, left=1)),
        ({"kind": "cut", "duration_s": 0}, Fault(1, FaultKind.CUT, until_s=100.0)),
        ({"kind": "latency", "seconds": 0}, Fault(1, FaultKind.LATENCY, seconds=0.0)),
        ({"kind": "latency", "seconds": 1e9}, Fault(1, FaultKind.LATENCY, seconds=1e9)),
    ],
)
def test_what_is_left_out_has_its_usual_value(body: dict[str, Any], fault: Fault) -> None:
    assert parse(1, body, 100.0) == fault


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"kind": "cut", "count": "2"}, "a whole number of 1 or more"),
        ({"kind": "cut", "count": 1.5}, "a whole number of 1 or more"),
        ({"kind": "latency", "seconds": True}, "a number of seconds"),
        ({"kind": "latency", "seconds": 2e9}, "a number of seconds"),
    ],
)
def test_a_wrong_number_is_refused_by_name(body: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse(1, body, 0.0)


def test_an_unknown_fault_is_told_which_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        parse(1, {"kind": "plague"}, 0.0)
    assert "flood_wait" in caught.value.hint
    assert "session_revoked" in caught.value.hint


def test_a_fault_without_a_time_has_none_left() -> None:
    assert describe(Fault(1, FaultKind.CUT), 0.0)["remaining_s"] is None
    assert describe(Fault(1, FaultKind.CUT, until_s=1.0), 2.0)["remaining_s"] == 0.0
