"""One embedded server as a member of the fleet: started, watched, stopped with its process.

Decides nothing about restarts: when the server is gone or does not answer, the process says why
and leaves, and whoever supervises it starts both again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
from collections.abc import Callable

from dims.errors import ServiceError, with_hint
from dims.ipc.links.membership import Membership
from dims.ipc.links.process import Joining
from dims.ipc.wire.sentences import Vocabulary
from dims.ipc.words.failures import FailureClass
from dims.ipc.words.fleet import Leave, Will
from dims.storage.embedded import child
from dims.storage.embedded.embedded_server import ANSWER_WITHIN_S, EmbeddedServer
from dims.storage.embedded.probe import Health
from dims.storage.embedded.server_log import ReadLine, ServerLog

READY_WITHIN_S = 50.0
"""Less than a service's start_timeout_s, so that the reason is ours and not just a late start."""
ASK_EVERY_S = 2.0
SILENT_LIMIT = 3
"""So many questions in a row without an answer, of ANSWER_WITHIN_S each: it hangs."""
STOP_WITHIN_S = 7.0
"""Less than a service's drain_timeout_s: what is not written by then is recovered at the start."""
LAST_WORDS_S = 2.0
ORDERS = Vocabulary(Leave)

_log = logging.getLogger(__name__)

Made = Callable[[], EmbeddedServer]


class Service:
    """Runs one server until it is told to leave, or the server is gone."""

    def __init__(self, name: str, make: Made, read_line: ReadLine, fleet: Joining | None) -> None:
        self._name = name
        self._make = make
        self._fleet = fleet
        self._bond: Membership | None = None
        self._joining: asyncio.Task[object] | None = None
        self._leave = asyncio.Event()
        self._output = ServerLog(logging.getLogger(f"{__package__}.{name}"), read_line)

    async def run(self) -> None:
        """Returns when told to leave. Raises ServiceError, after the brain was told why."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        self._join()
        try:
            await self._serve()
        finally:
            await self._part()

    def _join(self) -> None:
        if self._fleet is None:
            return
        self._bond = self._fleet.bond(self._heed, ORDERS)
        self._joining = asyncio.create_task(self._bond.join(), name="join the fleet")

    def _heed(self, _leave: Leave) -> None:
        self._leave.set()

    async def _part(self) -> None:
        if self._bond is None or self._joining is None:
            return
        self._joining.cancel()
        await self._bond.leave()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            server = self._make()
            process = server.start(subprocess.PIPE)
        except ServiceError as error:
            await self._tell(FailureClass.CRASH, error)
            raise
        pipe, _ = await loop.connect_read_pipe(lambda: self._output, process.stdout)
        try:
            await self._watch(server, process)
        except ServiceError as error:
            await self._tell(
                FailureClass.STUCK if process.poll() is None else FailureClass.CRASH, error
            )
            raise
        finally:
            await server.stop(STOP_WITHIN_S)
            pipe.close()

    async def _watch(self, server: EmbeddedServer, process: subprocess.Popen[bytes]) -> None:
        ends = asyncio.create_task(child.ended(process, None), name="the end of the server")
        leaves = asyncio.create_task(self._leave.wait(), name="the order to leave")
        serves = asyncio.create_task(self._keep_asking(server), name="questions to the server")
        tasks = (ends, leaves, serves)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leaves.done():
                _log.info("%s is to leave", self._name)
            elif process.poll() is not None:
                await self._say_why(process)
            else:
                await serves
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say_why(self, process: subprocess.Popen[bytes]) -> None:
        # Its last words may still be in the pipe.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._output.closed.wait()
        last = f": {self._output.last}" if self._output.last else ""
        raise ServiceError(f"{self._name} ended with {process.returncode}{last}")

    async def _keep_asking(self, server: EmbeddedServer) -> None:
        await server.wait_ready(READY_WITHIN_S)
        _log.info("%s %s serves", self._name, server.binaries.version)
        if self._bond is not None:
            self._bond.ready(server.address())
        silent = 0
        while silent < SILENT_LIMIT:
            await asyncio.sleep(ASK_EVERY_S)
            health = await server.probe(ANSWER_WITHIN_S)
            silent = silent + 1 if health is Health.SILENT else 0
            if silent:
                _log.warning("%s does not answer", self._name)
        raise ServiceError(f"{self._name} did not answer {silent} times in a row")

    async def _tell(self, failure: FailureClass, error: ServiceError) -> None:
        """The last will; a brain that is not there learns it from the log."""
        if self._bond is None or self._joining is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await asyncio.shield(self._joining)
                self._bond.last_will(Will(failure, with_hint(error)))
