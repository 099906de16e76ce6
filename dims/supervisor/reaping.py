"""Children that have ended: reaped, with what they left behind. For keeper and zygote."""

from __future__ import annotations

import contextlib
import os
import signal

from dims.ipc.words.failures import Exit, ExitStatus
from dims.system.exits import start_time, stat_fields


def reap() -> list[Exit]:
    """Every child that has ended by now, reaped.

    What a child that led a process group left behind in it is killed first: a bot's own children
    must not outlive it. While the leader is a zombie its number cannot belong to anybody else.
    """
    exits: list[Exit] = []
    while True:
        try:
            # WNOWAIT leaves the zombie, whose /proc entry still tells its start time.
            seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return exits
        if seen is None:
            return exits
        started = start_time(seen.si_pid)
        _end_group(seen.si_pid)
        os.waitpid(seen.si_pid, 0)
        exits.append(Exit(seen.si_pid, started, _status(seen)))


def _status(seen: os.waitid_result) -> ExitStatus:
    if seen.si_code == os.CLD_EXITED:
        return ExitStatus(code=seen.si_status)
    return ExitStatus(signal=seen.si_status)


def _end_group(leader: int) -> None:
    fields = stat_fields(leader)
    if fields and int(fields[2]) == leader:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
