"""The directories of one embedded server. Knows who must be able to enter which; no contents.

An ordinary user's server runs as that user, and its files lie in the state directory:

    <state>/<server>/                 0700

Root's server runs as somebody else, who cannot pass root's 0700 state directory. Opening that
directory, or any parent of it, for somebody else is refused: it holds sessions. So the data lie
outside, and the state directory says where:

    <state>/embedded.home             names <system>/<id>, in a line
    <system>/                         0755 root; /var/lib/dims
    <system>/<id>/                    0711 root; <id> is random
    <system>/<id>/state               the state directory it belongs to: for people, and to
                                      recognise a copied state directory
    <system>/<id>/<server>/           0711 root; the server's user owns only `data` in it

The name is random and not made of the state directory's device and inode: those are given to other
directories once this one is removed, and device numbers change at boots (btrfs, overlayfs). Who
removes a state directory may remove the directory it names as well; a state directory that is
moved takes its data along, one that is copied is refused.

Sockets lie in `<runtime>-<server>`, beside the runtime directory, which only the fleet's user
may pass: 0700, of the server's user. Root reaches it all the same.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from dims.errors import ServiceError
from dims.layout import PRIVATE_DIR, server_sockets
from dims.storage.embedded.server_user import Account
from dims.system import sealed as seal

SYSTEM = Path("/var/lib/dims")
POINTER = "embedded.home"
PASSABLE = 0o711
LONGEST_SOCKET_BYTES = 107
"""Of a path, from unix(7)."""


@dataclass(frozen=True, slots=True)
class Home:
    """Where one server's files lie."""

    files: Path
    """Only we can make files here; the server may pass."""
    sockets: Path
    """Not made yet."""

    @property
    def data(self) -> Path:
        """The server's own directory; made by whoever prepares the server."""
        return self.files / "data"

    @property
    def alive(self) -> Path:
        """Locked by every process of the server for as long as it lives."""
        return self.files / "alive"

    def socket(self, name: str) -> Path:
        """The path of a socket. Raises ServiceError when the kernel would not take it."""
        path = self.sockets / name
        if len(os.fsencode(path)) > LONGEST_SOCKET_BYTES:
            raise ServiceError(
                f"the path of the socket is too long, {path} has over {LONGEST_SOCKET_BYTES} bytes",
                hint="take a shorter runtime directory",
            )
        return path

    def make_sockets(self, account: Account | None) -> None:
        """Makes the directory of sockets, empty: what a killed server left there is removed.

        Raises ServiceError when somebody else made it before.
        """
        _make_directory(self.sockets, PRIVATE_DIR, account)
        for left in self.sockets.iterdir():
            left.unlink()

    def remove_sockets(self) -> None:
        """Removes the directory of sockets and what is left in it."""
        if self.sockets.is_dir():
            for left in self.sockets.iterdir():
                left.unlink()
            self.sockets.rmdir()


def find_home(server: str, state: Path, runtime: Path, system: Path = SYSTEM) -> Home:
    """The home of a server of the fleet with these directories, made where it is missing.

    Raises ServiceError when it cannot be made, or is another's.
    """
    try:
        if os.geteuid() != 0:
            files = state / server
            _make_directory(files, PRIVATE_DIR)
        else:
            root = _root_home(state, system)
            files = root / server
            _make_directory(files, PASSABLE)
    except OSError as error:
        raise ServiceError(f"cannot make the directories of {server}: {error}") from error
    return Home(files, server_sockets(runtime, server))


def make_data(path: Path, account: Account | None) -> None:
    """Makes an empty directory that belongs to the server."""
    path.mkdir(mode=PRIVATE_DIR)
    if account is not None:
        os.chown(path, account.uid, account.gid)


def check_data(data: Path, account: Account | None) -> None:
    """Raises ServiceError when the data belong to somebody else than the server's user."""
    uid = os.geteuid() if account is None else account.uid
    name = "you" if account is None else account.name
    info = data.lstat()
    if info.st_uid != uid or not stat.S_ISDIR(info.st_mode):
        raise ServiceError(
            f"{data} belongs to user {info.st_uid}, the server runs as {name} ({uid})",
            hint=f"run DIMS as the user it belongs to, or: chown -R {uid} {data}",
        )


def _root_home(state: Path, system: Path) -> Path:
    _make_system(system)
    root = _pointed(state, system)
    _make_directory(root, PASSABLE)
    _claim(root, state.resolve())
    return root


def _make_system(system: Path) -> None:
    """Makes the one directory that others may name; one that exists is looked at, not changed."""
    try:
        system.mkdir(mode=PRIVATE_DIR)
        system.chmod(0o755)
    except FileExistsError:
        info = system.stat()
        if info.st_uid != 0 or info.st_mode & 0o022 or not info.st_mode & 0o001:
            raise ServiceError(
                f"{system} is to be root's, to be entered by all and changed by nobody else",
                hint=f"chown root {system}; chmod 755 {system}",
            ) from None


def _pointed(state: Path, system: Path) -> Path:
    """The directory that the pointer names; a new one is named where there is no pointer."""
    pointer = state / POINTER
    if not pointer.exists():
        new = state / f"{POINTER}.{secrets.token_hex(8)}"
        seal.write(new, str(system / secrets.token_hex(8)))
        try:
            # Another server may name the home at this very moment: the first one wins.
            os.link(new, pointer)
        except FileExistsError:
            pass
        finally:
            new.unlink()
    root = Path(pointer.read_text(encoding="utf-8").strip())
    if root.parent != system:
        raise ServiceError(f"{pointer} names {root}, which does not lie in {system}")
    return root


def _claim(root: Path, state: Path) -> None:
    """Notes whose home it is; raises ServiceError when that other state directory still uses it."""
    note = root / "state"
    noted = Path(note.read_text(encoding="utf-8").strip()) if note.exists() else None
    if noted == state:
        return
    if noted is not None and _names(noted, root) and not noted.samefile(state):
        raise ServiceError(
            f"{state} is a copy of {noted}, to which the data in {root} belong",
            hint=f"copy {root} as well and let {state / POINTER} name the copy",
        )
    partial = root / f"state.{secrets.token_hex(8)}"
    partial.write_text(f"{state}\n", encoding="utf-8")
    partial.rename(note)


def _names(state: Path, root: Path) -> bool:
    try:
        return (state / POINTER).read_text(encoding="utf-8").strip() == str(root)
    except FileNotFoundError:
        return False


def _make_directory(path: Path, mode: int, account: Account | None = None) -> None:
    """Makes a directory with exactly this owner and mode, or finishes one of ours that a kill left
    half made. Raises ServiceError when somebody else's thing is in the way."""
    ours = os.geteuid()
    uid = ours if account is None else account.uid
    path.mkdir(mode=PRIVATE_DIR, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (ours, uid):
        raise ServiceError(f"{path} belongs to somebody else", hint="remove it")
    if account is not None and info.st_uid != uid:
        os.chown(path, uid, account.gid)
    if stat.S_IMODE(info.st_mode) != mode:
        path.chmod(mode)
