"""`python -m dims.services.embedded`: one embedded server as a process of the fleet."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import setproctitle

from dims.errors import DimsError, with_hint
from dims.logs import log_service
from dims.services.embedded.service import Fleet, Service
from dims.storage.embedded.binaries import Source
from dims.storage.embedded.embedded_server import EmbeddedServer
from dims.storage.embedded.home import SYSTEM
from dims.storage.embedded.postgres import EmbeddedPostgres
from dims.storage.embedded.server_log import ReadLine, read_postgres, read_valkey
from dims.storage.embedded.valkey import EmbeddedValkey
from dims.system.locks import FileLock
from dims.system.prctl import forbid_dumps

_READERS: dict[str, ReadLine] = {"postgres": read_postgres, "valkey": read_valkey}


def main(arguments: list[str] | None = None) -> int:
    """Runs until SIGTERM, SIGINT, "leave" or the end of the server; returns the exit code."""
    options = _parse(arguments)
    setproctitle.setproctitle(f"dims: {options.server}")
    log_service(options.server, options.log)
    forbid_dumps()
    os.umask(0o077)
    lock = FileLock(options.state_dir / f"{options.server}.lock")
    try:
        lock.take(options.server)
        asyncio.run(_service(options).run())
    except DimsError as error:
        logging.getLogger("dims.services.embedded").error("%s", with_hint(error))  # noqa: TRY400
        return error.exit_code
    finally:
        lock.release()
    return 0


def _service(options: argparse.Namespace) -> Service:
    fleet = None
    if options.notify is not None:
        fleet = Fleet(options.notify, options.unit or options.server, options.incarnation)
    return Service(options.server, _maker(options), _READERS[options.server], fleet)


def _maker(options: argparse.Namespace) -> Callable[[], EmbeddedServer]:
    directories = (options.state_dir.absolute(), options.runtime_dir.absolute())
    where = {"source": options.source, "directory": options.bin_dir, "system": options.system_dir}
    if options.server == "postgres":
        return partial(
            EmbeddedPostgres, *directories, max_connections=options.max_connections, **where
        )
    return partial(EmbeddedValkey, *directories, max_memory_mb=options.max_memory_mb, **where)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dims.services.embedded", description=__doc__)
    parser.add_argument("server", choices=tuple(_READERS))
    parser.add_argument("--state-dir", type=Path, required=True, help="where data are kept")
    parser.add_argument("--runtime-dir", type=Path, required=True, help="sockets lie beside it")
    parser.add_argument("--notify", help="socket of a supervisor to join")
    parser.add_argument("--unit", help="name in that supervisor's fleet; default: the server's")
    parser.add_argument("--incarnation", type=int, default=1, help="number in that fleet")
    parser.add_argument("--log", type=Path, help="rotate this file, which descriptor 2 writes to")
    parser.add_argument("--source", type=Source, choices=tuple(Source), default=Source.AUTO)
    parser.add_argument("--bin-dir", type=Path, help="take the server's programs from here")
    parser.add_argument("--system-dir", type=Path, default=SYSTEM, help="root's copies and data")
    parser.add_argument("--max-connections", type=int, default=100, help="of PostgreSQL")
    parser.add_argument("--max-memory-mb", type=int, default=0, help="of Valkey; 0: no limit")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
