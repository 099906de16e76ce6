"""The fork server: has imported what a worker needs, and forks on request. Single-threaded.

Knows nothing of Telegram: what to import and what to run in a child are named on its command line.
Talks with the brain over the bot socket in frames of `dims.ipc`:

    zygote -> brain   hello {unit, incarnation}   ready {}
                      forked {unit, incarnation, pid, started}   all_told {}
                      fork_failed {unit, incarnation, reason}   exited {pid, started, code, signal}
    brain -> zygote   fork {unit, incarnation, log, directory, socket}   exited_ack {exits}
                      leave {}

When the brain is gone it keeps what ended, and asks for a brain until one is there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from setproctitle import setproctitle

from dims.errors import ProtocolError
from dims.ipc.envelope import Address, Envelope
from dims.ipc.framing import FrameDecoder, encode
from dims.ipc.ids import new_id
from dims.layout import PRIVATE_FILE
from dims.prctl import forbid_dumps
from dims.supervisor.exits import Exit, reap, start_time

HELD_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
RETRY_S = 0.1
"""Between two tries to reach a brain."""
ORPHAN_LIMIT_S = 300.0
"""Without a brain for this long, and with no worker left, a zygote leaves."""

Entry = Callable[[Mapping[str, Any]], int]


class _LeaveError(Exception):
    """The loop shall end."""


class Zygote:
    """Forks workers until told to leave."""

    def __init__(self, socket_path: str, unit: str, incarnation: int, entry: Entry) -> None:
        self._path = socket_path
        self._unit = unit
        self._incarnation = incarnation
        self._entry = entry
        self._exits: dict[tuple[int, int], Exit] = {}
        self._workers: dict[int, dict[str, Any]] = {}
        self._link: socket.socket | None = None
        self._decoder = FrameDecoder()
        self._alone_since_s = time.monotonic()
        self._leaving = False

    def run(self) -> None:
        """Serves; returns when told to leave or when nobody needs it any more."""
        self._wakeup, self._ring = socket.socketpair()
        self._wakeup.setblocking(False)
        self._ring.setblocking(False)
        signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._asked_to_leave)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while not self._leaving:
                self._turn()
        except _LeaveError:
            return

    def _asked_to_leave(self, _number: int, _frame: object) -> None:
        self._leaving = True

    def _turn(self) -> None:
        if self._link is None:
            self._connect()
        waiting = [self._wakeup, *([self._link] if self._link else [])]
        with selectors.DefaultSelector() as selector:
            for sock in waiting:
                selector.register(sock, selectors.EVENT_READ)
            ready = [key.fileobj for key, _ in selector.select(None if self._link else RETRY_S)]
        if self._wakeup in ready:
            self._wakeup.recv(4096)
        for exit_ in reap():
            self._workers.pop(exit_.pid, None)
            self._exits[exit_.pid, exit_.started] = exit_
            self._say("exited", exit_.to_wire())
        if self._link is not None and self._link in ready:
            self._read()

    def _connect(self) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(self._path)
        except OSError:
            link.close()
            if not self._workers and time.monotonic() - self._alone_since_s > ORPHAN_LIMIT_S:
                raise _LeaveError from None
            return
        self._link, self._decoder = link, FrameDecoder()
        self._say("hello", {"unit": self._unit, "incarnation": self._incarnation})
        self._say("ready", {})
        for forked in self._workers.values():
            self._say("forked", forked)
        for exit_ in self._exits.values():
            self._say("exited", exit_.to_wire())
        # An order that is answered by none of these was lost with the former link.
        self._say("all_told", {})

    def _read(self) -> None:
        if self._link is None:
            return
        try:
            data = self._link.recv(65_536)
            messages = self._decoder.feed(data)
        except (ConnectionError, ProtocolError) as error:
            _log(f"the link to the brain broke: {error}")
            data, messages = b"", []
        if not data:
            self._drop_link()
        for message in messages:
            self._heed(message)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None
        self._alone_since_s = time.monotonic()

    def _heed(self, message: Envelope) -> None:
        match message.kind:
            case "fork":
                self._fork(message.body)
            case "exited_ack":
                for pid, started in message.body["exits"]:
                    self._exits.pop((pid, started), None)
            case "leave":
                raise _LeaveError
            case "welcome":
                return
            case _:
                _log(f"the brain asked for an unknown {message.kind!r}")

    def _fork(self, order: Mapping[str, Any]) -> None:
        about = {"unit": order["unit"], "incarnation": order["incarnation"]}
        # A signal to the child before it has its own handlers would run ours, and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                _become_worker(order, self._entry)
        except OSError as error:
            self._say("fork_failed", {**about, "reason": f"fork: {error.strerror}"})
            return
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
        self._workers[pid] = {**about, "pid": pid, "started": start_time(pid)}
        self._say("forked", self._workers[pid])

    def _say(self, kind: str, body: Mapping[str, Any]) -> None:
        if self._link is None:
            return
        sender = Address(f"zygote/{self._incarnation}")
        try:
            self._link.sendall(
                encode(Envelope(new_id(), kind, sender, Address("brain"), body=body))
            )
        except ConnectionError:
            self._drop_link()


def _become_worker(order: Mapping[str, Any], entry: Entry) -> NoReturn:
    """The child's life: nothing of the zygote stays but its memory. Never returns."""
    code = 70  # EX_SOFTWARE of sysexits.h, should anything below fail before the worker speaks
    try:
        _own_surroundings(order)
        code = entry(order)
    except BaseException as error:
        _log(f"the worker of {order.get('unit')} ended: {type(error).__name__}: {error}")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not sys.exit: the zygote's stack and its atexit handlers are not the worker's.
        os._exit(code)


def _own_surroundings(order: Mapping[str, Any]) -> None:
    """Own session, signals, stdio, directory and title; every other descriptor closed.

    Close-on-exec does nothing on a fork, so whatever the zygote holds has to be closed here.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.setsid()
    os.umask(0o077)
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.chdir(str(order["directory"]))
    setproctitle(f"dims: worker {order['unit']}")


def _log(text: str) -> None:
    sys.stderr.write(
        json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "zygote": text})
        + "\n"
    )
    sys.stderr.flush()


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def main() -> int:
    """Entry of `python -m dims.supervisor.zygote`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dims-zygote")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--incarnation", required=True, type=int)
    parser.add_argument(
        "--preload", required=True, help="module:function that imports and warms up"
    )
    parser.add_argument("--entry", required=True, help="module:function to run in a child")
    arguments = parser.parse_args()
    setproctitle("dims: zygote")
    forbid_dumps()
    # What is preloaded may have made temporary files: TERM must unwind, not cut.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _load(arguments.preload)()
    entry: Entry = _load(arguments.entry)
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 (the only way to ask without raising)
        raise RuntimeError("a loop runs in the zygote")
    # Everything made so far lives for ever: collections must not touch (and so copy) its pages.
    gc.collect()
    gc.freeze()
    Zygote(arguments.socket, arguments.unit, arguments.incarnation, entry).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
