"""Settings of prctl(2) that Python's standard library does not offer."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
"""All numbers from <linux/prctl.h>."""


def become_subreaper() -> None:
    """From now on every orphan below this process becomes its child. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_dumps() -> None:
    """No core dump, and no other process of the same user may read this memory. Raises OSError.

    Children made by fork inherit it; exec resets it.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def end_with_parent() -> None:
    """TERM comes when the thread that started this process is gone, however it ended.

    To be called between fork and exec. Raises OSError.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}) failed")
