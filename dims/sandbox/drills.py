"""What goes wrong on purpose. Pure: which fault applies where and what it does is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from dims.errors import UsageError


class FaultKind(StrEnum):
    """Faults that last until their count, their time or `fault.clear` ends them."""

    FLOOD_WAIT = "flood_wait"
    SILENCE = "silence"
    CUT = "cut"
    LATENCY = "latency"
    WITHHOLD_UPDATES = "withhold_updates"
    DEACTIVATED = "deactivated"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105


class Blow(StrEnum):
    """Faults that happen once and are not undone: the bot must log in anew."""

    SESSION_REVOKED = "session_revoked"
    KEY_DESTROYED = "key_destroyed"


class Moment(StrEnum):
    """Where the server asks whether something is to go wrong."""

    ACCEPT = "accept"
    PACKET = "packet"
    REQUEST = "request"
    PUSH = "push"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; None for `bot` means all bots, for `request` all requests, else no limit."""

    number: int
    kind: FaultKind
    bot: str | None = None
    request: str | None = None
    seconds: float = 0
    left: int | None = None
    until_s: float | None = None

    def matches(self, bot: str | None, request: str | None, now_s: float) -> bool:
        """Whether it concerns this bot and request at this time of the loop's clock."""
        return (
            (self.bot is None or self.bot == bot)
            and (self.request is None or self.request == request)
            and (self.left is None or self.left > 0)
            and (self.until_s is None or now_s < self.until_s)
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do instead of the ordinary."""

    drop: bool = False
    cut: bool = False
    delay_s: float = 0
    error: tuple[int, str] | None = None


NOTHING = Verdict()
FaultTable = tuple[Fault, ...]

_MOMENTS = {
    FaultKind.FLOOD_WAIT: Moment.REQUEST,
    FaultKind.LATENCY: Moment.REQUEST,
    FaultKind.DEACTIVATED: Moment.REQUEST,
    FaultKind.TOKEN_EXPIRED: Moment.REQUEST,
    FaultKind.WITHHOLD_UPDATES: Moment.PUSH,
}
_LOGIN = "auth.importBotAuthorization"
_DEFAULT_SECONDS = {FaultKind.FLOOD_WAIT: 30.0, FaultKind.LATENCY: 1.0}


def decide(
    table: FaultTable, moment: Moment, bot: str | None, request: str | None, now_s: float
) -> tuple[Verdict, FaultTable]:
    """What happens at this moment, and the table after it: counts are used up, ended faults gone.

    Faults that close or silence win over those that answer; latencies add up.
    """
    verdict = NOTHING
    kept: list[Fault] = []
    for fault in table:
        if _applies(fault, moment) and fault.matches(bot, request, now_s):
            changed = _strike(verdict, fault, request)
            if changed is not verdict and fault.left is not None:
                fault = replace(fault, left=fault.left - 1)  # noqa: PLW2901
            verdict = changed
        if fault.left != 0 and (fault.until_s is None or now_s < fault.until_s):
            kept.append(fault)
    return verdict, table if len(kept) == len(table) and verdict is NOTHING else tuple(kept)


def outage_end(table: FaultTable, now_s: float) -> float | None:
    """When clients may connect again: None means now, infinity means when the fault is cleared.

    A cut of all bots without a count is an outage: connections are refused. Accepting them to cut
    them would be another thing: Telethon takes each for a success and tries again without a pause.
    """
    ends = [
        float("inf") if fault.until_s is None else fault.until_s
        for fault in table
        if fault.kind is FaultKind.CUT and fault.bot is None and fault.left is None
    ]
    end_s = max(ends, default=now_s)
    return end_s if end_s > now_s else None


def parse(number: int, body: Mapping[str, Any], now_s: float) -> Fault:
    """The fault that a control request describes; raises UsageError."""
    try:
        kind = FaultKind(str(body.get("kind")))
    except ValueError:
        known = ", ".join([*FaultKind, *Blow])
        raise UsageError(f"unknown fault {body.get('kind')!r}", hint=f"one of: {known}") from None
    seconds = _number(body, "seconds", _DEFAULT_SECONDS.get(kind, 0.0))
    duration_s = body.get("duration_s")
    count = body.get("count")
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise UsageError("'count' must be a whole number of 1 or more")
    return Fault(
        number=number,
        kind=kind,
        bot=_text(body, "bot"),
        request=_text(body, "request"),
        seconds=seconds,
        left=count,
        until_s=None if duration_s is None else now_s + _number(body, "duration_s", 0.0),
    )


def describe(fault: Fault, now_s: float) -> dict[str, Any]:
    """The fault as `fault.list` shows it."""
    return {
        "id": fault.number,
        "kind": str(fault.kind),
        "bot": fault.bot,
        "request": fault.request,
        "seconds": fault.seconds,
        "count_left": fault.left,
        "remaining_s": None if fault.until_s is None else round(max(0.0, fault.until_s - now_s), 3),
    }


def _applies(fault: Fault, moment: Moment) -> bool:
    if fault.kind is FaultKind.SILENCE:
        # A bot is known only from its first packet on; silence for all starts at once.
        return moment is Moment.PUSH or moment is Moment.PACKET
    if fault.kind is FaultKind.CUT:
        return moment is Moment.PACKET or (moment is Moment.ACCEPT and fault.bot is None)
    return moment is _MOMENTS[fault.kind]


def _strike(verdict: Verdict, fault: Fault, request: str | None) -> Verdict:
    match fault.kind:
        case FaultKind.SILENCE | FaultKind.WITHHOLD_UPDATES:
            return replace(verdict, drop=True)
        case FaultKind.CUT:
            return replace(verdict, cut=True)
        case FaultKind.LATENCY:
            return replace(verdict, delay_s=verdict.delay_s + fault.seconds)
        case FaultKind.FLOOD_WAIT | FaultKind.DEACTIVATED | FaultKind.TOKEN_EXPIRED:
            error = _error(fault, request or "")
            return verdict if error is None else replace(verdict, error=error)


def _error(fault: Fault, request: str) -> tuple[int, str] | None:
    if fault.kind is FaultKind.FLOOD_WAIT:
        return 420, f"FLOOD_WAIT_{round(fault.seconds)}"
    if fault.kind is FaultKind.TOKEN_EXPIRED:
        return (400, "ACCESS_TOKEN_EXPIRED") if request == _LOGIN else None
    # help.* is answered before Telegram looks at the account.
    return None if request.startswith("help.") else (401, "USER_DEACTIVATED")


def _text(body: Mapping[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{key!r} must be a text")
    return value


def _number(body: Mapping[str, Any], key: str, default: float) -> float:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise UsageError(f"{key!r} must be a number of seconds, 0 or more")
    return float(value)
