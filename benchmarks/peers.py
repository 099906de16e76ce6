"""The contenders: DIMS, and supervisord, circus and pm2 running a script per bot.

Each is used as its own documentation shows, with its default settings where they do not stand in
the way of a measurement; what differs from a default is said beside it. Nothing is measured here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import psutil
from ground import ENVIRONMENT, FIRST, HERE, Ground
from measures import BenchmarkError, end_all, tree, wait_until
from supervisor.xmlrpc import SupervisorTransport

from dims.config import load_config
from dims.ipc.links.control_client import ControlClient
from dims.ipc.wire.sentences import written
from dims.layout import Layout
from dims.supervisor.units.worker_terms import configured_address, worker_terms

BIN = Path(sys.executable).parent
DIMS = str(BIN / "dims")
DAEMON_WITHIN_S = 30.0


class Script(StrEnum):
    """What a peer runs per bot."""

    PLAIN = "plain script"
    FAT = "fat worker"


class Contender(Protocol):
    """A supervisor on a ground. `begin` starts it with the bot `FIRST`; `end` leaves nothing."""

    def begin(self) -> None:
        """Starts the daemon, which starts `FIRST`; may return before that is up."""

    def start(self, names: Sequence[str]) -> None:
        """Orders these bots; may return before they run."""

    def workers(self, names: Sequence[str]) -> dict[str, int]:
        """The pid of each bot's process."""

    def processes(self) -> list[psutil.Process]:
        """Daemon, bots and whatever else belongs to it."""

    def end(self) -> list[psutil.Process]:
        """Stops everything; returns what had to be killed."""


Make = Callable[[Ground, Sequence[str]], Contender]
"""Makes a contender on a ground for `FIRST` and these bots."""


