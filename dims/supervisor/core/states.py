"""What a unit can be: its states, the table of transitions, its record. Pure values.

Knows every state and every permitted change of state; refuses to decide between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from dims.ipc.words.failures import FailureClass
from dims.supervisor.core.backoff import RestartPolicy
from dims.supervisor.core.facts import Incarnation, LastWill, Timer, TimerNumber, UnitId
from dims.supervisor.core.orders import Desired


class State(StrEnum):
    """Where a unit is in its life; design words."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    BACKING_OFF = "backing_off"
    WAITING = "waiting"
    FAILED = "failed"


TRANSITIONS: Mapping[State, Mapping[State, str]] = {
    State.STOPPED: {
        State.STARTING: "asked to start",
        State.WAITING: "asked to start while an announced wait lasts",
    },
    State.STARTING: {
        State.READY: "may serve",
        State.DRAINING: "asked to stop or restart, or leaving, or the deadline passed",
        State.STOPPED: "asked to stop before it was spawned",
        State.STARTING: "could not be spawned, and may try at once",
        State.BACKING_OFF: "crashed, or could not be spawned",
        State.WAITING: "Telegram announced a wait",
        State.FAILED: "could not be spawned, needs the operator",
    },
    State.READY: {
        State.DEGRADED: "serves badly",
        State.DRAINING: "asked to stop or restart, or leaving, or stuck",
        State.BACKING_OFF: "crashed",
    },
    State.DEGRADED: {
        State.READY: "serves well again",
        State.DRAINING: "asked to stop or restart, or leaving, or stuck",
        State.BACKING_OFF: "crashed",
    },
    State.DRAINING: {
        State.STOPPED: "left, as asked",
        State.STARTING: "left, to start again",
        State.BACKING_OFF: "left after a failure",
        State.WAITING: "left, because Telegram announced a wait",
        State.FAILED: "left, needs the operator",
    },
    State.BACKING_OFF: {
        State.STARTING: "the delay passed, or asked to start",
        State.WAITING: "the delay passed, but an announced wait lasts",
        State.STOPPED: "asked to stop",
    },
    State.WAITING: {
        State.STARTING: "the wait passed",
        State.WAITING: "asked to start while the wait lasts",
        State.STOPPED: "asked to stop",
    },
    State.FAILED: {
        State.STARTING: "asked to start, or its file changed",
        State.WAITING: "asked to start while an announced wait lasts",
        State.BACKING_OFF: "its file changes too often",
        State.STOPPED: "asked to stop",
    },
}
"""Every transition there is, with its cause; docs/lifecycle.md draws its figure from this table."""

SERVING = frozenset({State.READY, State.DEGRADED})
RUNNING = frozenset({State.STARTING, State.READY, State.DEGRADED, State.DRAINING})
"""States in which a process may exist."""


_BEFORE_THE_FIRST = Incarnation(0)
_FIRST = TimerNumber(1)


class Leaving(StrEnum):
    """The last thing that was done to make a process leave."""

    NO = "no"
    DUMPED = "asked for its stacks"
    TERMED = "TERM"
    KILLED = "KILL"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator configured about one unit's life; durations in seconds."""

    restart: RestartPolicy
    start_timeout_s: float
    stuck_after_s: float
    drain_timeout_s: float
    dump_before_term_s: float = 1.0
    """Time a stuck process gets to write its stacks before TERM."""


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """All that the brain knows about one unit."""

    unit: UnitId
    policy: Policy
    desired: Desired = Desired.STOPPED
    state: State = State.STOPPED
    since_s: float = 0.0
    reason: str = "never started"
    failure: FailureClass | None = None
    incarnation: Incarnation = _BEFORE_THE_FIRST
    alive: bool = False
    """Whether a process of `incarnation` exists or has been ordered."""
    pid: int | None = None
    ready_s: float | None = None
    """When this incarnation became ready."""
    spawned_s: float | None = None
    last_beat_s: float = 0.0
    restarts: int = 0
    """Starts after an end that the operator did not ask for."""
    failures: int = 0
    """Failures in a row, for the backoff; forgotten after a stable period."""
    recent: tuple[float, ...] = ()
    """When restarts were needed within the intensity window, at most one more than it allows."""
    fenced_s: float | None = None
    """When the session was last given up; None once somebody asked for a start since."""
    retry_at_s: float | None = None
    """When the next start is due, in BACKING_OFF and WAITING."""
    not_before_s: float | None = None
    """When a wait that Telegram announced ends: no start before, whoever asks, in any state."""
    file_changed: bool = False
    """A file of the unit changed after this incarnation was ordered."""
    will: LastWill | None = None
    """Why the process is leaving: its own last will, or the verdict on it."""
    leaving: Leaving = Leaving.NO
    """How far the process has been pushed out of the door."""
    again: bool = False
    """DRAINING ends with a new start."""
    timers: tuple[tuple[Timer, TimerNumber], ...] = ()
    next_number: TimerNumber = _FIRST
