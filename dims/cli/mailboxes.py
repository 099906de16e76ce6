"""An operator's way to a bot's mail: its worker while it runs, else the files themselves.

Asks no brain: mail can be seen while the supervisor is dead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dims.cli.where import Where
from dims.errors import AlreadyRunningError, NotRunningError, StateError, UsageError
from dims.ipc.grants import OPERATOR
from dims.ipc.links.control_client import ControlClient
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.ipc.wire.framing import encode_payload
from dims.ipc.wire.ids import new_id
from dims.system.clock import SYSTEM

BELATED_S = 1.0
"""How long a worker between opening its mailbox and its socket is waited for."""
LOOK_S = 0.05


def bots_with_mailbox(place: Where) -> list[str]:
    """All bots that have a mailbox; NotRunningError when nothing was ever started."""
    try:
        return sorted(entry.name for entry in place.layout.mail.iterdir() if entry.is_dir())
    except FileNotFoundError as error:
        raise NotRunningError(
            f"nothing was ever started on {place.layout.state}",
            hint="`dims start --all` starts it",
        ) from error


def chosen(place: Where, wanted: tuple[str, ...]) -> list[str]:
    """The bots that ids and globs name, or all; UsageError for one that names none."""
    from fnmatch import fnmatchcase  # noqa: PLC0415 (only with globs)

    known = bots_with_mailbox(place)
    if not wanted:
        return known
    found: dict[str, None] = {}
    for pattern in wanted:
        matching = [bot for bot in known if fnmatchcase(bot, pattern)]
        if not matching:
            raise _no_mailbox(pattern, known)
        found.update(dict.fromkeys(matching))
    return list(found)


def ask(place: Where, bot: str, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What the bot's mailbox answers; with `live` saying whether its worker did.

    Raises UsageError, RefusedError and StateError as `dims.ipc.mailbox.files.mail_inspection` does.
    """
    until_s = SYSTEM.monotonic() + BELATED_S
    while True:
        try:
            with ControlClient(place.layout.peer_socket(bot), timeout_s=30.0) as worker:
                return {**worker.request(kind, body), "live": True}
        except NotRunningError:
            try:
                return {**_ask_files(place, bot, kind, body), "live": False}
            except AlreadyRunningError:
                if SYSTEM.monotonic() > until_s:
                    raise
                time.sleep(LOOK_S)


def deliver(place: Where, message: Envelope, timeout_s: float) -> dict[str, Any]:
    """Hands a message to the running bot; its reply if it wants one.

    Raises NotRunningError when the bot does not run or takes no messages.
    """
    bot = message.recipient
    try:
        with ControlClient(place.layout.peer_socket(bot), timeout_s=timeout_s) as worker:
            return worker.request("mail.deliver", {"message": message.to_wire()})
    except NotRunningError as error:
        raise NotRunningError(
            f"{bot} does not run, or has no handlers for messages",
            hint="without --request and --ephemeral the message waits for it",
        ) from error


def post(place: Where, message: Envelope) -> None:
    """Puts a message into a mailbox; it is on the disk when this returns. Raises StateError."""
    from dims.ipc.mailbox.files.doorbell import Ringer  # noqa: PLC0415
    from dims.ipc.mailbox.files.file_names import Writer  # noqa: PLC0415
    from dims.ipc.mailbox.files.records import RECORD_LIMIT_BYTES, pack  # noqa: PLC0415
    from dims.ipc.mailbox.files.segment import SegmentWriter, sync_directory  # noqa: PLC0415

    payload = encode_payload(message, RECORD_LIMIT_BYTES)
    directory = place.layout.mail / message.recipient
    _become_owner(directory)
    try:
        # Many commands may write at once, and one file has one writer.
        writer = Writer(f"{OPERATOR}+{os.getpid()}")
        segment = SegmentWriter.create(directory, writer, message.priority)
        try:
            segment.append(pack(payload))
            segment.sync()
            sync_directory(directory)
        finally:
            segment.close()
    except OSError as error:
        raise StateError(f"cannot write to {directory}: {error.strerror}") from error
    ringer = Ringer(place.layout.doorbell)
    ringer.ring(message.recipient, segment.path.name)
    ringer.close()


def message_of(
    bot: str,
    kind: str,
    body: Mapping[str, Any],
    priority: Priority,
    expires_in_s: float | None,
    *,
    asks: bool,
) -> Envelope:
    """An operator's message."""
    return Envelope(
        new_id(),
        kind,
        Address(OPERATOR),
        Address(bot),
        priority,
        body=body,
        wants_reply=asks,
        expires_s=None if expires_in_s is None else SYSTEM.utc() + expires_in_s,
    )


def _ask_files(place: Where, bot: str, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    from dims.ipc.mailbox.files import mail_inspection as inspection  # noqa: PLC0415 (SQLite: not for running bots)
    from dims.ipc.mailbox.files.mailbox import Mailbox  # noqa: PLC0415

    directory = place.layout.mail / bot
    if not directory.is_dir():
        raise _no_mailbox(bot, bots_with_mailbox(place))
    _become_owner(directory)
    try:
        mailbox = Mailbox(directory)
    except OSError as error:
        raise StateError(f"{directory} cannot be read: {error.strerror}") from error
    try:
        return inspection.answer(mailbox, kind, body, SYSTEM.utc())
    finally:
        mailbox.close()


def _become_owner(directory: Path) -> None:
    """Root may look at another user's fleet, and must leave no file there that he cannot read."""
    info = directory.stat()
    if os.geteuid() == 0 and info.st_uid != 0:
        os.setegid(info.st_gid)
        os.seteuid(info.st_uid)


def _no_mailbox(wanted: str, known: list[str]) -> UsageError:
    import difflib  # noqa: PLC0415 (only for a mistyped name)

    near = difflib.get_close_matches(wanted, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return UsageError(f"there is no mailbox {wanted!r}{meant}", hint=f"known: {', '.join(known)}")