class Dims:
    """The fleet as an operator runs it: `dims start`, then orders on the control socket."""

    def __init__(
        self, ground: Ground, names: Sequence[str], more: Mapping[str, Any] | None = None
    ) -> None:
        self._config = ground.write_config([FIRST, *names], dict(more or {}))
        self.layout = Layout(ground.directory / ".dims")
        self._seen: list[psutil.Process] = []

    def begin(self) -> None:
        self._run("start", FIRST)

    def start(self, names: Sequence[str]) -> None:
        with self.brain() as brain:
            brain.request("start", {"bots": list(names)})

    def workers(self, names: Sequence[str]) -> dict[str, int]:
        return {bot["id"]: bot["pid"] for bot in self.status()["bots"] if bot["id"] in set(names)}

    def processes(self) -> list[psutil.Process]:
        return tree(self.status()["supervisor"]["keeper_pid"])

    def end(self) -> list[psutil.Process]:
        try:
            seen = self.processes()
        except Exception:
            # Without a brain there is nobody to ask: what is left is found by its state directory.
            return end_all(_of_directory(self.layout.state), 0.5)
        self.stop()
        return end_all(seen)

    def stop(self) -> None:
        """`dims stop`, until nothing of the fleet runs."""
        self._run("stop")

    def brain(self) -> ControlClient:
        """A connection to the brain."""
        return ControlClient(self.layout.control_socket)

    def status(self) -> dict[str, Any]:
        """The brain's status."""
        with self.brain() as brain:
            return brain.request("status")

    def pid(self, which: str) -> int:
        """The pid of `keeper`, `brain` or a service such as `zygote`."""
        status = self.status()
        if which in {"keeper", "brain"}:
            return int(status["supervisor"]["pid" if which == "brain" else "keeper_pid"])
        return next(int(unit["pid"]) for unit in status["services"] if unit["id"] == which)

    def when_ready(
        self, names: Sequence[str], within_s: float = 30.0, every_s: float = 0.05
    ) -> dict[str, float]:
        """When each bot became ready (CLOCK_MONOTONIC, good to 2 ms), once all are.

        The brain notes the moment itself, so how often it is asked blurs nothing.
        """
        wanted = set(names)
        found: dict[str, float] = {}

        def all_are() -> bool:
            asked_s = time.monotonic()
            status = self.status()
            now_s = (asked_s + time.monotonic()) / 2
            for bot in status["bots"]:
                if bot["id"] in wanted and bot["state"] == "ready":
                    found[bot["id"]] = now_s - bot["uptime_s"] + bot["ready_s"]
            return wanted <= found.keys()

        wait_until(all_are, within_s, every_s, "bots of DIMS ready")
        return found

    def _run(self, *arguments: str) -> None:
        argv = [DIMS, arguments[0], "--config", str(self._config), *arguments[1:]]
        done = subprocess.run(
            argv, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise BenchmarkError(f"dims {' '.join(arguments)}: {done.stderr.strip()}")


class _Scripts:
    """What the peers share: the command of each bot, and a daemon that is a child of ours."""

    def __init__(self, ground: Ground, names: Sequence[str], script: Script) -> None:
        self.directory = ground.directory
        self.names = [FIRST, *names]
        make = _plain_commands if script is Script.PLAIN else _fat_commands
        self.commands = make(ground, self.names)
        self.daemon: subprocess.Popen[bytes] | None = None

    def workers(self, names: Sequence[str]) -> dict[str, int]:
        by_command = {}
        for process in self.processes():
            try:
                by_command[tuple(process.cmdline())] = process.pid
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        try:
            return {name: by_command[tuple(self.commands[name])] for name in names}
        except KeyError as error:
            raise BenchmarkError(f"a bot does not run: {error}") from error

    def processes(self) -> list[psutil.Process]:
        return tree(self.daemon.pid) if self.daemon is not None else []

    def end(self) -> list[psutil.Process]:
        # The daemon first and hard: stopping is not measured, and it must start nothing again.
        seen = self.processes()
        for process in seen:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self.daemon is not None:
            self.daemon.wait(10)
        return end_all(seen)

    def _launch(self, argv: Sequence[str]) -> None:
        with (self.directory / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                argv,
                cwd=self.directory,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class Supervisord(_Scripts):
    """supervisord in the foreground, ordered over its XML-RPC socket as supervisorctl does."""

    def begin(self) -> None:
        socket = self.directory / "s.sock"
        text = (
            f"[supervisord]\nnodaemon=true\nlogfile={self.directory}/supervisord.log\n"
            f"pidfile={self.directory}/supervisord.pid\nchildlogdir={self.directory}\n"
            # Its default of 1,024 descriptors is too few for 100 programs with pipes and logs.
            "minfds=8192\nuser=root\n"
            f"[unix_http_server]\nfile={socket}\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = "
            "supervisor.rpcinterface:make_main_rpcinterface\n"
        )
        for name in self.names:
            # startretries: the default of 3 is about starts that fail, not about kills.
            text += (
                f"[program:{name}]\ncommand={' '.join(self.commands[name])}\n"
                f"autostart={'true' if name == FIRST else 'false'}\nautorestart=true\n"
                f"directory={self.directory}\n"
            )
        config = self.directory / "supervisord.conf"
        config.write_text(text, encoding="utf-8")
        self._launch([str(BIN / "supervisord"), "-c", str(config)])

    def start(self, names: Sequence[str]) -> None:
        transport = SupervisorTransport(serverurl=f"unix://{self.directory}/s.sock")
        server = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        calls = [
            {"methodName": "supervisor.startProcess", "params": [name, False]} for name in names
        ]
        answers = server.system.multicall(calls)
        refused = [answer for answer in answers if answer is not True]
        if refused:
            raise BenchmarkError(f"supervisord does not start all: {refused[0]}")


class Circus(_Scripts):
    """circusd, ordered over its ZeroMQ endpoint as circusctl does; its warmup_delay is 0."""

    def begin(self) -> None:
        endpoint = f"ipc://{self.directory}/c.sock"
        text = f"[circus]\nendpoint = {endpoint}\npubsub_endpoint = ipc://{self.directory}/p.sock\n"
        for name in self.names:
            command = self.commands[name]
            text += (
                f"[watcher:{name}]\ncmd = {command[0]}\nargs = {' '.join(command[1:])}\n"
                f"working_dir = {self.directory}\ncopy_env = true\n"
                f"stdout_stream.class = FileStream\n"
                f"stdout_stream.filename = {self.directory}/{name}.log\n"
                f"stderr_stream.class = FileStream\n"
                f"stderr_stream.filename = {self.directory}/{name}.err\n"
                f"autostart = {name == FIRST}\n"
            )
        config = self.directory / "circus.ini"
        config.write_text(text, encoding="utf-8")
        self._launch([str(BIN / "circusd"), str(config)])

    def start(self, names: Sequence[str]) -> None:
        from circus.client import CircusClient  # noqa: PLC0415 (drags tornado in)

        client = CircusClient(endpoint=f"ipc://{self.directory}/c.sock", timeout=DAEMON_WITHIN_S)
        try:
            # One by one: a glob leaves out what is not started with the daemon.
            for name in names:
                said = client.send_message("start", name=name, match="simple", waiting=True)
                if said.get("status") == "error":
                    raise BenchmarkError(f"circus does not start {name}: {said.get('reason')}")
        finally:
            client.stop()


class Pm2(_Scripts):
    """pm2 with a home of its own, ordered by its command line."""

    def __init__(self, ground: Ground, names: Sequence[str], script: Script, pm2: Path) -> None:
        super().__init__(ground, names, script)
        self._pm2 = pm2
        self._home = self.directory / "pm2"
        self._orders: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        self.start([FIRST])

    def start(self, names: Sequence[str]) -> None:
        apps = [
            {
                "name": name,
                "script": self.commands[name][1],
                "args": self.commands[name][2:],
                "interpreter": self.commands[name][0],
                "cwd": str(self.directory),
            }
            for name in names
        ]
        file = self.directory / f"{names[0]}.config.json"
        file.write_text(json.dumps({"apps": apps}), encoding="utf-8")
        self._orders.append(self._command("start", str(file)))

    def processes(self) -> list[psutil.Process]:
        try:
            return tree(int((self._home / "pm2.pid").read_text(encoding="ascii")))
        except FileNotFoundError:
            return []

    def end(self) -> list[psutil.Process]:
        for order in self._orders:
            try:
                order.wait(60)
            except subprocess.TimeoutExpired:
                order.kill()
                order.wait(5)
        return super().end()

    def _command(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = ENVIRONMENT | {"PM2_HOME": str(self._home), "PM2_DISABLE_VERSION_CHECK": "1"}
        with (self.directory / "pm2.log").open("ab") as log:
            return subprocess.Popen(
                [str(self._pm2), *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def peers(script: Script, pm2: Path | None) -> dict[str, Make]:
    """The peers that are here, by name, each running this script per bot."""
    found: dict[str, Make] = {
        "supervisord": lambda ground, names: Supervisord(ground, names, script),
        "circus": lambda ground, names: Circus(ground, names, script),
    }
    if pm2 is not None:
        found["pm2"] = lambda ground, names: Pm2(ground, names, script, pm2)
    return found


def install_pm2(directory: Path) -> Path | None:
    """pm2's command, found or put into `directory` by npm; None and a printed line without npm."""
    present = shutil.which("pm2")
    if present:
        return Path(present)
    npm = shutil.which("npm")
    if npm is None:
        print("pm2 is left out: there is no npm here", flush=True)
        return None
    directory.mkdir()
    try:
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--silent", "pm2"],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
            check=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        print(f"pm2 is left out: npm cannot install it ({error})", flush=True)
        return None
    return directory / "node_modules" / ".bin" / "pm2"


def _plain_commands(ground: Ground, names: Iterable[str]) -> dict[str, list[str]]:
    host, port, dc, key = (str(part) for part in asdict(ground.address).values())
    script = str(HERE / "plain_bot.py")
    return {
        name: [
            *(sys.executable, script, str(ground.plain_session(name)), ground.tokens[name]),
            *(host, port, dc, key),
        ]
        for name in names
    }


def _fat_commands(ground: Ground, names: Sequence[str]) -> dict[str, list[str]]:
    config = load_config(ground.write_config(names), {})
    address = configured_address(config)
    layout = Layout(ground.directory / ".dims")
    layout.make()
    if address is None:
        raise BenchmarkError("the configuration names no server")
    commands = {}
    for name in names:
        terms = ground.directory / f"{name}.terms.json"
        bot, token = config.bot(name), ground.tokens[name]
        told = worker_terms(config, layout, bot, address, token, storage=None)
        terms.write_text(json.dumps(written(told)), encoding="utf-8")
        commands[name] = [sys.executable, str(HERE / "fat_bot.py"), str(terms)]
    return commands


def _of_directory(state: Path) -> list[psutil.Process]:
    """Processes of DIMS whose command line or working directory names this state directory."""
    found = []
    for process in psutil.process_iter():
        try:
            named = str(state) in " ".join(process.cmdline())
            if process.pid != os.getpid() and (named or process.cwd() == str(state.parent)):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
