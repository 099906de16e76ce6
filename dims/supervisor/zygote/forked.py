"""A forked child's way from the zygote to its own life. Runs once per process, right after fork.

Knows how to shed what the zygote had; refuses to know what the worker then does.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from setproctitle import setproctitle

from dims.layout import PRIVATE_FILE

Entry = Callable[[Mapping[str, Any]], int]

_CODE = 70
"""Exit code when something fails before the worker speaks (EX_SOFTWARE of sysexits.h)."""
_FIRST_FD = 3


def become_worker(order: Mapping[str, Any], entry: Entry) -> NoReturn:
    """The child's life: nothing of the zygote stays but its memory. Never returns."""
    code = _CODE
    try:
        _shed_the_zygote()
        os.closerange(_FIRST_FD, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        code = _live(order, entry)
    except BaseException as error:
        log(f"the worker of {order.get('unit')} ended: {type(error).__name__}: {error}")
    finally:
        _end(code)


def become_spare(orders: socket.socket, entry: Entry) -> NoReturn:
    """A child forked ahead of need: it waits for one order on `orders`, then lives it.

    End of file without an order means that the zygote has left. Never returns.
    """
    code = _CODE
    try:
        _shed_the_zygote()
        os.dup2(orders.detach(), _FIRST_FD)
        os.closerange(_FIRST_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        setproctitle("dims: spare worker")
        # The first loop of a process copies 300 pages: here nobody waits for it.
        asyncio.run(asyncio.sleep(0))
        with os.fdopen(_FIRST_FD, "rb") as pipe:
            written = pipe.read()
        code = _live(json.loads(written), entry) if written else 0
    except BaseException as error:
        log(f"a spare worker ended: {type(error).__name__}: {error}")
    finally:
        _end(code)


def _shed_the_zygote() -> None:
    """Own session and signals; close-on-exec does nothing on a fork, so callers close the rest."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    os.umask(0o077)


def _live(order: Mapping[str, Any], entry: Entry) -> int:
    """Own log, directory and title, then the worker itself; returns its exit code."""
    output = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(str(order["directory"]))
    setproctitle(f"dims: worker {order['unit']}")
    return entry(order)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the zygote's stack and its atexit handlers are not the worker's.
    os._exit(code)


def log(text: str) -> None:
    """Writes one line to the log of the zygote, or of the worker once it has its own."""
    sys.stderr.write(
        json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "zygote": text})
        + "\n"
    )
    sys.stderr.flush()
