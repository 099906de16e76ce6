"""A process that leaves with its parent, as another user if need be. Knows no server.

To be started from the main thread only: the kernel's "parent" is the thread (prctl(2)).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dims.errors import ServiceError
from dims.storage.embedded.server_user import Account

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}
"""All that a server sees of ours; messages in English, for we read them."""
_ORPHAN = 70

# Loaded before any fork: a child of a process with threads must not load anything.
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a child is started."""

    account: Account | None
    """Whom it becomes; None: nobody else."""
    directory: Path
    farewell: signal.Signals
    """What it gets when its parent is gone, however that ended."""
    inherited: tuple[int, ...] = ()
    """Descriptors it keeps."""


def start(
    argv: Sequence[str | Path],
    manner: Manner,
    *,
    stdin: int = subprocess.DEVNULL,
    output: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, without core dumps and with a bare environment.

    `output` gets what it prints (default: our standard error). Raises ServiceError.
    """
    account = manner.account
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=2 if output is None else output,
            stderr=subprocess.STDOUT,
            cwd=manner.directory,
            env=ENVIRONMENT,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else account.groups,
            umask=0o077,
            start_new_session=True,
            pass_fds=manner.inherited,
            # Runs after the change of user, which would undo it. No thread of ours runs by then
            # that could hold a lock which the child needs.
            preexec_fn=_leave_with(os.getpid(), manner.farewell),  # noqa: PLW1509
        )
    except (OSError, subprocess.SubprocessError) as error:
        who = "" if account is None else f" as {account.name}"
        raise ServiceError(f"cannot start {argv[0]}{who}: {error}") from error


async def ended(process: subprocess.Popen[bytes], limit_s: float | None) -> bool:
    """Waits until the process has ended; False when it has not within the limit."""
    if process.poll() is not None:
        return True
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    pidfd = os.pidfd_open(process.pid)
    loop.add_reader(pidfd, gone.set)
    try:
        async with asyncio.timeout(limit_s):
            await gone.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    process.wait()
    return True


def _leave_with(parent: int, farewell: signal.Signals) -> Callable[[], None]:
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if _libc.prctl(PR_SET_PDEATHSIG, int(farewell), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl failed")
        if os.getppid() != parent:
            # It was gone before we could ask to be told.
            os._exit(_ORPHAN)

    return prepare
