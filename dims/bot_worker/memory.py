"""How much memory is this process's own. Reads /proc/self/smaps_rollup (proc(5), Linux 4.14)."""

from __future__ import annotations


def unshared_bytes() -> int | None:
    """Private clean and dirty pages in bytes: what would be free if this process ended.

    None where the kernel does not say.
    """
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:  # noqa: PTH123 (one read, no object)
            lines = file.read().splitlines()
    except OSError:
        return None
    wanted = (b"Private_Clean:", b"Private_Dirty:")
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted))
