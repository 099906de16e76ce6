"""`python -m dims.sandbox`: the sandbox as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path

from dims.ipc.links.process import joining, run_service, service_parser
from dims.ipc.wire.sentences import Vocabulary
from dims.ipc.words.fleet import Leave
from dims.sandbox.server import Sandbox


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM, SIGINT or a "shutdown" request; returns the exit code."""
    options = _parse(arguments)
    _raise_descriptor_limit()
    return run_service(options, "sandbox", partial(_run, options))


async def _run(options: argparse.Namespace) -> None:
    logging.getLogger().setLevel(options.log_level)
    sandbox = Sandbox(options.dir.resolve(), port=options.port, control=options.control)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sandbox.stopped.set)
    await sandbox.start()
    # What was imported lives until the end; scanning it again and again costs milliseconds each.
    gc.freeze()
    if options.ready_fd is not None:
        with os.fdopen(options.ready_fd, "w", encoding="utf-8") as ready:
            ready.write(json.dumps(sandbox.address.to_json()) + "\n")
    bond = _join_fleet(options, sandbox)
    await sandbox.stopped.wait()
    await sandbox.close()
    if bond is not None:
        bond.cancel()


def _join_fleet(options: argparse.Namespace, sandbox: Sandbox) -> asyncio.Task[None] | None:
    """Tells a supervisor where to find this Telegram, and every later one too."""
    fleet = joining(options, "sandbox")
    if fleet is None:
        return None

    def heed(_leave: Leave) -> None:
        sandbox.stopped.set()

    bond = fleet.bond(heed, Vocabulary(Leave))

    async def join() -> None:
        await bond.join()
        bond.ready(sandbox.address)

    return asyncio.create_task(join(), name="join the fleet")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = service_parser("dims.sandbox", __doc__)
    parser.add_argument("--dir", type=Path, required=True, help="where keys and state are kept")
    parser.add_argument("--port", type=_port, default=0, help="default: the last one, or any")
    parser.add_argument("--control", type=Path, help="path of the control socket")
    parser.add_argument("--ready-fd", type=int, help="gets the address as JSON when listening")
    parser.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65_536:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
