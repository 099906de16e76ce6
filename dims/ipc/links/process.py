"""The entrance of a service's process: its arguments, its name, its log, its exit code.

Knows how a supervisor starts a service, and that a service may also run alone; refuses to know
what the service does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from dims.errors import DimsError, with_hint
from dims.ipc.links.membership import Membership, OnRequest
from dims.ipc.wire.sentences import Vocabulary
from dims.logs import log_service
from dims.system.prctl import forbid_dumps


@dataclass(frozen=True, slots=True)
class Joining:
    """Which supervisor to join, by its socket, and as whom."""

    socket: str
    unit: str
    incarnation: int

    def bond(
        self,
        on_order: Callable[[Any], None],
        orders: Vocabulary,
        on_request: OnRequest | None = None,
    ) -> Membership:
        """A membership that has not joined yet."""
        return Membership(
            self.socket,
            self.unit,
            self.incarnation,
            on_order=on_order,
            orders=orders,
            on_request=on_request,
        )


def service_parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """A parser of `python -m module` that knows what every service is told."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--notify", help="socket of a supervisor to join")
    parser.add_argument("--unit", help="name in that supervisor's fleet; default: the service's")
    parser.add_argument("--incarnation", type=int, default=1, help="number in that fleet")
    parser.add_argument("--log", type=Path, help="rotate this file, which descriptor 2 writes to")
    return parser


def joining(options: argparse.Namespace, name: str) -> Joining | None:
    """Whom to join, as `name` unless told otherwise; None for a service that runs alone."""
    if options.notify is None:
        return None
    return Joining(options.notify, options.unit or name, options.incarnation)


def run_service(
    options: argparse.Namespace, name: str, work: Callable[[], Coroutine[Any, Any, None]]
) -> int:
    """Runs `work` as the process `dims: name` and returns the exit code: that of a DimsError, which
    goes to the log."""
    setproctitle(f"dims: {name}")
    log_service(name, options.log)
    forbid_dumps()
    try:
        asyncio.run(work())
    except DimsError as error:
        logging.getLogger(f"dims.{name}").error("%s", with_hint(error))  # noqa: TRY400
        return error.exit_code
    return 0
