"""The tables of today, as SQLAlchemy describes them, with who may do what to each.

Knows no server and no history: how a database comes to look like this is in `dims.migrations`, and
a test holds the two together.

- `bot_id` is the first column of every key, and what every table is hash-partitioned by.
- No foreign keys: between two tables of ten partitions one key is two hundred triggers, which
  every connection of every worker would load, and each insert would pay for. `erase_bot` removes
  what belongs to a bot.
- No sequences: one worker writes for a bot, so it numbers its own rows. A sequence would be
  shared, and show each bot how busy the others are.
- Ids of Telegram are "marked" (users positive, groups negative, channels -100...), as Telethon's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from dims.storage.names import SCHEMA


class Audit(StrEnum):
    """Which changes of a table are written down."""

    ALL = "all"
    CHANGES = "changes"
    """All but what is inserted by the bot itself: its messages are their own record."""
    OTHERS = "others"
    """What anybody but the bot itself does: a queue would double its writes."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class TableRights:
    """Who may do what to a table: privileges as GRANT takes them, with columns where it matters."""

    bot: str
    operator: str
    audit: Audit
    secret: tuple[str, ...] = ()
    """Columns no operator reads and no audit row shows."""
    auditor: str = ""


TERMS = "terms"
"""Key of a table's TableRights in its `info`."""
CHANGE = "SELECT, INSERT, UPDATE, DELETE"
READ = "SELECT"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_1_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def _bot() -> Column[Any]:
    # Collation C: compared byte by byte, whatever the language of somebody's server.
    return Column("bot_id", Text(collation="C"), nullable=False)


def _moment(name: str, *, now: bool = False) -> Column[Any]:
    default = func.now() if now else None
    return Column(name, DateTime(timezone=True), nullable=not now, server_default=default)


def _json(name: str) -> Column[Any]:
    return Column(name, JSONB, nullable=False, server_default=text("'{}'::jsonb"))


def _flag(name: str) -> Column[Any]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _number(name: str, kind: type[Any] = BigInteger, default: str | None = None) -> Column[Any]:
    return Column(name, kind(), nullable=False, server_default=default and text(default))


def _text(name: str, default: str | None = None) -> Column[Any]:
    return Column(name, Text, nullable=False, server_default=default and text(f"'{default}'"))


def _one_of(column: str, *values: str) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _tenant(name: str, terms: TableRights, key: tuple[str, ...], *parts: Any) -> Table:
    return Table(
        name,
        metadata,
        _bot(),
        *parts,
        PrimaryKeyConstraint("bot_id", *key),
        postgresql_partition_by="HASH (bot_id)",
        info={TERMS: terms},
    )


def _index(name: str, *columns: Any, where: str | None = None, unique: bool = False) -> Index:
    condition = None if where is None else text(where)
    return Index(name, "bot_id", *columns, unique=unique, postgresql_where=condition)


bots = _tenant(
    "bots",
    TableRights("SELECT, UPDATE (telegram_id, username, name, updated_at)", CHANGE, Audit.ALL,
          auditor=READ),
    (),
    Column("telegram_id", BigInteger),
    Column("username", Text),
    _text("name", ""),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    CheckConstraint("bot_id ~ '^[a-z][a-z0-9_-]{0,31}$'", name="bot_id"),
)  # fmt: skip
"""The tenants. A bot knows its own row and may say who it is on Telegram, no more."""

bot_settings = _tenant(
    "bot_settings",
    TableRights(CHANGE, CHANGE, Audit.ALL),
    ("key",),
    _text("key"),
    Column("value", JSONB, nullable=False),
    _flag("is_secret"),
    _moment("updated_at", now=True),
)
"""Configuration of a bot. The value of an `is_secret` row is not in the audit log."""

personas = _tenant(
    "personas",
    TableRights(CHANGE, CHANGE, Audit.ALL),
    ("name",),
    _text("name"),
    _text("prompt", ""),
    _json("settings"),
    _flag("is_active"),
    _moment("created_at", now=True),
    _moment("updated_at", now=True),
    _index("personas_active_key", where="is_active", unique=True),
)
"""Whom a bot may speak as; at most one of them is active."""

users = _tenant(
    "users",
    TableRights(CHANGE, READ, Audit.CHANGES),
    ("user_id",),
    _number("user_id"),
    Column("username", Text),
    _text("first_name", ""),
    Column("last_name", Text),
    Column("language", Text),
    _flag("is_bot"),
    _flag("has_blocked"),
    _json("data"),
    _moment("first_seen_at", now=True),
    _moment("last_seen_at", now=True),
    _index("users_last_seen_idx", text("last_seen_at DESC")),
    _index("users_username_idx", text("lower(username)"), where="username IS NOT NULL"),
)
"""People a bot has met."""

