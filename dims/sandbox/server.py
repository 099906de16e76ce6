"""The sandbox as a whole: opens state, listens, closes. The one place that chooses the parts."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from dims.errors import ServiceError, StateError
from dims.ipc.links.request_server import RequestServer
from dims.ipc.wire.envelope import Address
from dims.sandbox.connection import Connection, Context
from dims.sandbox.control import Control
from dims.sandbox.drills import outage_end
from dims.sandbox.mtproto import keys
from dims.sandbox.mtproto.door import BACKLOG, HOST, Door, bind
from dims.sandbox.mtproto.session import SaltShaker
from dims.sandbox.rpc.call import ListenAddress
from dims.sandbox.telegram.hub import Hub
from dims.sandbox.telegram.keyring import Keyring
from dims.sandbox.telegram.world import World
from dims.sandbox.telegram.world_store import WorldStore
from dims.system.clock import SYSTEM

DC_ID = 2
SOCKET_PATH_LIMIT_BYTES = 107
"""Length of sun_path on Linux without its final zero (unix(7))."""

_log = logging.getLogger(__name__)


class Sandbox:
    """A local Telegram in one directory. `start` it, use `address`, `close` it."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        control: Path | None = None,
        clock: Callable[[], float] = SYSTEM.utc,
    ) -> None:
        self._directory = directory
        self._port = port
        self._control_path = control
        self._clock = clock
        self._door: Door | None = None
        self._outage_timer: asyncio.TimerHandle | None = None
        self._control: RequestServer | None = None
        self._store: WorldStore | None = None
        self.stopped = asyncio.Event()
        self.hub: Hub
        self.address: ListenAddress

    async def start(self) -> None:
        """Opens the state and listens; raises StateError or ServiceError and leaves nothing."""
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Saves, ends all connections and removes the control socket; closing twice is fine."""
        if self._control is not None:
            await self._control.close()
            self._control = None
            if self._control_path is not None:
                self._control_path.unlink(missing_ok=True)
        if self._outage_timer is not None:
            self._outage_timer.cancel()
        if self._door is not None:
            await self._door.close()
            self._door = None
            for link in list(self.hub.links):
                link.cut()
        if self._store is not None:
            self._store.close()
            self._store = None
        self.stopped.set()

    async def _start(self) -> None:
        self._prepare_directory()
        server_key = keys.load_or_make(self._directory)
        self._store = WorldStore(self._directory / "sandbox.sqlite3")
        secret = self._store.secret()
        world, keyring = World(secret, self._store.messages_of), Keyring()
        self._store.load(world, keyring)
        self.hub = Hub(world, keyring, self._store, self._clock)
        listener = self._listen()
        self.address = ListenAddress(
            HOST, listener.getsockname()[1], DC_ID, str(self._directory / "public.pem")
        )
        context = Context(self.hub, server_key, SaltShaker(secret), self.address)
        self._door = Door(listener, lambda: Connection(context))
        await self._door.open()
        self.hub.on_faults = self._heed_outage
        if self._control_path is not None:
            await self._serve_control(self._control_path)
        text = json.dumps(self.address.to_json())
        keys.write_file(self._directory / "address.json", text + "\n", 0o644)

    def _heed_outage(self) -> None:
        if self._outage_timer is not None:
            self._outage_timer.cancel()
            self._outage_timer = None
        loop = asyncio.get_running_loop()
        end_s = outage_end(self.hub.faults, loop.time())
        if self._door is not None:
            self._door.want(is_open=end_s is None)
        if end_s is not None and end_s != float("inf"):
            self._outage_timer = loop.call_at(end_s, self._heed_outage)

    def _prepare_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{self._directory} cannot be made: {error.strerror}") from error

    def _listen(self) -> socket.socket:
        if self._port:
            return bind(self._port)
        last = self._last_port()
        if last:
            try:
                return bind(last)
            except ServiceError:
                _log.info("the former port %d is taken, taking another", last)
        return bind(0)

    def _last_port(self) -> int:
        try:
            port = json.loads((self._directory / "address.json").read_text("utf-8"))["port"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return port if isinstance(port, int) and 0 < port < 65_536 else 0

    async def _serve_control(self, path: Path) -> None:
        control = Control(self.hub, self.address, self.stopped)
        listener = listen_unix(path)
        self._control = RequestServer(listener, control.handle, name=Address("service/sandbox"))
        await self._control.start()


def listen_unix(path: Path) -> socket.socket:
    """A listening Unix socket with mode 0600; replaces a dead one.

    Raises ServiceError when somebody listens there or the path cannot be used.
    """
    if len(str(path).encode()) > SOCKET_PATH_LIMIT_BYTES:
        raise ServiceError(
            f"{path} is too long for a Unix socket", hint="use a shorter runtime directory"
        )
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ServiceError(f"{path} cannot be used: {error.strerror}") from error
    else:
        raise ServiceError(
            f"another process listens on {path}", hint="stop it, or use another --control"
        )
    finally:
        probe.close()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ServiceError(f"cannot listen on {path}: {error.strerror}") from error
    return listener
