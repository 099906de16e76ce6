"""A bot's Telegram session on disk: auth key, entities, and up to where updates are finished.

Two files, both 0600. `BOT.session` is JSON, replaced as a whole, the key fsynced before it is used.
`BOT.updates` is one fixed record, rewritten in place with one pwrite, which a kill cannot tear.
Telethon's own save of the update state runs every 60 s and knows nothing of handlers in hand, so
what it says is kept in memory only; `Watermark` decides what goes to disk.
"""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from telethon.crypto import AuthKey
from telethon.sessions import MemorySession
from telethon.tl.types import Updates, UpdateShortSentMessage
from telethon.tl.types.messages import AffectedMessages
from telethon.tl.types.updates import Difference, DifferenceSlice, State

from dims.layout import PRIVATE_FILE

_RECORD = struct.Struct(">4sqqqqI")
_MAGIC = b"DUS1"
ENTITIES_LIMIT = 5_000
"""As many as Telethon's own cache holds by default."""


class UpdateStateFile:
    """The stored update state: (pts, qts, date, seq), date in seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)

    def read(self) -> tuple[int, int, int, int] | None:
        """What was stored last; None when nothing sound is there."""
        raw = os.pread(self._descriptor, _RECORD.size, 0)
        if len(raw) != _RECORD.size:
            return None
        magic, pts, qts, date, seq, check = _RECORD.unpack(raw)
        if magic != _MAGIC or check != zlib.crc32(raw[:-4]):
            return None
        return pts, qts, date, seq

    def write(self, pts: int, qts: int, date: int, seq: int) -> None:
        """Stores a state in the kernel's page cache: survives any kill of this process.

        No effect once closed.
        """
        if self._descriptor < 0:
            return
        head = _RECORD.pack(_MAGIC, pts, qts, date, seq, 0)[:-4]
        os.pwrite(self._descriptor, head + struct.pack(">I", zlib.crc32(head)), 0)

    def close(self) -> None:
        """Closes the file; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileSession(MemorySession):
    """A MemorySession that is kept in files."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._saved: bytes = b""
        self._auth_key: Any
        self.updates = UpdateStateFile(path.with_suffix(".updates"))
        self.offered: Any = None
        """The update state that Telethon wanted stored last, or None."""
        self.on_state: Callable[[Any], None] | None = None
        """Gets each updates.State that Telegram answers."""
        self.on_own: Callable[[int, int], None] | None = None
        """Gets the pts before and after each request that changed something itself."""
        self.on_difference: Callable[[list[Any], int], None] | None = None
        """Gets the new messages of each getDifference, and the pts they lead to."""
        self._load()

    def set_update_state(self, entity_id: int, state: Any) -> None:
        """Called by Telethon every 60 s and when it disconnects."""
        super().set_update_state(entity_id, state)
        if entity_id == 0:
            self.offered = state

    def process_entities(self, tlo: Any) -> None:
        """Called by Telethon with every answer, before it acts on it.

        Updates that are pushed come wrapped in another type, so each Updates here is an answer.
        """
        super().process_entities(tlo)
        match tlo:
            case Difference() if self.on_difference is not None:
                self.on_difference(tlo.new_messages, tlo.state.pts)
            case DifferenceSlice() if self.on_difference is not None:
                self.on_difference(tlo.new_messages, tlo.intermediate_state.pts)
            case State() if self.on_state is not None:
                self.on_state(tlo)
            case UpdateShortSentMessage() | AffectedMessages() if self.on_own is not None:
                self.on_own(tlo.pts - tlo.pts_count, tlo.pts)
            case Updates() if self.on_own is not None:
                for update in tlo.updates:
                    if has_pts(update):
                        self.on_own(update.pts - update.pts_count, update.pts)

    def peers(self) -> set[tuple[int, int]]:
        """(marked id, access hash) of all entities that are known without the network."""
        return {(int(row[0]), int(row[1])) for row in self._entities}

    def aim(self, dc: int, host: str, port: int) -> None:
        """Points at the server; a key of another data centre or address is dropped."""
        if self._auth_key is not None and dc != self._dc_id:
            self._auth_key = None
        self.set_dc(dc, host, port)

    def give_key(self, dc: int, key: bytes) -> None:
        """Takes over a key that was made elsewhere, and stores it."""
        self._dc_id, self._auth_key = dc, AuthKey(key)
        self.save()

    def save(self) -> None:
        """Stores key and entities if they changed. Called by Telethon and at the end."""
        content = json.dumps(self._content(), separators=(",", ":")).encode("utf-8")
        if content == self._saved:
            return
        new_key = not self._saved
        temporary = self._path.with_suffix(".session.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if new_key:
                # Losing a key costs a rationed cold login; losing an entity costs one request.
                os.fsync(file.fileno())
        temporary.replace(self._path)
        self._saved = content

    def close(self) -> None:
        """Called by Telethon when it disconnects."""
        self.save()

    def delete(self) -> None:
        """Called by Telethon after a log-out: the key is worthless now."""
        self._path.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any]:
        key = self._auth_key.key if self._auth_key is not None else None
        entities = list(self._entities)[-ENTITIES_LIMIT:]
        return {
            "version": 1,
            "dc": self._dc_id,
            "key": base64.b64encode(key).decode("ascii") if key else None,
            "entities": sorted(entities, key=lambda row: int(row[0])),
        }

    def _load(self) -> None:
        try:
            self._saved = self._path.read_bytes()
            content = json.loads(self._saved)
            key = content["key"]
            self._dc_id = int(content["dc"])
            self._auth_key = AuthKey(base64.b64decode(key)) if key else None
            self._entities = {tuple(row) for row in content["entities"]}
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError):
            # A torn or foreign file: set aside for a look, and log in anew.
            self._saved = b""
            self._path.replace(self._path.with_suffix(".session.damaged"))
        state = self.updates.read()
        if state is not None and self._auth_key is not None:
            pts, qts, date, seq = state
            moment = datetime.fromtimestamp(date, UTC)
            self._update_states[0] = State(pts, qts, moment, seq, unread_count=0)


def has_pts(update: Any) -> bool:
    """Whether the update counts in the account's own pts; each channel has a pts of its own.

    0 is Telethon's mark for "none" (`NO_SEQ`), on what came by getDifference.
    """
    is_of_channel = "Channel" in type(update).__name__
    return bool(getattr(update, "pts", 0)) and hasattr(update, "pts_count") and not is_of_channel
