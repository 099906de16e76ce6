"""Where everything lies: the state directory and the runtime directory. Knows names, not contents.

The state directory (default `.dims` beside bots.yaml) outlives everything. Sockets lie apart, in a
short runtime directory, because the kernel takes 107 bytes of a socket's path (unix(7)).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dims.errors import NotRunningError, StateError

PRIVATE_DIR = 0o700
PRIVATE_FILE = 0o600
STATE_DIR_VARIABLE = "DIMS_STATE_DIR"
CONFIG_VARIABLE = "DIMS_CONFIG"
DEFAULT_CONFIG = "bots.yaml"
SERVERS = ("postgres", "valkey")
"""Those that DIMS brings along."""
_PEER, _BELL = ".peer", ".bell"


def state_path(config: Path, given: str | None) -> Path:
    """The state directory: `given`, else beside the configuration file. Absolute, not made."""
    return Path(given).absolute() if given else config.absolute().parent / ".dims"


def peer_socket(runtime: Path, bot: str) -> Path:
    """Where a bot's worker meets the workers of other bots, and operators who look at its mail."""
    return runtime / f"{bot}{_PEER}"


def doorbell(runtime: Path, recipient: str) -> Path:
    """Where the reader of a mailbox is told that there is mail."""
    return runtime / f"{recipient}{_BELL}"


def server_sockets(runtime: Path, server: str) -> Path:
    """The directory of an embedded server's socket, which another user may own (see
    `dims.storage.embedded.home`)."""
    return runtime.with_name(f"{runtime.name}-{server}")


class Layout:
    """The paths below one state directory, which is `state`."""

    # No dataclass: every command builds this module, and generating one costs a millisecond.
    __slots__ = ("state",)

    def __init__(self, state: Path) -> None:
        self.state = state

    @property
    def lock(self) -> Path:
        """Locked by the keeper for as long as it lives."""
        return self.state / "lock"

    @property
    def brain_lock(self) -> Path:
        """Locked by the brain for as long as it lives."""
        return self.state / "brain.lock"

    @property
    def database(self) -> Path:
        """Desired state and events; opened by the brain only."""
        return self.state / "state.db"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.state / "logs"

    @property
    def sessions(self) -> Path:
        """One session per bot."""
        return self.state / "sessions"

    @property
    def leases(self) -> Path:
        """One lock per bot: the right to run its session."""
        return self.state / "leases"

    @property
    def sandbox(self) -> Path:
        """What the local Telegram keeps."""
        return self.state / "sandbox"

    @property
    def runtime(self) -> Path:
        """The directory of the sockets, the same for every command on this state directory.

        Named by the state directory's device and inode, which no other on this host shares,
        whatever path leads there. Raises NotRunningError while there is no state directory.
        """
        try:
            info = self.state.stat()
        except OSError as error:
            raise NotRunningError(
                f"nothing was ever started on {self.state}", hint="`dims start --all` starts it"
            ) from error
        # /run and not $XDG_RUNTIME_DIR, which a logout removes while the fleet goes on.
        # The owner decides, not the caller: root may steer another user's fleet.
        base = "/run" if info.st_uid == 0 and Path("/run").is_dir() else "/tmp"  # noqa: S108
        return Path(base) / f"dims-{info.st_uid}-{info.st_dev:x}-{info.st_ino:x}"

    @property
    def control_socket(self) -> Path:
        """Where the brain answers commands."""
        return self.runtime / "control.sock"

    @property
    def bot_socket(self) -> Path:
        """Where workers and services meet the brain."""
        return self.runtime / "bot.sock"

    @property
    def sandbox_socket(self) -> Path:
        """Where the sandbox answers commands."""
        return self.runtime / "sandbox.sock"

    def server_sockets(self, server: str) -> Path:
        """As the function does, in this runtime directory."""
        return server_sockets(self.runtime, server)

    @property
    def mail(self) -> Path:
        """One mailbox per recipient."""
        return self.state / "mail"

    def peer_socket(self, bot: str) -> Path:
        """As the function does, in this runtime directory."""
        return peer_socket(self.runtime, bot)

    def doorbell(self, recipient: str) -> Path:
        """As the function does, in this runtime directory."""
        return doorbell(self.runtime, recipient)

    def log(self, name: str) -> Path:
        """The log of a process: `keeper`, `brain`, `zygote`, `sandbox` or a bot's id."""
        return self.logs / f"{name}.log"

    def session(self, bot: str) -> Path:
        """The session of a bot."""
        return self.sessions / f"{bot}.session"

    def update_state(self, bot: str) -> Path:
        """Up to which update a bot's handlers have finished."""
        return self.sessions / f"{bot}.updates"

    def lease(self, bot: str) -> Path:
        """The lease of a bot."""
        return self.leases / f"{bot}.lease"

    def make(self) -> None:
        """Makes the state directory and what is below it, private to this user.

        Raises StateError when it cannot be made or written, or belongs to somebody else.
        """
        for directory in (self.state, self.logs, self.sessions, self.leases, self.mail):
            _make_private(directory)

    def remove_worker_sockets(self) -> None:
        """Removes what workers that were killed left in the runtime directory. No worker may
        run."""
        for suffix in (_PEER, _BELL):
            for path in self.runtime.glob(f"*{suffix}"):
                path.unlink(missing_ok=True)

    def remove_server_sockets(self) -> None:
        """Removes what embedded servers that were killed left. None may run."""
        for server in SERVERS:
            sockets = self.server_sockets(server)
            if not _is_real_directory(sockets):
                # In /tmp anybody may put a link there, to a directory that is dear to us.
                continue
            for path in sockets.glob("*"):
                path.unlink(missing_ok=True)
            sockets.rmdir()

    def make_runtime(self) -> None:
        """Makes the runtime directory; raises StateError when it is not ours alone."""
        _make_private(self.runtime)


def _is_real_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _make_private(directory: Path) -> None:
    hint = "give another with --state-dir, for instance: dims run BOT --state-dir ~/.dims-state"
    try:
        directory.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
        info = directory.lstat()
    except (FileExistsError, NotADirectoryError) as error:
        raise StateError(f"{directory} is not a directory", hint=hint) from error
    except OSError as error:
        raise StateError(f"cannot make {directory}: {error.strerror}", hint=hint) from error
    if stat.S_ISLNK(info.st_mode):
        info = directory.stat()
    if info.st_uid != os.geteuid() and os.geteuid() != 0:
        raise StateError(f"{directory} belongs to user {info.st_uid}, not to you", hint=hint)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StateError(f"{directory} is not writable", hint=hint)
    if stat.S_IMODE(info.st_mode) & 0o077:
        directory.chmod(PRIVATE_DIR)
