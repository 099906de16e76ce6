"""How services come back: a database must not be away because it was killed too often."""

from __future__ import annotations

from dims.ipc.words.failures import ExitStatus
from dims.ipc.words.states import Desired, State
from dims.supervisor.core.facts import Exited, Found, Granted, Incarnation, Rang, Ready, Spawned
from dims.supervisor.core.lifecycle import decide
from dims.supervisor.core.states import UnitRecord
from dims.supervisor.units.units import POSTGRES, SERVER_POLICY

KILLS = 40
BETWEEN_S = 3.0
LONGEST_S = 10.0


def test_a_database_that_is_killed_every_few_seconds_is_never_away_for_long() -> None:
    now_s = 0.0
    found = Found(Desired.RUNNING, Incarnation(0))
    record, _ = decide(UnitRecord(POSTGRES, SERVER_POLICY), found, now_s, 0.0)
    for number in range(1, KILLS + 1):
        incarnation = Incarnation(number)
        for fact in (Granted(), Spawned(incarnation, 1000 + number), Ready(incarnation)):
            record, _ = decide(record, fact, now_s, draw=0.99)
        assert record.state is State.READY
        now_s += BETWEEN_S
        killed = Exited(incarnation, ExitStatus(signal=9))
        record, _ = decide(record, killed, now_s, draw=0.99)
        assert record.state is State.BACKING_OFF
        assert record.retry_at_s is not None
        assert record.retry_at_s - now_s <= LONGEST_S
        now_s = record.retry_at_s
        timer = next(timer for timer in record.timers if timer[0].value == "retry")
        record, _ = decide(record, Rang(*timer), now_s, draw=0.99)
