"""Starts a keeper: scrubbed environment, secrets through a pipe, own session. Awaits its brain."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dims.cli.tail import last_line
from dims.cli.where import Where
from dims.config import Config, ServerKind, load_config, read_environment
from dims.errors import NotRunningError, ServiceError, StateError, TimedOutError
from dims.layout import PRIVATE_FILE
from dims.system.clock import SYSTEM

ALLOWED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR", "LANG", "LANGUAGE"}
    | {"VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
"""What keeper and all below it get of our environment; everything else may be a secret."""
BRAIN_WITHIN_S = 15.0


def scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment that processes of the fleet get: allowed names and locale settings."""
    return {k: v for k, v in environment.items() if k in ALLOWED or k.startswith("LC_")}


def launch(place: Where, wish: Mapping[str, Any] | None, *, foreground: bool) -> None:
    """Starts the supervisor and returns when its brain answers; with `foreground`, never returns.

    `wish` says which bots to start besides those that ran: the body of the brain's `start` request.

    Raises UsageError for a bot that is not configured and ConfigError before anything is started,
    StateError when the state directory cannot be used, ServiceError when the sandbox's port is
    taken or the supervisor leaves at once.
    """
    variables = read_environment(place.config, os.environ)
    config = load_config(place.config, os.environ)
    for name in (wish or {}).get("bots", ()):
        if not any(fnmatchcase(bot.id, name) for bot in config.bots):
            config.bot(name)
    if not _left_sockets(place):
        refuse_taken_port(config)
    place.layout.make()
    handed = {"environment": variables, "wish": wish, "foreground": foreground}
    secrets = json.dumps(handed).encode("utf-8")
    reading, writing = os.pipe()
    argv = [
        *(sys.executable, "-m", "dims.supervisor.keeper"),
        *("--state-dir", str(place.layout.state), "--config", str(config.path)),
        *("--handed-fd", str(reading)),
    ]
    if foreground:
        _hand_over(writing, secrets)
        os.set_inheritable(reading, True)
        os.execve(sys.executable, argv, scrubbed(os.environ))  # noqa: S606 (no shell is involved)
    log = place.layout.log("keeper")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    offset = os.fstat(descriptor).st_size
    keeper = subprocess.Popen(
        argv,
        env=scrubbed(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=descriptor,
        stderr=descriptor,
        pass_fds=(reading,),
        start_new_session=True,
    )
    os.close(descriptor)
    os.close(reading)
    _hand_over(writing, secrets)
    _wait_for_brain(place, keeper, offset)


def refuse_taken_port(config: Config) -> None:
    """Raises ServiceError when the port that bots.yaml names for the sandbox is somebody else's."""
    port = config.telegram.sandbox_port
    if config.telegram.server.kind is not ServerKind.SANDBOX or not port:
        return
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceError(
                f"the sandbox cannot listen on port {port}: {error.strerror}",
                hint="free it, or give another sandbox_port in bots.yaml; 0 takes any",
            ) from error


def _left_sockets(place: Where) -> bool:
    """Whether a supervisor was killed here: then its own sandbox may still hold the port."""
    try:
        return place.layout.control_socket.exists()
    except NotRunningError:
        return False


def _hand_over(descriptor: int, secrets: bytes) -> None:
    """Writes into the pipe; what fits no pipe (64 KiB) is no list of variables."""
    if len(secrets) > 65_536:
        raise ServiceError("the variables that bots.yaml names hold more than 64 KiB")
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(secrets)


def _complain_about_disk(state: Path) -> None:
    """Raises StateError where there was no room for a log either."""
    disk = os.statvfs(state)
    if not (disk.f_bavail if os.geteuid() else disk.f_bfree):
        raise StateError(f"the disk of {state} is full", hint="make room on it")


def _wait_for_brain(place: Where, keeper: subprocess.Popen[bytes], offset: int) -> None:
    until_s = SYSTEM.monotonic() + BRAIN_WITHIN_S
    while SYSTEM.monotonic() < until_s:
        try:
            with place.brain(timeout_s=BRAIN_WITHIN_S) as brain:
                brain.request("health")
        except NotRunningError:
            code = keeper.poll()
            if code == 0:
                return
            if code is not None:
                _complain_about_disk(place.layout.state)
                said = place.layout.log("keeper").read_bytes()[offset:].decode("utf-8", "replace")
                last = said.strip().splitlines()[-1] if said.strip() else f"exit code {code}"
                raise ServiceError(
                    f"the supervisor left at once: {last}",
                    hint=last_line(place.layout.log("brain")),
                ) from None
            time.sleep(0.02)
        else:
            return
    raise TimedOutError(
        f"the supervisor did not answer within {BRAIN_WITHIN_S:g} s",
        hint=f"see {place.layout.log('brain')}",
    )
