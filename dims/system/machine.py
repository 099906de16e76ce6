"""What the machine says of itself and of its processes, by way of psutil, and of psutil alone.

Knows no bots. For the brain only: keeper, zygote and workers load none of this. psutil itself is
loaded at the first look, for a start has no time for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dims.system.cpu_times import ProcessTimes


@dataclass(frozen=True, slots=True)
class MachineReadings:
    """The whole machine, not only this container; memory in bytes."""

    busy_s: float
    """CPU time of all cores since boot that was used, by whomever."""
    cores: int
    load: float
    """Processes that run or wait for a core or a disk, on average over the last minute."""
    memory_bytes: int
    memory_available_bytes: int
    """What can be had without swapping."""


def read_processes() -> Iterator[ProcessTimes]:
    """All processes, read one by one as the caller goes on; 50 to 75 µs of CPU time each.

    Those that end meanwhile, and those that the kernel hides from this user (`hidepid`), are left
    out. That a process forbids dumps hides no times.
    """
    import psutil  # noqa: PLC0415 (see above)

    for pid in psutil.pids():
        try:
            # Never a `Process` of an earlier look: it would not notice that its pid is used again.
            process = psutil.Process(pid)
            with process.oneshot():
                spent, parent = process.cpu_times(), process.ppid()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        reaped_s = spent.children_user + spent.children_system
        yield ProcessTimes(pid, parent, spent.user + spent.system, reaped_s)


def read_machine() -> MachineReadings:
    """The machine right now."""
    import psutil  # noqa: PLC0415 (see above)

    cpu, memory = psutil.cpu_times(), psutil.virtual_memory()
    # Of proc_stat(5): `user` and `nice` have the guests' time in them; `steal` is another's.
    busy_s = cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq
    load = round(psutil.getloadavg()[0], 2)
    return MachineReadings(busy_s, psutil.cpu_count() or 1, load, memory.total, memory.available)
