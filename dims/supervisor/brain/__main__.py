"""The brain's process: reads the configuration, opens everything, runs until all is stopped.

Adapters are chosen here and nowhere else. Started by the keeper with three descriptors.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from setproctitle import setproctitle

from dims.config import load_config
from dims.errors import AlreadyRunningError, DimsError, with_hint
from dims.ipc.links.request_server import RequestServer
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.sentences import read
from dims.ipc.words.asked import StartBots
from dims.ipc.words.keeping import KeeperWelcome
from dims.layout import Layout
from dims.logs import log_service
from dims.supervisor.brain.bonds.keeper_link import receive_welcome
from dims.supervisor.brain.requests.operators import Operators
from dims.supervisor.brain.requests.telling import Teller
from dims.supervisor.brain.store import Store
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.keeper.__main__ import BOT_FD, CONTROL_FD, LINK_FD
from dims.system.clock import SYSTEM
from dims.system.locks import FileLock
from dims.system.prctl import forbid_dumps

_log = logging.getLogger(__name__)


async def _serve(
    supervisor: ProcessSupervisor,
    link: socket.socket,
    welcome: KeeperWelcome,
    early: list[Envelope],
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.shut_down)
    operators = Operators(supervisor, Teller(supervisor, welcome.environment))
    control = RequestServer(
        socket.socket(fileno=CONTROL_FD), operators.handle, name=Address("brain")
    )
    supervisor.hearing.on_control = operators.of_bot
    await supervisor.meet_keeper(link)
    wish = welcome.wish or {}
    supervisor.begin(only_to_stop=bool(wish.get("stop")))
    if wish and not supervisor.is_stopping:
        try:
            operators.ask(read(StartBots, wish), "dims start")
        except DimsError as error:
            # What is wanted was checked before anything started; the fleet goes on without.
            _log.error("not started: %s", error)
    await supervisor.meet_processes(socket.socket(fileno=BOT_FD), welcome, early)
    await control.start()
    supervisor.keeper.up()
    try:
        await supervisor.stopped.wait()
        for lease in supervisor.roster.layout.leases.glob("*"):
            _remove_stale(lease)
        supervisor.roster.layout.remove_worker_sockets()
        if not supervisor.keeper.finished():
            _clean_up_for_keeper(supervisor.roster.layout)
    finally:
        supervisor.close()
        await control.close()


def _clean_up_for_keeper(layout: Layout) -> None:
    """Removes what a keeper that was killed could not: its sockets and its lock."""
    for path in (layout.control_socket, layout.bot_socket, layout.sandbox_socket):
        path.unlink(missing_ok=True)
    layout.remove_worker_sockets()
    with contextlib.suppress(OSError):
        layout.remove_server_sockets()
    with contextlib.suppress(OSError):
        layout.runtime.rmdir()
    _remove_stale(layout.lock)


def _remove_stale(path: Path) -> None:
    """Removes the lock file of a process that was killed; one that is held stays."""
    lock = FileLock(path)
    with contextlib.suppress(AlreadyRunningError):
        lock.take("its holder")
    lock.release()


async def _run(layout: Layout, config_path: Path) -> None:
    link = socket.socket(fileno=LINK_FD)
    welcome, early = receive_welcome(link)
    config = load_config(config_path, welcome.environment)
    store = Store(layout.database)
    try:
        await _serve(ProcessSupervisor(config, layout, store, SYSTEM), link, welcome, early)
    finally:
        store.close()


def main() -> int:
    """Entry of `python -m dims.supervisor.brain`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dims-brain")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--foreground", action="store_true", help="log where the keeper does")
    arguments = parser.parse_args()
    setproctitle("dims: brain")
    forbid_dumps()
    for descriptor in (CONTROL_FD, BOT_FD, LINK_FD):
        os.set_inheritable(descriptor, False)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    layout = Layout(Path(arguments.state_dir))
    log_service("brain", None if arguments.foreground else layout.log("brain"))
    lock = FileLock(layout.brain_lock)
    try:
        lock.take("a brain")
        asyncio.run(_run(layout, Path(arguments.config)))
    except DimsError as error:
        _log.error("%s", with_hint(error))
        return error.exit_code
    finally:
        lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
