"""What the kernel says of a process: its start time, and whether it lives. Reads /proc."""

from __future__ import annotations


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (field 22 of proc_pid_stat(5)).

    0 when there is no such process. With the pid it names a process for good.
    """
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def is_alive(pid: int, started: int) -> bool:
    """Whether the very process runs. A zombie (state Z or X) is dead, its pid notwithstanding."""
    fields = stat_fields(pid)
    return bool(fields) and int(fields[19]) == started and fields[0] not in (b"Z", b"X")


def stat_fields(pid: int) -> list[bytes]:
    """Fields 3 and on of proc_pid_stat(5), or none when there is no such process."""
    # The name in field 2 may hold spaces and brackets, so split after it.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (the keeper spares pathlib)
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
