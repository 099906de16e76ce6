"""The fork server: has imported what a worker needs, and forks on request. Single-threaded.

Knows nothing of Telegram: what to import and what to run in a child are named on its command line.
Talks with the brain over the bot socket, in the sentences of `dims.ipc.words.forks`.

When the brain is gone it keeps what ended, and asks for a brain until one is there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from setproctitle import setproctitle

from dims.errors import DimsError, ProtocolError
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.framing import FrameDecoder, encode
from dims.ipc.wire.ids import new_id
from dims.ipc.wire.sentences import Sentence, Vocabulary, written
from dims.ipc.words.failures import Exit, ExitsHeard
from dims.ipc.words.fleet import WELCOME, Hello, Leave, MayServe
from dims.ipc.words.forks import AllTold, Fork, Forked, ForkFailed
from dims.ipc.words.sharing import Sharing
from dims.ipc.words.states import Manner
from dims.supervisor.reaping import reap
from dims.supervisor.zygote.forked import Entry, become_spare, become_worker, log
from dims.supervisor.zygote.holes import fill_holes
from dims.supervisor.zygote.immortal import doubt, make_immortal, this_interpreter
from dims.supervisor.zygote.interpreters import refusal
from dims.system.clock import SYSTEM, Clock
from dims.system.exits import start_time
from dims.system.prctl import forbid_dumps

ORDERS = Vocabulary(Fork, ExitsHeard, Leave)
HELD_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
SPARE_AFTER_S = 0.05
"""Quiet time before a spare is forked: during a burst of starts it would only be in the way."""
RETRY_S = 0.1
"""Between two tries to reach a brain."""
ORPHAN_LIMIT_S = 300.0
"""Without a brain for this long, and with no worker left, a zygote leaves."""


class _LeaveError(Exception):
    """The loop shall end."""


class Zygote:
    """Forks workers until told to leave."""

    def __init__(
        self,
        socket_path: str,
        unit: str,
        incarnation: int,
        *,
        entry: Entry,
        sharing: Sharing,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self._path = socket_path
        self._unit = unit
        self._incarnation = incarnation
        self._entry = entry
        self._sharing = sharing
        self._exits: dict[tuple[int, int], Exit] = {}
        self._workers: dict[int, Forked] = {}
        self._link: socket.socket | None = None
        self._decoder = FrameDecoder()
        self._alone_since_s = self._clock.monotonic()
        self._leaving = False
        self._spare: tuple[int, socket.socket] | None = None
        """A child forked ahead of need, and where it takes its order."""

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
            ready = [key.fileobj for key, _ in selector.select(self._patience_s())]
        if not ready and self._link is not None and self._spare is None:
            self._fork_spare()
        if self._wakeup in ready:
            self._wakeup.recv(4096)
        for exit_ in reap():
            if self._spare is not None and exit_.pid == self._spare[0]:
                self._drop_spare()
                continue
            self._workers.pop(exit_.pid, None)
            self._exits[exit_.pid, exit_.started] = exit_
            self._say(exit_)
        if self._link is not None and self._link in ready:
            self._read()

    def _patience_s(self) -> float | None:
        """How long to wait for news: a moment when something is left to do, else for ever."""
        if self._link is None:
            return RETRY_S
        return SPARE_AFTER_S if self._spare is None else None

    def _connect(self) -> None:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(self._path)
        except OSError:
            link.close()
            if not self._workers and self._clock.monotonic() - self._alone_since_s > ORPHAN_LIMIT_S:
                raise _LeaveError from None
            return
        self._link, self._decoder = link, FrameDecoder()
        self._say(Hello(self._unit, self._incarnation))
        self._say(MayServe(written(self._sharing)))
        for forked in self._workers.values():
            self._say(forked)
        for exit_ in self._exits.values():
            self._say(exit_)
        # An order that is answered by none of these was lost with the former link.
        self._say(AllTold())

    def _read(self) -> None:
        if self._link is None:
            return
        try:
            data = self._link.recv(65_536)
            messages = self._decoder.feed(data)
        except (ConnectionError, ProtocolError) as error:
            log(f"the link to the brain broke: {error}")
            data, messages = b"", []
        if not data:
            self._drop_link()
        for message in messages:
            self._heed(message)

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None
        self._alone_since_s = self._clock.monotonic()

    def _heed(self, message: Envelope) -> None:
        if message.kind == WELCOME:
            return
        try:
            order = ORDERS.read(message.kind, message.body, "the zygote")
        except DimsError as error:
            log(f"the brain said what is not understood: {error}")
            return
        match order:
            case Fork():
                self._fork(order)
            case ExitsHeard(exits):
                for pid, started in exits:
                    self._exits.pop((pid, started), None)
            case Leave():
                raise _LeaveError

    def _fork(self, order: Fork) -> None:
        pid = self._give_to_spare(order)
        if pid is None:
            try:
                pid = self._forked(lambda: become_worker(written(order), self._entry))
            except OSError as error:
                reason = f"fork: {error.strerror}"
                self._say(ForkFailed(order.unit, order.incarnation, reason))
                return
        forked = Forked(order.unit, order.incarnation, pid, start_time(pid))
        self._workers[pid] = forked
        self._say(forked)

    def _forked(self, live: Callable[[], NoReturn]) -> int:
        # A signal to the child before it has its own handlers would run ours, and be lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                live()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
        return pid

    def _fork_spare(self) -> None:
        """In a quiet moment, so that the next start need not wait for a fork."""
        ours, theirs = socket.socketpair()
        try:
            pid = self._forked(lambda: become_spare(theirs, self._entry))
        except OSError as error:
            log(f"no spare worker: {error.strerror}")
            ours.close()
        else:
            self._spare = pid, ours
        finally:
            theirs.close()

    def _give_to_spare(self, order: Fork) -> int | None:
        """The pid of the spare, which has taken the order; None when there is none alive."""
        if self._spare is None:
            return None
        (pid, orders), self._spare = self._spare, None
        try:
            orders.sendall(json.dumps(written(order)).encode("utf-8"))
        except ConnectionError:
            return None
        finally:
            orders.close()
        return pid

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare[1].close()
            self._spare = None

    def _say(self, sentence: Sentence) -> None:
        if self._link is None:
            return
        sender, to = Address(f"zygote/{self._incarnation}"), Address("brain")
        said = Envelope(new_id(), sentence.kind, sender, to, body=written(sentence))
        try:
            self._link.sendall(encode(said))
        except ConnectionError:
            self._drop_link()


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def settle_heap(copy_because: str) -> Sharing:
    """Makes the best of what was made so far, which lives for ever; returns how workers get it.

    `copy_because` says why it must not be made immortal; empty where it may.
    """
    reason = copy_because or refusal(this_interpreter()) or doubt()
    gc.collect()
    if not reason:
        _make_immortal_or_end()
        fill_holes()
    # Collections must not touch (and so copy) its pages.
    gc.freeze()
    return Sharing(Manner.COPY if reason else Manner.IMMORTAL, reason)


def _make_immortal_or_end() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        make_immortal()
    except BaseException as error:
        log(f"the heap could not be made immortal: {type(error).__name__}: {error}")
        # Not sys.exit: a heap that is half immortal does not survive the interpreter's own end.
        os._exit(os.EX_SOFTWARE)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def main() -> int:
    """Entry of `python -m dims.supervisor.zygote`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dims-zygote")
    parser.add_argument("--notify", required=True, help="socket of the supervisor")
    parser.add_argument("--unit", required=True)
    parser.add_argument("--incarnation", required=True, type=int)
    parser.add_argument(
        "--preload", required=True, help="module:function that imports and warms up"
    )
    parser.add_argument("--entry", required=True, help="module:function to run in a child")
    parser.add_argument(
        "--copy-because", default="", help="why workers shall copy the heap; empty: share it"
    )
    arguments = parser.parse_args()
    setproctitle("dims: zygote")
    forbid_dumps()
    # What is preloaded may have made temporary files: TERM must unwind, not cut.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _load(arguments.preload)()
    entry: Entry = _load(arguments.entry)
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 (the only way to ask without raising)
        raise RuntimeError("a loop runs in the zygote")
    sharing = settle_heap(arguments.copy_because)
    about = (arguments.notify, arguments.unit, arguments.incarnation)
    Zygote(*about, entry=entry, sharing=sharing, clock=SYSTEM).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