chats = _tenant(
    "chats",
    TableRights(CHANGE, READ, Audit.CHANGES),
    ("chat_id",),
    _number("chat_id"),
    _text("kind"),
    Column("title", Text),
    Column("username", Text),
    _flag("has_left"),
    _json("data"),
    _moment("first_seen_at", now=True),
    _moment("last_seen_at", now=True),
    _one_of("kind", "private", "group", "supergroup", "channel"),
    _index("chats_last_seen_idx", text("last_seen_at DESC")),
)
"""Where a bot speaks."""

conversations = _tenant(
    "conversations",
    TableRights(CHANGE, READ, Audit.CHANGES),
    ("conversation_id",),
    Column("conversation_id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    _number("chat_id"),
    Column("user_id", BigInteger),
    Column("persona", Text),
    _text("status", "open"),
    _json("state"),
    _moment("started_at", now=True),
    _moment("updated_at", now=True),
    _moment("ended_at"),
    _one_of("status", "open", "closed"),
    _index("conversations_chat_idx", "chat_id", text("updated_at DESC")),
    _index("conversations_open_idx", text("updated_at DESC"), where="status = 'open'"),
)
"""A thread of messages with a state; `persona` is the name of one, which may be gone."""

messages = _tenant(
    "messages",
    TableRights(CHANGE, READ, Audit.CHANGES),
    ("chat_id", "message_id"),
    _number("chat_id"),
    _number("message_id"),
    Column("conversation_id", Uuid),
    Column("sender_id", BigInteger),
    _flag("is_outgoing"),
    _text("text", ""),
    Column("media", JSONB),
    Column("reply_to_id", BigInteger),
    _moment("sent_at", now=True),
    _moment("edited_at"),
    _moment("deleted_at"),
    _index("messages_sent_idx", text("sent_at DESC")),
    _index("messages_chat_sent_idx", "chat_id", text("sent_at DESC")),
    _index(
        "messages_conversation_idx", "conversation_id", "sent_at",
        where="conversation_id IS NOT NULL",
    ),
)  # fmt: skip
"""Telegram counts messages per account, in channels per channel: with the chat it is unique."""

analytics_events = _tenant(
    "analytics_events",
    TableRights("SELECT, INSERT", READ, Audit.OTHERS),
    ("occurred_at", "event_id"),
    Column("event_id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    _moment("occurred_at", now=True),
    _text("kind"),
    _text("level", "info"),
    Column("user_id", BigInteger),
    Column("chat_id", BigInteger),
    _json("data"),
    Column("correlation_id", Text),
    _one_of("level", "debug", "info", "warning", "error"),
    _index("analytics_events_kind_idx", "kind", text("occurred_at DESC")),
    _index("analytics_events_errors_idx", text("occurred_at DESC"), where="level = 'error'"),
)
"""What happened, for counting; never changed."""

entities = _tenant(
    "entities",
    TableRights(CHANGE, READ, Audit.OTHERS, secret=("access_hash",)),
    ("entity_id",),
    _number("entity_id"),
    _number("access_hash"),
    Column("username", Text),
    Column("phone", Text),
    Column("name", Text),
    _moment("seen_at", now=True),
    _index("entities_username_idx", text("lower(username)"), where="username IS NOT NULL"),
    _index("entities_phone_idx", "phone", where="phone IS NOT NULL"),
)
"""Access hashes, which belong to one account each; Telethon keeps the account itself as 0."""

sessions = _tenant(
    "sessions",
    TableRights(CHANGE, READ, Audit.ALL, secret=("auth_key",)),
    ("dc_id",),
    _number("dc_id", SmallInteger),
    _text("server_address"),
    _number("port", Integer),
    Column("auth_key", LargeBinary),
    Column("takeout_id", BigInteger),
    _flag("is_main"),
    _number("epoch", BigInteger, "0"),
    _moment("updated_at", now=True),
    _index("sessions_main_key", where="is_main", unique=True),
    CheckConstraint("auth_key IS NULL OR octet_length(auth_key) >= 256", name="auth_key"),
)
"""Keys per data centre, one of them the account's own (256 bytes, more when sealed). `epoch` is the
lease they were written under: an older worker must not overwrite a younger one's."""

update_state = _tenant(
    "update_state",
    TableRights(CHANGE, READ, Audit.OTHERS),
    ("entity_id",),
    _number("entity_id"),
    _number("pts", Integer),
    _number("qts", Integer, "0"),
    _number("seq", Integer, "0"),
    _moment("state_date"),
    _moment("updated_at", now=True),
)
"""Up to where updates are in the inbox: 0 is the account, any other a channel with its own pts."""

inbox = _tenant(
    "inbox",
    TableRights(CHANGE, "SELECT, UPDATE (status, attempts, available_at)", Audit.OTHERS,
          secret=("payload",)),
    ("inbox_id",),
    _number("inbox_id"),
    _text("dedupe_key"),
    _number("entity_id", BigInteger, "0"),
    Column("pts", Integer),
    Column("pts_count", Integer),
    _text("kind"),
    _number("layer", SmallInteger),
    Column("payload", LargeBinary, nullable=False),
    _text("status", "new"),
    _number("attempts", SmallInteger, "0"),
    _moment("received_at", now=True),
    _moment("available_at", now=True),
    _moment("finished_at"),
    Column("last_error", Text),
    Column("correlation_id", Text),
    UniqueConstraint("bot_id", "dedupe_key"),
    _one_of("status", "new", "running", "done", "dead"),
    _index("inbox_due_idx", "available_at", "inbox_id", where="status IN ('new', 'running')"),
    _index("inbox_done_idx", "finished_at", where="status = 'done'"),
    _index("inbox_dead_idx", text("received_at DESC"), where="status = 'dead'"),
)  # fmt: skip
"""Raw updates (TL bytes of `layer`), committed with the pts they lead to before they are handled.

`dedupe_key` names an update whether it counts in pts, in qts or, like a callback, in neither."""

outbox = _tenant(
    "outbox",
    TableRights(CHANGE, "SELECT, UPDATE (status, attempts, available_at)", Audit.OTHERS,
          secret=("payload",)),
    ("outbox_id",),
    _number("outbox_id"),
    _number("random_id"),
    Column("inbox_id", BigInteger),
    Column("chat_id", BigInteger),
    _text("method"),
    _number("layer", SmallInteger),
    Column("payload", LargeBinary, nullable=False),
    _number("priority", SmallInteger, "0"),
    _text("status", "pending"),
    _number("attempts", SmallInteger, "0"),
    _moment("created_at", now=True),
    _moment("available_at", now=True),
    _moment("sent_at"),
    Column("message_id", BigInteger),
    Column("last_error", Text),
    Column("correlation_id", Text),
    UniqueConstraint("bot_id", "random_id"),
    _one_of("status", "pending", "sending", "sent", "dead"),
    _index(
        "outbox_due_idx", "priority", "available_at", "outbox_id",
        where="status IN ('pending', 'sending')",
    ),
    _index("outbox_sent_idx", "sent_at", where="status = 'sent'"),
    _index("outbox_dead_idx", text("created_at DESC"), where="status = 'dead'"),
)  # fmt: skip
"""Replies, committed with the work they come from. Telegram drops what repeats a `random_id`, so
sending again is safe; `available_at` moves with flood waits."""

audit_log = Table(
    "audit_log",
    metadata,
    _bot(),
    _moment("occurred_at", now=True),
    Column("audit_id", Uuid, nullable=False, server_default=func.gen_random_uuid()),
    _text("actor"),
    _text("action"),
    _text("table_name"),
    Column("row_key", JSONB, nullable=False),
    Column("before", JSONB),
    Column("after", JSONB),
    Column("correlation_id", Text),
    PrimaryKeyConstraint("bot_id", "occurred_at", "audit_id"),
    _one_of("action", "insert", "update", "delete"),
    _index("audit_log_row_idx", "table_name", "row_key", text("occurred_at DESC")),
    Index(
        "audit_log_correlation_idx", "correlation_id",
        postgresql_where=text("correlation_id IS NOT NULL"),
    ),
    postgresql_partition_by="RANGE (occurred_at)",
    info={TERMS: TableRights("", READ, Audit.NONE, auditor=READ)},
)  # fmt: skip
"""Who changed which row of which bot, before and after. One partition per month, so that what is
old leaves at once; written by a trigger only. Bots do not read it."""


def tenant_tables() -> list[Table]:
    """All tables, in the order in which they are made."""
    return list(metadata.sorted_tables)


def terms(table: Table) -> TableRights:
    """Who may do what to the table."""
    found = table.info[TERMS]
    assert isinstance(found, TableRights)  # noqa: S101 (each table above has them)
    return found
