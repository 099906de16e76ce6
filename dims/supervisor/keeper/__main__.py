"""The process one starts: holds sockets, starts the brain again, reaps, remembers exits.

What it has to decide about brains is in `dims.supervisor.core.brains`; nothing else, so that it
need never be replaced. It imports no asyncio to stay tiny.
Talks with the brain over a socket pair, in the sentences of `dims.ipc.words.keeping`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from setproctitle import setproctitle

from dims.errors import (
    AlreadyRunningError,
    ConfigError,
    DimsError,
    ProtocolError,
    StateError,
    with_hint,
)
from dims.ipc.wire.plain import PlainDecoder, PlainMessage, encode_plain
from dims.ipc.words.failures import Exit, ExitsHeard
from dims.ipc.words.keeping import (
    Finished,
    KeeperWelcome,
    Launch,
    SpawnDone,
    SpawnRefused,
    StopFleet,
    Stopping,
    Up,
)
from dims.layout import PRIVATE_FILE, Layout
from dims.supervisor.core.brains import (
    LONGEST_DELAY_S,
    Brains,
    EndAll,
    GiveUp,
    StartAgain,
    after_end,
)
from dims.supervisor.reaping import reap
from dims.system.clock import SYSTEM, Clock
from dims.system.exits import start_time
from dims.system.locks import FileLock
from dims.system.prctl import become_subreaper, forbid_dumps

BACKLOG = 4096
CONTROL_FD, BOT_FD, LINK_FD = 3, 4, 5
"""Descriptors that a brain inherits."""
HIGH_FD = 64
"""Our own descriptors start here, so that the three numbers above are free in a child."""
REMEMBERED_EXITS = 10_000
PERMANENT_CODES = frozenset({ConfigError.exit_code, StateError.exit_code})
"""A brain that never came up and leaves so would leave so again."""
STOP_ANSWER_S = 10.0
"""A brain that is told to stop answers at once; one that does not is hung."""
UNSENT_LIMIT_BYTES = 1_000_000
LEFTOVERS_S = 2.0
LAST_RESORT_S = 15.0
"""Time to leave by themselves, for all processes, when no brain can stop them."""


Said = KeeperWelcome | StopFleet | SpawnDone | SpawnRefused | Exit


class Keeper:
    """Runs until the brain says that all is stopped; `run` returns the exit code."""

    def __init__(
        self, layout: Layout, config: Path, handed: Mapping[str, Any], clock: Clock
    ) -> None:
        self._clock = clock
        self._layout = layout
        self._config = config
        self._environment = handed.get("environment", {})
        self._wish = handed.get("wish")
        self._brain_log = None if handed.get("foreground") else str(layout.log("brain"))
        self._lock = FileLock(layout.lock)
        self._selector = selectors.DefaultSelector()
        self._exits: dict[tuple[int, int], Exit] = {}
        self._link: socket.socket | None = None
        self._decoder = PlainDecoder()
        self._brain_pid = 0
        self._brain_at_s = 0.0
        self._brain_due_s: float | None = None
        self._finished = False
        self._stopping = False
        self._stop_said = False
        self._stop_due_s: float | None = None
        """When a brain that was told to stop must have answered."""
        self._brains = Brains()
        self._exit_code = 0
        self._unsent = bytearray()
        self._control = self._bots = -1

    def run(self) -> int:
        """Holds the fleet until it is stopped."""
        become_subreaper()
        forbid_dumps()
        self._lock.take("the supervisor")
        try:
            # Before anything is made: a brain without keeper still uses the very same sockets.
            _refuse_second_brain(self._layout)
        except AlreadyRunningError:
            self._lock.release()
            raise
        try:
            self._prepare()
            self._start_brain()
            while not self._finished or self._brain_pid:
                self._turn()
            # What a bot started in a session of its own is still below us.
            _end_all_children(LEFTOVERS_S, self._clock)
        finally:
            self._clean_up()
        return self._exit_code

    def _prepare(self) -> None:
        self._layout.make_runtime()
        self._control = _listen(self._layout.control_socket)
        self._bots = _listen(self._layout.bot_socket)
        wakeup, ring = socket.socketpair()
        wakeup.setblocking(False)
        ring.setblocking(False)
        self._wakeup, self._ring = wakeup, ring
        signal.set_wakeup_fd(ring.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._asked_to_stop)
        self._selector.register(wakeup, selectors.EVENT_READ)

    def _turn(self) -> None:
        dues = [due_s for due_s in (self._brain_due_s, self._stop_due_s) if due_s is not None]
        timeout_s = max(0.0, min(dues) - self._clock.monotonic()) if dues else None
        for key, what in self._selector.select(timeout_s):
            if key.fileobj is self._wakeup:
                self._wakeup.recv(4096)
                continue
            if what & selectors.EVENT_WRITE:
                self._flush()
            if what & selectors.EVENT_READ:
                self._read_link()
        self._reap()
        if self._stopping and not self._stop_said:
            # Not in the signal handler: it could cut a message in two.
            self._tell_to_stop()
        if self._stop_due_s is not None and self._clock.monotonic() >= self._stop_due_s:
            self._stop_due_s = None
            if self._brain_pid:
                _log("the brain does not answer: ending it")
                os.kill(self._brain_pid, signal.SIGKILL)
        if self._brain_due_s is not None and self._clock.monotonic() >= self._brain_due_s:
            self._start_brain()

    def _asked_to_stop(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            return
        self._stopping = True

    # The brain

    def _tell_to_stop(self) -> None:
        self._stop_said = True
        self._stop_due_s = self._clock.monotonic() + STOP_ANSWER_S
        self._say(StopFleet())

    def _start_brain(self) -> None:
        self._brain_due_s = None
        try:
            self._spawn_brain()
        except OSError as error:
            # No process or memory to be had just now: the bots go on, so do we.
            _log(f"cannot start a brain: {error}")
            self._drop_link()
            self._brain_due_s = self._clock.monotonic() + LONGEST_DELAY_S

    def _spawn_brain(self) -> None:
        ours, theirs = socket.socketpair()
        self._open_link(ours)
        argv = [
            *(sys.executable, "-m", "dims.supervisor.brain"),
            *("--state-dir", str(self._layout.state), "--config", str(self._config)),
            *(["--foreground"] if self._brain_log is None else []),
        ]
        inherited = {self._control: CONTROL_FD, self._bots: BOT_FD, _high(theirs.detach()): LINK_FD}
        self._brain_pid = _spawn(argv, self._brain_log, inherited)
        os.close(next(fd for fd, number in inherited.items() if number == LINK_FD))
        self._brain_at_s = self._clock.monotonic()
        welcome = KeeperWelcome(self._environment, tuple(self._exits.values()), self._wish)
        # What the operator asked for at the start is asked once: later it is desired state.
        self._wish = None
        self._say(welcome)
        self._stop_said = False
        if self._stopping:
            self._tell_to_stop()

    def _open_link(self, ours: socket.socket) -> None:
        self._link = socket.socket(fileno=_high(ours.detach()))
        self._link.setblocking(False)
        self._unsent.clear()
        self._decoder = PlainDecoder()
        self._selector.register(self._link, selectors.EVENT_READ)

    def _brain_ended(self, exit_: Exit) -> None:
        self._brain_pid = 0
        self._drop_link()
        if self._finished:
            return
        now_s, status = self._clock.monotonic(), exit_.status
        self._brains, answer = after_end(
            self._brains,
            now_s - self._brain_at_s,
            is_permanent=status.code in PERMANENT_CODES,
            is_stopping=self._stopping,
        )
        match answer:
            case StartAgain(delay_s):
                self._brain_due_s = now_s + delay_s
                _log(f"the brain ended ({status}); a new one in {delay_s:g} s")
            case GiveUp():
                _log(f"the brain cannot start ({status}): see {self._layout.log('brain')}")
                self._exit_code = status.code or 0
                self._finished = True
            case EndAll():
                _log("no brain lives long enough to stop the fleet: ending all processes")
                _end_all_children(LAST_RESORT_S, self._clock)
                self._finished = True

    def _drop_link(self) -> None:
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
            self._link = None

    def _read_link(self) -> None:
        if self._link is None:
            return
        try:
            data = self._link.recv(65_536)
            messages = self._decoder.feed(data)
        except (ConnectionError, ProtocolError) as error:
            _log(f"the link to the brain broke: {error}")
            data, messages = b"", []
        for message in messages:
            self._heed(message)
        if not data:
            # Its end is reaped soon; without a link it can order nothing.
            self._drop_link()

    def _heed(self, message: PlainMessage) -> None:
        try:
            self._do(message)
        except (LookupError, TypeError, ValueError) as error:
            # Of another version perhaps: that is no reason to leave a fleet without a keeper.
            _log(f"the brain said a malformed {message.kind!r}: {error!r}")

    def _do(self, message: PlainMessage) -> None:
        body = message.body
        match message.kind:
            case Launch.kind:
                self._spawn_for(Launch(body["tag"], tuple(body["argv"]), body["log"]))
            case ExitsHeard.kind:
                for pid, started in body["exits"]:
                    self._exits.pop((pid, started), None)
            case Up.kind:
                self._brains = replace(self._brains, was_up=True)
            case Stopping.kind:
                self._stop_due_s = None
            case Finished.kind:
                self._finished = True
            case _:
                _log(f"the brain asked for an unknown {message.kind!r}")

    def _spawn_for(self, order: Launch) -> None:
        try:
            pid = _spawn(list(order.argv), order.log, {})
        except OSError as error:
            self._say(SpawnRefused(order.tag, str(error)))
        else:
            self._say(SpawnDone(order.tag, pid, start_time(pid)))

    def _say(self, sentence: Said) -> None:
        if self._link is None:
            return
        # Not by msgspec, as elsewhere: this process imports nothing but the standard library.
        _, frame = encode_plain(sentence.kind, asdict(sentence), sender="keeper", to="brain")
        if len(self._unsent) < UNSENT_LIMIT_BYTES:
            # What is dropped beyond it are exits, which the next brain is told again.
            self._unsent += frame
            self._flush()

    def _flush(self) -> None:
        """Gives the link what it takes; a brain that does not read must not hold us up."""
        if self._link is None:
            return
        try:
            while self._unsent:
                del self._unsent[: self._link.send(self._unsent)]
        except BlockingIOError:
            pass
        except ConnectionError as error:
            _log(f"cannot tell the brain: {error}")
            self._unsent.clear()
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        self._selector.modify(self._link, wanted)

    # The ended

    def _reap(self) -> None:
        for exit_ in reap():
            if exit_.pid == self._brain_pid:
                self._brain_ended(exit_)
                continue
            self._exits[exit_.pid, exit_.started] = exit_
            while len(self._exits) > REMEMBERED_EXITS:
                self._exits.pop(next(iter(self._exits)))
            self._say(exit_)

    def _clean_up(self) -> None:
        self._drop_link()
        layout = self._layout
        # A sandbox that had to be killed left its socket.
        for path in (layout.control_socket, layout.bot_socket, layout.sandbox_socket):
            path.unlink(missing_ok=True)
        layout.remove_worker_sockets()
        try:
            layout.remove_server_sockets()
            self._layout.runtime.rmdir()
        except OSError as error:
            _log(f"{error.filename or self._layout.runtime} stays: {error.strerror}")
        self._lock.release()


def _end_all_children(within_s: float, clock: Clock) -> None:
    """TERM, and KILL in the end, for all below us: as a subreaper we inherit every one of them."""
    until_s = clock.monotonic() + within_s
    while True:
        reap()
        children = _children()
        if not children:
            return
        number = signal.SIGTERM if clock.monotonic() < until_s else signal.SIGKILL
        for pid in children:
            os.kill(pid, number)
        time.sleep(0.2)


def _children() -> list[int]:
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children", encoding="ascii") as file:  # noqa: PTH123
        return [int(pid) for pid in file.read().split()]


def _refuse_second_brain(layout: Layout) -> None:
    """A brain outlives its keeper: a second one beside it would run every bot twice."""
    lock = FileLock(layout.brain_lock)
    lock.take("a brain without keeper")
    lock.release()


def _listen(path: Path) -> int:
    """A listening socket at `path`, for this user only, at a high descriptor."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    former = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(former)
    sock.listen(BACKLOG)
    return _high(sock.detach())


