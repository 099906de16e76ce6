"""What operators are told of units: status, health and explanation. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.operator import Explanation, FleetHealth, Readings, UnitEvent, UnitStatus
from dims.ipc.words.states import Desired, FleetLevel, Manner, State
from dims.supervisor.core.states import RUNNING, SERVING, UnitRecord

NEXT_STEPS: Mapping[FailureClass, str] = {
    FailureClass.NETWORK: "it starts again by itself when the network answers",
    FailureClass.WAIT: "Telegram asked for this wait; starting earlier makes it longer",
    FailureClass.FENCED: "find who else runs this bot, end that, then `dims bot start {unit}`",
    FailureClass.NEEDS_OPERATOR: (
        "mend it: a changed handlers file starts it, a changed bots.yaml takes `dims stop` and"
        " `dims start`, anything else `dims bot start {unit}`"
    ),
    FailureClass.RECYCLE: "it starts again by itself",
    FailureClass.STUCK: "see the stacks in `dims logs {unit}`",
    FailureClass.DEAF: "it starts again by itself and catches up",
    FailureClass.CRASH: "see `dims logs {unit}`",
}


def unit_status(
    record: UnitRecord, readings: Readings, now_s: float, cpu_percent: float | None = None
) -> UnitStatus:
    """One line of `dims status`; `cpu_percent` is None where unknown."""
    took_s = None
    if record.ready_s is not None and record.spawned_s is not None:
        took_s = round(record.ready_s - record.spawned_s, 4)
    uptime_s = None
    if record.alive and record.spawned_s is not None:
        uptime_s = round(now_s - record.spawned_s, 3)
    return UnitStatus(
        id=record.unit,
        state=record.state,
        desired=record.desired,
        pid=record.pid,
        incarnation=record.incarnation,
        restarts=record.restarts,
        uptime_s=uptime_s,
        ready_s=took_s,
        unshared_bytes=readings.unshared_bytes if record.alive else None,
        cpu_percent=cpu_percent if record.alive else None,
        loop_lag_s=readings.loop_lag_s if record.alive else None,
        updates=readings.updates if record.alive else None,
        failures=record.failures,
        failure=record.failure,
        retry_in_s=_remaining(record, now_s),
        reason=record.reason,
    )


def health(
    bots: list[UnitRecord],
    services: list[UnitRecord],
    *,
    keeper_lost: bool,
    store_trouble: str = "",
) -> FleetHealth:
    """Down when something is wanted and nothing serves, degraded for any other problem."""
    wanted = [bot for bot in bots if bot.desired is Desired.RUNNING]
    problems = ["the keeper is gone: nothing restarts the brain; `dims stop`, then `dims start`"]
    problems = problems if keeper_lost else []
    if store_trouble:
        problems.append(f"state.db cannot be written, so nothing is remembered: {store_trouble}")
    for record in (*services, *wanted):
        if record.state is not State.READY:
            problems.append(f"{record.unit} is {record.state.value}: {record.reason}")
    serving = sum(bot.state in SERVING for bot in wanted)
    level = FleetLevel.WELL if not problems else FleetLevel.DEGRADED
    if wanted and not serving:
        level = FleetLevel.DOWN
    return FleetHealth(level, tuple(problems), len(wanted), serving)


def explain(
    record: UnitRecord,
    readings: Readings,
    events: Sequence[UnitEvent],
    now_s: float,
    *,
    missing: Sequence[UnitRecord] = (),
    shares: tuple[Manner | None, str | None] = (None, None),
    cpu_percent: float | None = None,
) -> Explanation:
    """Why a unit is as it is: its status, the evidence, what happens next and when. `missing` are
    services that it waits for, `shares` is how the zygote of now shares its memory, and why."""
    status = asdict(unit_status(record, readings, now_s, cpu_percent))
    return Explanation(
        **status,
        next=_next(record, now_s, missing),
        events=tuple(events),
        sharing=shares[0],
        sharing_reason=shares[1],
    )


def _next(record: UnitRecord, now_s: float, missing: Sequence[UnitRecord]) -> str:
    step = ""
    if record.failure is not None:
        step = NEXT_STEPS[record.failure].format(unit=record.unit)
    match record.state:
        case State.BACKING_OFF | State.WAITING:
            remaining_s = _remaining(record, now_s) or 0.0
            return f"starts again in {remaining_s:.0f} s; {step}"
        case State.FAILED:
            return f"nothing, until somebody acts: {step}"
        case State.STOPPED:
            return f"nothing: it was stopped; `dims bot start {record.unit}` starts it"
        case State.STARTING if missing and not record.alive:
            waits = (f"{one.unit}, which is {one.state.value}: {one.reason}" for one in missing)
            return f"waits for {'; '.join(waits)}"
        case State.STARTING:
            return "waits for its turn to start" if not record.alive else "becomes ready"
        case State.DRAINING:
            return "ends what is in hand, then leaves; KILL at its deadline"
        case State.READY | State.DEGRADED:
            return "serves"


def _remaining(record: UnitRecord, now_s: float) -> float | None:
    if record.retry_at_s is None or record.state in RUNNING:
        return None
    return round(max(0.0, record.retry_at_s - now_s), 3)
