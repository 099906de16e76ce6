"""All statements that make the database of today: tables, partitions, policies, rights, views.

Templates: `@prefix@` stands for the prefix of the roles, and a statement with `@n@` is repeated
for each hash partition. The first revision is such a file, frozen; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from dims.storage.admin.auditing import FUNCTIONS, MONTHS_AHEAD
from dims.storage.admin.operator_views import VIEWS
from dims.storage.admin.schema import Audit, audit_log, tenant_tables, terms
from dims.storage.names import SCHEMA, Shape, quoted

_SHAPE = Shape(prefix="@prefix@")
# Inlined into every query, and bound to its operators when it is made: no search_path reaches it.
CURRENT_BOT = f"""\
CREATE FUNCTION {SCHEMA}.current_bot() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN starts_with(session_user::text, '{_SHAPE.bot_prefix}')
  THEN substr(session_user::text, length('{_SHAPE.bot_prefix}') + 1) END"""
_NOW = f"(SELECT {SCHEMA}.current_bot())"
"""Asked once per statement, and prunes partitions when it runs."""


def expand(templates: Iterable[str], shape: Shape) -> Iterator[str]:
    """The statements for one database."""
    for template in templates:
        statement = template.replace("@prefix@", shape.prefix)
        statement = statement.replace("@partitions@", str(shape.partitions))
        if "@n@" not in statement:
            yield statement
            continue
        for number in range(shape.partitions):
            yield statement.replace("@n@", str(number))


def templates() -> Iterator[str]:
    """Everything, in the order in which it can be made."""
    yield CURRENT_BOT
    yield _grant_function("current_bot()", _SHAPE.bot, _SHAPE.operator, _SHAPE.auditor)
    for table in tenant_tables():
        yield from _table(table)
    yield from FUNCTIONS
    yield f"SELECT {SCHEMA}.make_audit_months({MONTHS_AHEAD})"
    for table in tenant_tables():
        yield from _policies(table)
        yield from _rights(table)
        yield from _audit(table)
    for name, query in VIEWS.items():
        options = "security_invoker = true, security_barrier = true"
        yield f"CREATE VIEW {SCHEMA}.{name} WITH ({options}) AS\n{query}"
        yield f"GRANT SELECT ON {SCHEMA}.{name} TO {quoted(_SHAPE.operator)}"


def _table(table: Table) -> Iterator[str]:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    yield _tidy(CreateTable(table).compile(dialect=dialect))
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        yield _tidy(CreateIndex(index).compile(dialect=dialect))
    yield _row_security(table.name)
    if table is audit_log:
        yield f"CREATE TABLE {SCHEMA}.audit_log_rest PARTITION OF {SCHEMA}.audit_log DEFAULT"
        yield _row_security("audit_log_rest")
        return
    yield (
        f"CREATE TABLE {SCHEMA}.{table.name}_p@n@ PARTITION OF {SCHEMA}.{table.name} "
        "FOR VALUES WITH (MODULUS @partitions@, REMAINDER @n@)"
    )
    # No policy and no right: a partition is closed even to who is given a right by mistake.
    yield _row_security(f"{table.name}_p@n@")


def _row_security(table: str) -> str:
    return f"ALTER TABLE {SCHEMA}.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"


def _policies(table: Table) -> Iterator[str]:
    # To everybody, not to the group of bots: its members can take that out of a policy for all of
    # them (DROP OWNED BY asks for membership only). Who is no bot gets no row by it.
    yield _policy(table, "tenant", "PUBLIC", f"bot_id = {_NOW}")
    # Others see all tenants, unless it is a bot that came to act as one of them, as it does where
    # a function of the owner (the audit trigger) runs for it: then still its own only.
    everybody = f"{_NOW} IS NULL OR bot_id = {_NOW}"
    yield _policy(table, "owner", quoted(_SHAPE.owner), everybody)
    yield _policy(table, "operator", quoted(_SHAPE.operator), everybody)
    if terms(table).auditor:
        yield _policy(table, "auditor", quoted(_SHAPE.auditor), everybody)


def _policy(table: Table, name: str, role: str, condition: str) -> str:
    return (
        f"CREATE POLICY {name} ON {SCHEMA}.{table.name} AS PERMISSIVE FOR ALL TO {role}\n"
        f"  USING ({condition})\n  WITH CHECK ({condition})"
    )


def _rights(table: Table) -> Iterator[str]:
    rights = terms(table)
    operator = rights.operator
    if rights.secret:
        readable = ", ".join(c.name for c in table.columns if c.name not in rights.secret)
        operator = operator.replace("SELECT", f"SELECT ({readable})")
    given = (
        (rights.bot, _SHAPE.bot),
        (operator, _SHAPE.operator),
        (rights.auditor, _SHAPE.auditor),
    )
    for privileges, role in given:
        if privileges:
            yield f"GRANT {privileges} ON {SCHEMA}.{table.name} TO {quoted(role)}"


def _audit(table: Table) -> Iterator[str]:
    rights = terms(table)
    key = ",".join(column.name for column in table.primary_key)
    call = f"{SCHEMA}.audit_row('{table.name}', '{key}', '{','.join(rights.secret)}')"
    by_others = f"WHEN ({SCHEMA}.current_bot() IS NULL)"
    changes: tuple[tuple[str, str], ...]
    match rights.audit:
        case Audit.NONE:
            changes = ()
        case Audit.ALL:
            changes = (("INSERT OR UPDATE OR DELETE", ""),)
        case Audit.CHANGES:
            changes = (("INSERT", by_others), ("UPDATE OR DELETE", ""))
        case Audit.OTHERS:
            changes = (("INSERT OR UPDATE OR DELETE", by_others),)
    for number, (what, condition) in enumerate(changes, start=1):
        yield (
            f"CREATE TRIGGER audit_{number} AFTER {what} ON {SCHEMA}.{table.name}\n"
            f"  FOR EACH ROW {condition} EXECUTE FUNCTION {call}"
        )


def _grant_function(signature: str, *roles: str) -> str:
    names = ", ".join(quoted(role) for role in roles)
    return f"GRANT EXECUTE ON FUNCTION {SCHEMA}.{signature} TO {names}"


def _tidy(compiled: object) -> str:
    """Without trailing blanks and blank lines, which separate statements in files."""
    lines = (line.replace("\t", "  ").rstrip() for line in str(compiled).splitlines())
    return "\n".join(line for line in lines if line)
