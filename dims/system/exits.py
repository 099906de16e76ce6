"""What the kernel says of a process: its start time and how it ended. Reads /proc and waitid."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exit:
    """An ended process; `code` or `signal` is set. `started` tells it from a later same pid."""

    pid: int
    started: int
    code: int | None
    signal: int | None

    def to_wire(self) -> dict[str, int | None]:
        """As a JSON object."""
        return {
            "pid": self.pid,
            "started": self.started,
            "code": self.code,
            "signal": self.signal,
        }


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of proc_pid_stat(5)).

    0 when there is no such process. With the pid it names a process for good.
    """
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else 0


def is_alive(pid: int, started: int) -> bool:
    """Whether the very process runs. A zombie (state Z or X) is dead, its pid notwithstanding."""
    fields = _stat_fields(pid)
    return bool(fields) and int(fields[19]) == started and fields[0] not in (b"Z", b"X")


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
        exited = seen.si_code == os.CLD_EXITED
        exits.append(
            Exit(
                seen.si_pid,
                started,
                seen.si_status if exited else None,
                None if exited else seen.si_status,
            )
        )


def _end_group(leader: int) -> None:
    fields = _stat_fields(leader)
    if fields and int(fields[2]) == leader:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


def _stat_fields(pid: int) -> list[bytes]:
    """Fields 3 and on; the name in field 2 may hold spaces and brackets, so split after it."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (the keeper spares pathlib)
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
