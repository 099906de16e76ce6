"""A fleet as an operator meets it: the `dims` command, the sandbox, and what the kernel shows.

Everything here runs real processes and waits for facts with a deadline, never for a duration.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dims.errors import NotRunningError, TimedOutError, UsageError
from dims.ipc.links.control_client import ControlClient
from dims.layout import Layout

REPOSITORY = Path(__file__).parents[2]
DIMS = str(Path(sys.executable).with_name("dims"))
WITHIN_S = 30.0
"""Far beyond what anything here takes on two cores; a test that needs it all has failed."""
LOOK_S = 0.02
NOBODY = 65_534
"""The uid and gid that own nothing."""

T = TypeVar("T")
MakeFleet = Callable[..., "Fleet"]
"""The fixture of tests/conftest.py: takes what Fleet takes after the directory."""


def until(fact: Callable[[], T | None], what: str, within_s: float = WITHIN_S) -> T:
    """The first truthy value of `fact`; a process that does not answer is no fact yet."""
    until_s = time.monotonic() + within_s
    seen: object = None
    while time.monotonic() < until_s:
        try:
            found = fact()
        except (NotRunningError, TimedOutError) as error:
            seen = error
        else:
            if found:
                return found
            seen = found
        time.sleep(LOOK_S)
    raise AssertionError(f"not within {within_s:g} s: {what}; last seen: {seen!r}")


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        raw = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return raw.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def parent_of(pid: int) -> int:
    """The parent's pid."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output, read as JSON."""
        return json.loads(self.out)


def as_nobody(work: Callable[[], object]) -> Result:
    """Does `work` in a child that is another user; its exit code is that of SystemExit, or 0.

    A fork and no exec, for the interpreter may lie where only root can read; so what `work` needs
    has to be imported before.
    """
    read_out, write_out = os.pipe()
    read_err, write_err = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.dup2(write_out, 1)
            os.dup2(write_err, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(write_out)
    os.close(write_err)
    # What is said here fits the pipes, so reading one after the other cannot block the child.
    with os.fdopen(read_out) as out, os.fdopen(read_err) as err:
        said = out.read(), err.read()
    return Result(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), *said)


ECHO = """\
from telethon import events

bot = None


async def setup(context):
    global bot
    bot = context


@events.register(events.NewMessage(pattern=r"/start\\b", incoming=True))
async def start(event):
    await event.respond("Hello! Send me a text, and I send it back.")
    raise events.StopPropagation


@events.register(events.NewMessage(incoming=True, func=lambda event: event.is_private))
async def echo(event):
    if event.raw_text:
        await event.respond(bot.settings.get("prefix", "") + event.raw_text, parse_mode=None)
"""
"""A bot without a database, for fleets that are about something else."""
WITHOUT_STORAGE = "\nstorage: {database: off, redis: off}\n"


