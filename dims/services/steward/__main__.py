"""`python -m dims.services.steward`: the steward as a process of the fleet."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

import setproctitle

from dims.errors import DimsError, with_hint
from dims.logs import log_service
from dims.services.steward.steward import Steward
from dims.system.clock import SYSTEM
from dims.system.prctl import forbid_dumps


def main() -> int:
    """Runs until SIGTERM, SIGINT or "leave"; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dims.services.steward", description=__doc__)
    parser.add_argument("--notify", required=True, help="socket of the supervisor")
    parser.add_argument("--unit", default="steward", help="name in the fleet")
    parser.add_argument("--incarnation", type=int, default=1, help="number in the fleet")
    parser.add_argument("--log", type=Path, help="rotate this file, which descriptor 2 writes to")
    options = parser.parse_args()
    setproctitle.setproctitle("dims: steward")
    log_service("steward", options.log)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    forbid_dumps()
    os.umask(0o077)
    try:
        asyncio.run(_run(options))
    except DimsError as error:
        logging.getLogger("dims.services.steward").error("%s", with_hint(error))  # noqa: TRY400
        return error.exit_code
    return 0


async def _run(options: argparse.Namespace) -> None:
    await Steward(options.notify, options.unit, options.incarnation, SYSTEM).run()


if __name__ == "__main__":
    sys.exit(main())
