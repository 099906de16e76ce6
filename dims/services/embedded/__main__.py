"""`python -m dims.services.embedded`: one embedded server as a process of the fleet."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dims.ipc.links.process import joining, run_service, service_parser
from dims.services.embedded.service import Service
from dims.storage.embedded.binaries import Source
from dims.storage.embedded.embedded_server import EmbeddedServer
from dims.storage.embedded.home import SYSTEM
from dims.storage.embedded.postgres import EmbeddedPostgres
from dims.storage.embedded.server_log import ReadLine, read_postgres, read_valkey
from dims.storage.embedded.valkey import EmbeddedValkey
from dims.system.locks import FileLock

_READERS: dict[str, ReadLine] = {"postgres": read_postgres, "valkey": read_valkey}


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM, SIGINT, "leave" or the end of the server; returns the exit code."""
    options = _parse(arguments)
    os.umask(0o077)
    return run_service(options, options.server, partial(_run, options))


async def _run(options: argparse.Namespace) -> None:
    name = options.server
    lock = FileLock(options.state_dir / f"{name}.lock")
    try:
        lock.take(name)
        await Service(name, _maker(options), _READERS[name], joining(options, name)).run()
    finally:
        lock.release()


def _maker(options: argparse.Namespace) -> Callable[[], EmbeddedServer]:
    directories = (options.state_dir.absolute(), options.runtime_dir.absolute())
    where = {"source": options.source, "directory": options.bin_dir, "system": options.system_dir}
    if options.server == "postgres":
        return partial(
            EmbeddedPostgres, *directories, max_connections=options.max_connections, **where
        )
    return partial(EmbeddedValkey, *directories, max_memory_mb=options.max_memory_mb, **where)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = service_parser("dims.services.embedded", __doc__)
    parser.add_argument("server", choices=tuple(_READERS))
    parser.add_argument("--state-dir", type=Path, required=True, help="where data are kept")
    parser.add_argument("--runtime-dir", type=Path, required=True, help="sockets lie beside it")
    parser.add_argument("--source", type=Source, choices=tuple(Source), default=Source.AUTO)
    parser.add_argument("--bin-dir", type=Path, help="take the server's programs from here")
    parser.add_argument("--system-dir", type=Path, default=SYSTEM, help="root's copies and data")
    parser.add_argument("--max-connections", type=int, default=100, help="of PostgreSQL")
    parser.add_argument("--max-memory-mb", type=int, default=0, help="of Valkey; 0: no limit")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
