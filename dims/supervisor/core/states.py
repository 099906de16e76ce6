"""What a unit can be: its states, the table of transitions, its record. Pure values.

Knows every state, and which follows from which cause; refuses to know when a cause is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dims.ipc.words.failures import FailureClass
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.backoff import RestartPolicy
from dims.supervisor.core.facts import Incarnation, LastWill, Timer, TimerNumber, UnitId


class Cause(StrEnum):
    """Why a state changes: what happened, seen from the unit's life."""

    ASKED_TO_START = "asked to start"
    WAIT_LASTS = "a start is wanted, but an announced wait lasts"
    DELAY_PASSED = "the delay passed"
    STARTS_AGAIN = "starts again at once"
    GOES_ON = "a former brain's process goes on"
    MUST_LEAVE = "a former brain's process must leave"
    MAY_SERVE = "may serve"
    SERVES_BADLY = "serves badly"
    SERVES_WELL = "serves well again"
    LEAVES = "asked to leave, leaving by itself, too late, or stuck"
    ASKED_TO_STOP = "asked to stop"
    LEFT = "left, as asked"
    FAILED_FOR_NOW = "crashed, or could not be spawned"
    TOO_OFTEN = "starts too often"
    TOLD_TO_WAIT = "Telegram announced a wait"
    GIVEN_UP = "needs the operator"


TRANSITIONS: Mapping[State, Mapping[Cause, State]] = {
    State.STOPPED: {
        Cause.ASKED_TO_START: State.STARTING,
        Cause.WAIT_LASTS: State.WAITING,
        Cause.GOES_ON: State.STARTING,
        Cause.MUST_LEAVE: State.DRAINING,
    },
    State.STARTING: {
        Cause.MAY_SERVE: State.READY,
        Cause.LEAVES: State.DRAINING,
        Cause.ASKED_TO_STOP: State.STOPPED,
        Cause.STARTS_AGAIN: State.STARTING,
        Cause.FAILED_FOR_NOW: State.BACKING_OFF,
        Cause.TOO_OFTEN: State.BACKING_OFF,
        Cause.TOLD_TO_WAIT: State.WAITING,
        Cause.WAIT_LASTS: State.WAITING,
        Cause.GIVEN_UP: State.FAILED,
    },
    State.READY: {
        Cause.SERVES_BADLY: State.DEGRADED,
        Cause.LEAVES: State.DRAINING,
        Cause.FAILED_FOR_NOW: State.BACKING_OFF,
    },
    State.DEGRADED: {
        Cause.SERVES_WELL: State.READY,
        Cause.LEAVES: State.DRAINING,
        Cause.FAILED_FOR_NOW: State.BACKING_OFF,
    },
    State.DRAINING: {
        Cause.LEFT: State.STOPPED,
        Cause.STARTS_AGAIN: State.STARTING,
        Cause.WAIT_LASTS: State.WAITING,
        Cause.FAILED_FOR_NOW: State.BACKING_OFF,
        Cause.TOO_OFTEN: State.BACKING_OFF,
        Cause.TOLD_TO_WAIT: State.WAITING,
        Cause.GIVEN_UP: State.FAILED,
    },
    State.BACKING_OFF: {
        Cause.DELAY_PASSED: State.STARTING,
        Cause.ASKED_TO_START: State.STARTING,
        Cause.WAIT_LASTS: State.WAITING,
        Cause.ASKED_TO_STOP: State.STOPPED,
    },
    State.WAITING: {
        Cause.DELAY_PASSED: State.STARTING,
        Cause.ASKED_TO_START: State.STARTING,
        Cause.WAIT_LASTS: State.WAITING,
        Cause.ASKED_TO_STOP: State.STOPPED,
    },
    State.FAILED: {
        Cause.ASKED_TO_START: State.STARTING,
        Cause.STARTS_AGAIN: State.STARTING,
        Cause.WAIT_LASTS: State.WAITING,
        Cause.TOO_OFTEN: State.BACKING_OFF,
        Cause.ASKED_TO_STOP: State.STOPPED,
    },
}
"""Every change of state there is. `Step.enter` takes the next state from here and nowhere else;
docs/lifecycle.md draws its figure from it."""


def transitions() -> Iterator[tuple[State, State, str]]:
    """From which state to which, and all the causes of that in words, in the table's order."""
    for state, row in TRANSITIONS.items():
        for follower in dict.fromkeys(row.values()):
            causes = (cause.value for cause, new in row.items() if new is follower)
            yield state, follower, "; or ".join(causes)


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
