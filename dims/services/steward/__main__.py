"""`python -m dims.services.steward`: the steward as a process of the fleet."""

from __future__ import annotations

import logging
import os
import sys

from dims.ipc.links.process import joining, run_service, service_parser
from dims.services.steward.steward import Steward
from dims.system.clock import SYSTEM


def main() -> int:
    """Runs until SIGTERM, SIGINT or "leave"; returns the exit code."""
    parser = service_parser("dims.services.steward", __doc__)
    options = parser.parse_args()
    fleet = joining(options, "steward")
    if fleet is None:
        parser.error("--notify is required: a steward has nothing to do alone")
    os.umask(0o077)

    async def work() -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        await Steward(fleet, SYSTEM).run()

    return run_service(options, "steward", work)


if __name__ == "__main__":
    sys.exit(main())