class Fleet:
    """One bots.yaml in a directory of its own, and all that `dims` does with it.

    A `bots_yaml` that says nothing of storage gets none: servers of its own for each of hundreds of
    fleets would take the machine's time.
    """

    def __init__(
        self,
        directory: Path,
        bots_yaml: str | None = None,
        files: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.config = self.directory / "bots.yaml"
        if bots_yaml is not None:
            silent = bots_yaml.strip() and "storage:" not in bots_yaml
            self.write("bots.yaml", bots_yaml + (WITHOUT_STORAGE if silent else ""))
        for name, text in (files or {}).items():
            self.write(name, text)
        self.layout = Layout(self.directory / ".dims")
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "LC_ALL": "C.UTF-8",
            **(environment or {}),
        }
        self.started: Result | None = None
        """What the last `start` said."""
        self._seen: set[int] = set()
        self._fronts: list[subprocess.Popen[str]] = []

    def write(self, name: str, text: str) -> Path:
        """A file beside bots.yaml, for this user only, replaced as a whole."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.new")
        temporary.touch(mode=0o600)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        return path

    # The command

    def dims(self, *words: str, code: int | None = 0, timeout_s: float = 60.0) -> Result:
        """Runs `dims WORDS`; fails on another exit code than `code`, and on any traceback."""
        done = subprocess.run(
            [DIMS, *words],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in result.err, result.err
        assert code is None or result.code == code, (words, result)
        return result

    def front(self, *words: str) -> subprocess.Popen[str]:
        """`dims WORDS` in the foreground, with its output in pipes; ended by `end`."""
        process = subprocess.Popen(
            [DIMS, *words],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._fronts.append(process)
        return process

    def start(self, *words: str) -> Result:
        """`dims start`, of all bots unless told otherwise."""
        self.started = self.dims("start", *(words or ("--all",)))
        self.processes()
        return self.started

    # The supervisor

    def ask(self, kind: str, /, **body: Any) -> dict[str, Any]:
        """Asks the brain, as the command does."""
        with ControlClient(self.layout.control_socket, timeout_s=5.0) as brain:
            return brain.request(kind, body)

    def status(self) -> dict[str, Any]:
        """The brain's status; every pid in it is remembered for `leftovers`."""
        answer = self.ask("status")
        supervisor = answer["supervisor"]
        pids = {supervisor["pid"], supervisor["keeper_pid"]}
        pids |= {unit["pid"] for unit in (*answer["bots"], *answer["services"])}
        self._seen |= {pid for pid in pids if pid and pid != os.getpid()}
        return answer

    def unit(self, name: str) -> dict[str, Any]:
        """One bot or service in the status."""
        answer = self.status()
        return next(unit for unit in (*answer["bots"], *answer["services"]) if unit["id"] == name)

    def until_state(
        self, name: str, *states: str, after: int = 0, within_s: float = WITHIN_S
    ) -> dict[str, Any]:
        """The unit's status once it is in one of `states`, in an incarnation later than `after`."""

        def there() -> dict[str, Any] | None:
            unit = self.unit(name)
            return unit if unit["state"] in states and unit["incarnation"] > after else None

        return until(there, f"{name} is {' or '.join(states)}", within_s)

    def until_ready(
        self, *bots: str, after: int = 0, within_s: float = WITHIN_S
    ) -> list[dict[str, Any]]:
        """The bots (all, if none is named) once ready in an incarnation later than `after`."""

        def there() -> list[dict[str, Any]] | None:
            answer = self.status()
            found = [bot for bot in answer["bots"] if not bots or bot["id"] in bots]
            good = all(b["state"] == "ready" and b["incarnation"] > after for b in found)
            return (
                found if good and all(s["state"] == "ready" for s in answer["services"]) else None
            )

        return until(there, f"ready: {bots or 'all'}", within_s)

    def supervisor(self) -> dict[str, Any]:
        """The brain's own part of the status."""
        brain: dict[str, Any] = self.status()["supervisor"]
        return brain

    # The sandbox

    def sandbox(self, kind: str, /, **body: Any) -> dict[str, Any]:
        """Asks the sandbox; as a bot's person or as the one who sets faults."""
        with ControlClient(self.layout.sandbox_socket, timeout_s=30.0) as sandbox:
            return sandbox.request(kind, body)

    def say(self, bot: str, text: str, *, user: str = "you", wait_s: float = 10.0) -> list[str]:
        """Says something to a bot; the texts of its replies."""
        answer = self.sandbox("send", bot=bot, user=user, text=text, wait_s=wait_s, quiet_s=0.05)
        return [message["text"] for message in answer["replies"]]

    def tell(self, bot: str, text: str, *, user: str = "you") -> int:
        """Says something and does not wait; the id of the message."""
        body = {"bot": bot, "user": user, "text": text, "wait_s": 0}
        return int(self.sandbox("send", **body)["message"]["id"])

    def replies(self, bot: str, *, user: str = "you") -> list[str]:
        """All texts the bot ever sent to this person, oldest first."""
        try:
            history = self.sandbox("history", bot=bot, user=user, limit=1_000)
        except UsageError:
            return []  # they never spoke
        return [m["text"] for m in history["messages"] if m["from"] == "bot"]

    def account(self, bot: str) -> dict[str, Any]:
        """The bot's account as the sandbox counts it."""
        accounts = self.sandbox("status")["accounts"]
        return next(account for account in accounts if account["name"] == bot)

    # The system

    def log(self, name: str) -> str:
        """The log of one process, with what was rotated away."""
        parts = sorted(self.layout.logs.glob(f"{name}.log*"), reverse=True)
        return "".join(part.read_text("utf-8", "replace") for part in parts)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Signals one process of this fleet."""
        assert pid in self._seen, f"{pid} is none of ours"
        os.kill(pid, number)

    def processes(self) -> set[int]:
        """The running processes of this fleet: all that were ever seen, and all that live in it.

        A process of another user does not show where it lives; then only the former count.
        """
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                where = (entry / "cwd").readlink()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if where.is_relative_to(self.directory) and int(entry.name) != os.getpid():
                self._seen.add(int(entry.name))
        with suppress(NotRunningError, TimedOutError):
            self.status()
        return {pid for pid in self._seen if is_running(pid)}

    def titled(self, title: str) -> set[int]:
        """The running processes of this fleet with that title."""
        found: set[int] = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                called = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
                where = (entry / "cwd").readlink() if called == title else Path()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if where == self.directory and is_running(int(entry.name)):
                found.add(int(entry.name))
        return found

    def leftovers(self) -> list[str]:
        """What a stopped fleet must not leave: processes, sockets, locks. Empty: all is well."""
        found = [f"process {pid}: {_title(pid)}" for pid in sorted(self.processes())]
        layout = self.layout
        if layout.state.is_dir():
            paths: Collection[Path] = (layout.lock, layout.brain_lock, layout.runtime)
            found += [str(path) for path in paths if path.exists()]
            found += [str(path) for path in layout.leases.glob("*")]
        return found

    def end(self) -> None:
        """Stops everything. Raises AssertionError when something was left, after ending it."""
        for front in self._fronts:
            if front.poll() is None:
                front.send_signal(signal.SIGTERM)
            front.communicate(timeout=WITHIN_S)
        self.processes()
        stopped = self.dims("stop", "--timeout", str(WITHIN_S), code=None)
        found = self.leftovers()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        assert stopped.code == 0, stopped
        assert not found, found


@contextmanager
def running(
    directory: Path,
    bots_yaml: str,
    files: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    start: Collection[str] = ("--all",),
) -> Iterator[Fleet]:
    """A started fleet; at the end nothing of it may be left."""
    fleet = Fleet(directory, bots_yaml, files, environment)
    try:
        fleet.start(*start)
        yield fleet
    finally:
        fleet.end()


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
