"""The sandbox's memory on disk: one SQLite file that only this process opens.

Keys and accounts are committed before anybody is told of them. Messages gather and are committed
in one transaction some milliseconds later: the caller decides when by calling `flush`. A process
killed in between loses them, so after an unclean end ids and pts skip ahead: what a client was told
once never means something else later.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from telethon.tl.tlobject import TLObject

from dims.sandbox.mtproto import wire
from dims.sandbox.telegram.accounts import Bot, Persona
from dims.sandbox.telegram.box import ChatMessage, UserId
from dims.sandbox.telegram.keyring import AuthKey, Keyring
from dims.sandbox.telegram.world import World
from dims.system.state_file import Form, open_state_file, refusal

SKIP_AFTER_CRASH = 1_000
"""More than can be told to a client within one flush interval, per bot."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS auth_key (
    id BLOB PRIMARY KEY, key BLOB NOT NULL, account_id INTEGER, is_duplicated INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS bot (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, username TEXT NOT NULL UNIQUE,
    token TEXT NOT NULL UNIQUE, token_generation INTEGER NOT NULL, pts INTEGER NOT NULL,
    last_message_id INTEGER NOT NULL, delivered_pts INTEGER NOT NULL, commands TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS persona (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, username TEXT
);
CREATE TABLE IF NOT EXISTS message (
    bot_id INTEGER NOT NULL, id INTEGER NOT NULL, peer_id INTEGER NOT NULL, out INTEGER NOT NULL,
    date_s INTEGER NOT NULL, text TEXT NOT NULL, entities BLOB, markup BLOB, reply_to INTEGER,
    random_id INTEGER, edit_date_s INTEGER, created_pts INTEGER NOT NULL,
    edited_pts INTEGER NOT NULL, deleted_pts INTEGER NOT NULL,
    PRIMARY KEY (bot_id, id)
) WITHOUT ROWID;
"""
_FORM = Form(
    _SCHEMA,
    1,
    # Safe against kill -9 of us; a power cut may lose the last commits, never the file.
    ("locking_mode = EXCLUSIVE", "synchronous = NORMAL"),
    "accounts and messages start anew",
    patience_s=0.2,
)
_SAVE_BOT = "REPLACE INTO bot VALUES (?,?,?,?,?,?,?,?,?)"
_FORGET_MESSAGE = "DELETE FROM message WHERE bot_id = ? AND id = ?"
_SAVE_MESSAGE = "REPLACE INTO message VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"


class WorldStore:
    """The open file; raises StateError when it cannot be used, AlreadyRunningError when it is.

    So does whatever reads or writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_state_file(path, _FORM)
        self._dirty_bots: dict[UserId, Bot] = {}
        self._dirty_messages: dict[tuple[UserId, int], ChatMessage] = {}
        self._forgotten: list[tuple[UserId, int]] = []

    @property
    def is_dirty(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._dirty_bots or self._dirty_messages)

    def secret(self) -> bytes:
        """32 random bytes, the same for the life of the file."""
        rows = self._run("SELECT value FROM meta WHERE name = 'secret'")
        if not rows:
            rows = [(secrets.token_bytes(32),)]
            self._run("INSERT INTO meta VALUES ('secret', ?)", rows[0])
        return bytes(rows[0][0])

    def load(self, world: World, keyring: Keyring) -> None:
        """Fills both; boxes come later, through `messages_of`. Marks the file as in use."""
        was_clean = self._run("DELETE FROM meta WHERE name = 'clean' RETURNING name")
        skip = 0 if was_clean else SKIP_AFTER_CRASH
        for row in self._run("SELECT * FROM bot"):
            bot = _bot(row)
            if bot.last_message_id:
                bot.last_message_id += skip
                bot.pts += skip
                self._dirty_bots[bot.id] = bot
            world.add_bot(bot)
        for row in self._run("SELECT * FROM persona"):
            world.add_persona(Persona(*row))
        for key_id, key, account_id, is_duplicated in self._run("SELECT * FROM auth_key"):
            keyring.add(AuthKey(key_id, key, account_id, bool(is_duplicated)))
        self.flush()

    def messages_of(self, bot_id: UserId) -> Iterator[ChatMessage]:
        """All messages of a bot, by id."""
        query = "SELECT * FROM message WHERE bot_id = ? ORDER BY id"
        for row in self._run(query, (bot_id,)):
            yield ChatMessage(
                id=row[1],
                peer_id=row[2],
                out=bool(row[3]),
                date_s=row[4],
                text=row[5],
                entities=tuple(wire.parse(row[6])) if row[6] else (),
                markup=wire.parse(row[7]) if row[7] else None,
                reply_to=row[8],
                random_id=row[9],
                edit_date_s=row[10],
                created_pts=row[11],
                edited_pts=row[12],
                deleted_pts=row[13],
            )

    def save_key(self, key: AuthKey) -> None:
        """Durable when it returns."""
        row = (key.id, key.key, key.account_id, key.is_duplicated)
        self._run("REPLACE INTO auth_key VALUES (?,?,?,?)", row)

    def remove_key(self, key: AuthKey) -> None:
        """Durable when it returns."""
        self._run("DELETE FROM auth_key WHERE id = ?", (key.id,))

    def save_bot(self, bot: Bot) -> None:
        """Durable when it returns."""
        self._run(_SAVE_BOT, _bot_row(bot))

    def save_persona(self, persona: Persona) -> None:
        """Durable when it returns."""
        row = (persona.id, persona.name, persona.username)
        self._run("REPLACE INTO persona VALUES (?,?,?)", row)

    def save_later(self, bot: Bot, messages: tuple[ChatMessage, ...] = ()) -> None:
        """Durable after the next `flush`."""
        self._dirty_bots[bot.id] = bot
        for message in messages:
            self._dirty_messages[bot.id, message.id] = message

    def forget_later(self, bot: Bot, message_ids: list[int]) -> None:
        """Removed for good by the next `flush`."""
        for message_id in message_ids:
            self._dirty_messages.pop((bot.id, message_id), None)
            self._forgotten.append((bot.id, message_id))

    def flush(self) -> None:
        """Commits what waits, in one transaction; raises StateError and keeps it if that fails."""
        if not self.is_dirty:
            return
        try:
            self._commit()
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise refusal(self._path, _FORM, error) from error
        self._dirty_bots.clear()
        self._dirty_messages.clear()
        self._forgotten.clear()

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise refusal(self._path, _FORM, error) from error

    def _commit(self) -> None:
        messages = self._dirty_messages.items()
        rows = (_message_row(bot_id, message) for (bot_id, _), message in messages)
        self._db.execute("BEGIN")
        self._db.executemany(_SAVE_BOT, map(_bot_row, self._dirty_bots.values()))
        self._db.executemany(_SAVE_MESSAGE, rows)
        self._db.executemany(_FORGET_MESSAGE, self._forgotten)
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Commits, and notes that the end was clean."""
        try:
            self.flush()
            self._run("REPLACE INTO meta VALUES ('clean', 1)")
        finally:
            self._db.close()


def _bot(row: tuple[Any, ...]) -> Bot:
    return Bot(
        id=row[0],
        name=row[1],
        username=row[2],
        token=row[3],
        token_generation=row[4],
        pts=row[5],
        last_message_id=row[6],
        delivered_pts=row[7],
        commands=json.loads(row[8]),
    )


def _bot_row(bot: Bot) -> tuple[object, ...]:
    return (
        bot.id,
        bot.name,
        bot.username,
        bot.token,
        bot.token_generation,
        bot.pts,
        bot.last_message_id,
        bot.delivered_pts,
        json.dumps(bot.commands),
    )


def _message_row(bot_id: UserId, message: ChatMessage) -> tuple[object, ...]:
    return (
        bot_id,
        message.id,
        message.peer_id,
        message.out,
        message.date_s,
        message.text,
        wire.pack_value(list(message.entities)) if message.entities else None,
        bytes(message.markup) if isinstance(message.markup, TLObject) else None,
        message.reply_to,
        message.random_id,
        message.edit_date_s,
        message.created_pts,
        message.edited_pts,
        message.deleted_pts,
    )
