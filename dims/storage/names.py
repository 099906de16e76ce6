"""Names in the database: its schema, its roles, and what was decided when it was made. Pure.

PREFIX_owner      no login; owns everything; only migrations act as it
PREFIX_migrator   login; may become the owner, and nothing else
PREFIX_operator   login; reads all tenants, changes their configuration; sees no keys
PREFIX_auditor    login; reads the audit log
PREFIX_bot        no login; what every bot may do
PREFIX_bot_ID     login; one bot. The name *is* the tenant: policies cut the prefix off
                  `session_user`, which no statement of such a role can change
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dims.errors import UsageError

SCHEMA = "dims"
PARTITIONS = 10
PARTITIONS_LIMIT = 64
"""A migration locks each partition with its indexes; 64 * max_connections locks are the default."""
CORRELATION = "dims.correlation_id"
"""Setting that the audit trigger reads; set it per transaction: a pooler hands sessions on."""
_BOT_ID = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""As in bots.yaml; with the prefix shorter than the 63 bytes of a PostgreSQL name."""
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,15}")


@dataclass(frozen=True, slots=True)
class Shape:
    """What is decided when the database is made, and never again."""

    partitions: int = PARTITIONS
    """Hash partitions of each tenant table."""
    prefix: str = "dims"
    """Of all roles. Roles belong to the whole server: two fleets on one server need two."""

    @property
    def owner(self) -> str:
        """The role that owns everything."""
        return f"{self.prefix}_owner"

    @property
    def migrator(self) -> str:
        """The role that may become the owner."""
        return f"{self.prefix}_migrator"

    @property
    def operator(self) -> str:
        """The role of operators."""
        return f"{self.prefix}_operator"

    @property
    def auditor(self) -> str:
        """The role of auditors."""
        return f"{self.prefix}_auditor"

    @property
    def bot(self) -> str:
        """The role that all bots are members of."""
        return f"{self.prefix}_bot"

    @property
    def bot_prefix(self) -> str:
        """What the name of each bot's own role begins with."""
        return f"{self.prefix}_bot_"

    def bot_role(self, bot_id: str) -> str:
        """The login role of a bot. Raises UsageError for what is no bot id."""
        if not _BOT_ID.fullmatch(bot_id):
            raise UsageError(f"{bot_id!r} is no bot id", hint="a-z, 0-9, - and _, at most 32")
        return f"{self.bot_prefix}{bot_id}"

    def check(self) -> Shape:
        """Itself. Raises UsageError for what no database can be made with."""
        if not 1 <= self.partitions <= PARTITIONS_LIMIT:
            raise UsageError(f"partitions must be 1 to {PARTITIONS_LIMIT}, not {self.partitions}")
        if not _PREFIX.fullmatch(self.prefix):
            raise UsageError(f"{self.prefix!r} is no prefix of roles", hint="a-z, 0-9 and _")
        return self


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL takes it, whatever is in it (standard_conforming_strings, on since 9.1)."""
    return "'" + text.replace("'", "''") + "'"
