"""What all embedded servers have in common: start, wait, stop, one at a time.

Knows processes and directories; refuses to know what a server needs to be told (`postgres`,
`valkey`), and what becomes of a fleet whose server is gone (`service`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from dims.errors import ServiceError
from dims.layout import PRIVATE_FILE
from dims.storage.embedded import child
from dims.storage.embedded.binaries import Binaries
from dims.storage.embedded.child import Manner
from dims.storage.embedded.home import Home
from dims.storage.embedded.probe import Health
from dims.storage.embedded.server_user import Account
from dims.system.clock import SYSTEM

FORMER_LEAVES_S = 10.0
"""How long processes of a former server may take to leave once their service was killed."""
LOOK_S = 0.02
ANSWER_WITHIN_S = 3.0
"""A question needs no disk and no lock: milliseconds, on a loaded machine a second."""
KILLED_WITHIN_S = 5.0


class EmbeddedServer(ABC):
    """A server that is our child: `prepare`, `spawn`, `wait_ready`, `stop`, in this order."""

    name: ClassVar[str]
    end: ClassVar[signal.Signals]
    """Ends it in order: nobody comes in, what is open is cut off, all is written."""
    end_at_once: ClassVar[signal.Signals]
    """Ends it when it cannot end in order; it recovers at the next start."""
    farewell: ClassVar[signal.Signals]
    """Ends it when the service was killed."""

    def __init__(self, home: Home, account: Account | None, binaries: Binaries) -> None:
        self.home = home
        self.account = account
        self.binaries = binaries
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, output: int | None = None) -> subprocess.Popen[bytes]:
        """Prepares and spawns. Raises ServiceError, and nothing else."""
        try:
            self.prepare()
            return self.spawn(output)
        except OSError as error:
            raise ServiceError(f"cannot start {self.name}: {error}") from error

    @abstractmethod
    def prepare(self) -> None:
        """Makes what is missing before the server can run. Raises ServiceError, or OSError as the
        files give it."""

    @abstractmethod
    def spawn(self, output: int | None = None) -> subprocess.Popen[bytes]:
        """Starts the server; `output` gets what it prints, by default our standard error.

        From the main thread only: the server ends with the thread that started it. Raises
        ServiceError, or OSError as the files give it.
        """

    @abstractmethod
    async def probe(self, timeout_s: float) -> Health:
        """What the server answers just now."""

    @abstractmethod
    def address(self) -> dict[str, Any]:
        """All that one needs to connect but the password, as a JSON object."""

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits until the server serves. One that says that it starts is waited for as long as it
        says so: a recovery after a crash takes its time, and one that is cut off begins again.

        Raises ServiceError when it ended, or has said nothing for `timeout_s` seconds.
        """
        if self.process is None:
            raise ServiceError(f"{self.name} was not started")
        clock = asyncio.get_running_loop().time
        until_s = clock() + timeout_s
        health = Health.SILENT
        while clock() < until_s:
            health = await self.probe(ANSWER_WITHIN_S)
            if health is Health.SERVES:
                return
            if health is Health.STARTING:
                until_s = clock() + timeout_s
            if await child.ended(self.process, LOOK_S):
                raise ServiceError(f"{self.name} ended with {self.process.returncode} at its start")
        raise ServiceError(f"{self.name} has not answered for {timeout_s:g} s")

    async def stop(self, limit_s: float) -> None:
        """Ends the server in order, and otherwise once `limit_s` is over."""
        steps = ((self.end, limit_s), (self.end_at_once, KILLED_WITHIN_S), (signal.SIGKILL, None))
        if self.process is None:
            return
        for number, within_s in steps:
            self.process.send_signal(number)
            if await child.ended(self.process, within_s):
                break
        self.home.remove_sockets()

    def manner(self, *inherited: int) -> Manner:
        """How this server's processes are started."""
        return Manner(self.account, self.home.files, self.farewell, inherited)

    @contextlib.contextmanager
    def alone(self) -> Iterator[int]:
        """A lock for children to inherit; no process of a former server lives any more.

        The children hold it, not we: after a kill of this process, the next one knows by it when
        the last of them is gone. Raises ServiceError when that takes too long.
        """
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.home.alive, flags, PRIVATE_FILE)
        try:
            self._wait_for_the_former(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _wait_for_the_former(self, descriptor: int) -> None:
        until_s = SYSTEM.monotonic() + FORMER_LEAVES_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if SYSTEM.monotonic() > until_s:
                    raise ServiceError(
                        f"a former {self.name} still runs",
                        hint=f"`fuser -v {self.home.alive}` names it; end it",
                    ) from error
                time.sleep(LOOK_S)
            else:
                return