def _high(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
    os.close(descriptor)
    return moved


def _spawn(argv: list[str], log: str | None, inherited: Mapping[int, int]) -> int:
    """The pid of a new process in a session of its own, with only the named descriptors.

    Without `log` it writes where we write.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    if log is not None:
        actions.append((os.POSIX_SPAWN_OPEN, 1, log, flags, PRIVATE_FILE))
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    actions += [
        *((os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in inherited.items()),
    ]
    return os.posix_spawn(
        argv[0],
        argv,
        os.environ,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
    )


def _log(text: str) -> None:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    sys.stderr.write(f"{stamp}Z keeper {text}\n")
    sys.stderr.flush()


def _read_handed(descriptor: int) -> dict[str, Any]:
    """What `dims start` hands over in a pipe: `environment` (the variables that bots.yaml names,
    which must not be in our own), `wish` (what to start) and `foreground`."""
    with os.fdopen(descriptor, "rb") as pipe:
        return dict(json.loads(pipe.read() or b"{}"))


def main() -> int:
    """Entry of `python -m dims.supervisor.keeper`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dims-keeper")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--handed-fd", type=int, required=True)
    arguments = parser.parse_args()
    setproctitle("dims: keeper")
    handed = _read_handed(arguments.handed_fd)
    layout = Layout(Path(arguments.state_dir))
    os.chdir(layout.state)
    try:
        return Keeper(layout, Path(arguments.config), handed, SYSTEM).run()
    except AlreadyRunningError as error:
        _log(str(error))
        return error.exit_code
    except DimsError as error:
        _log(with_hint(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
