"""All tables, their partitions, policies, rights, audit and views.

Revision ID: 0001
"""

from __future__ import annotations

from dims.migrations.steps import run, run_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VIEWS = ("backlog", "message_counts", "partition_sizes", "recent_errors")
TABLES = (
    "analytics_events",
    "audit_log",
    "bot_settings",
    "bots",
    "chats",
    "conversations",
    "entities",
    "inbox",
    "messages",
    "outbox",
    "personas",
    "sessions",
    "update_state",
    "users",
)
FUNCTIONS = (
    "audit_row()",
    "make_audit_months(integer)",
    "drop_audit_months(timestamptz)",
    "current_bot()",
)


def upgrade() -> None:
    """Makes everything."""
    run_file("first.sql")


def downgrade() -> None:
    """Drops everything, with all that bots know."""
    for view in VIEWS:
        run(f"DROP VIEW dims.{view}")
    for table in TABLES:
        run(f"DROP TABLE dims.{table}")
    for function in FUNCTIONS:
        run(f"DROP FUNCTION dims.{function}")
