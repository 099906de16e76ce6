"""What a database looks like, as texts to compare: all that our schema holds, and the ground.

Both sides of a comparison come from the same server, so that its own way to print things cancels
out. The months of the audit log, which come and go, count as one.
"""

# Queries are put together from names in this file.
# ruff: noqa: S608

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from dims.storage.names import Shape

Catalogue = Mapping[str, str]
"""Each thing by its kind and name, and what it is."""
_MONTH = re.compile(r"audit_log_\d{4}_\d{2}")
_BOUNDS = re.compile(r"FOR VALUES FROM \('[^']+'\) TO \('[^']+'\)")
_ACL = "(SELECT string_agg(a::text, ' ' ORDER BY a::text COLLATE \"C\") FROM unnest({}) AS a)"
_IN = "'dims'::regnamespace"

_QUERIES = {
    "schema": f"""\
SELECT nspname AS name, concat_ws(' ', pg_get_userbyid(nspowner), {_ACL.format("nspacl")}) AS what
FROM pg_namespace WHERE oid = {_IN}""",
    "relation": f"""\
SELECT c.relname AS name, concat_ws(' | ', c.relkind, c.relpersistence,
  pg_get_userbyid(c.relowner), 'rls ' || c.relrowsecurity || ' ' || c.relforcerowsecurity,
  {_ACL.format("c.relacl")}, array_to_string(c.reloptions, ','), pg_get_partkeydef(c.oid),
  pg_get_expr(c.relpartbound, c.oid), i.inhparent::regclass::text) AS what
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND NOT c.relkind IN ('i', 'I')
WHERE c.relnamespace = {_IN} AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')""",
    "column": f"""\
SELECT c.relname || '.' || a.attname AS name, concat_ws(' | ',
  format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
  pg_get_expr(d.adbin, d.adrelid), nullif(a.attcollation, 0)::regcollation::text,
  nullif(a.attidentity, ''), nullif(a.attgenerated, ''), {_ACL.format("a.attacl")}) AS what
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = {_IN} AND c.relkind IN ('r', 'p', 'v', 'm', 'f')""",
    "index": f"""\
SELECT c.relname AS name, concat_ws(' | ', pg_get_indexdef(i.indexrelid), i.indisvalid) AS what
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = {_IN}""",
    "constraint": f"""\
SELECT conrelid::regclass || '.' || conname AS name,
  concat_ws(' | ', pg_get_constraintdef(oid), convalidated) AS what
FROM pg_constraint WHERE connamespace = {_IN}""",
    "trigger": f"""\
SELECT c.relname || '.' || t.tgname AS name,
  concat_ws(' | ', pg_get_triggerdef(t.oid), t.tgenabled) AS what
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = {_IN} AND NOT t.tgisinternal""",
    "rule": f"""\
SELECT c.relname || '.' || r.rulename AS name, pg_get_ruledef(r.oid) AS what
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class WHERE c.relnamespace = {_IN}""",
    "function": f"""\
SELECT oid::regprocedure::text AS name, concat_ws(' | ', pg_get_userbyid(proowner),
  {_ACL.format("proacl")}, pg_get_functiondef(oid)) AS what
FROM pg_proc WHERE pronamespace = {_IN} AND prokind <> 'a'""",
    "policy": """\
SELECT tablename || '.' || policyname AS name, concat_ws(' | ', permissive, cmd, roles::text,
  'using ' || qual, 'check ' || with_check) AS what
FROM pg_policies WHERE schemaname = 'dims'""",
    "type": f"""\
SELECT typname AS name, concat_ws(' | ', typtype, {_ACL.format("typacl")}) AS what
FROM pg_type t WHERE typnamespace = {_IN} AND typtype <> 'c' AND typcategory <> 'A'""",
}


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One thing that is not as the revisions make it."""

    what: str
    """Kind and name, or a sentence about roles and rights of the database."""
    expected: str | None
    """None: it should not be there."""
    found: str | None
    """None: it is missing."""

    def __str__(self) -> str:
        if self.expected is None and self.found is None:
            return self.what
        if self.expected is None:
            return f"{self.what} should not be there"
        if self.found is None:
            return f"{self.what} is missing"
        return f"{self.what} is {self.found!r}, should be {self.expected!r}"


def catalogue(connection: Connection) -> Catalogue:
    """All of our schema. Needs no right but to read the system's own tables."""
    found: dict[str, set[str]] = defaultdict(set)
    # With an empty path every name is printed whole, whoever asks.
    connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
    for kind, query in _QUERIES.items():
        for row in connection.exec_driver_sql(query):
            name, what = (_MONTH.sub("audit_log_MONTH", str(text)) for text in (row.name, row.what))
            found[f"{kind} {name}"].add(_BOUNDS.sub("FOR VALUES OF A MONTH", what))
    return {name: " || ".join(sorted(texts)) for name, texts in found.items()}


def differences(expected: Catalogue, found: Catalogue) -> list[SchemaDifference]:
    """What is not the same, by name."""
    return [
        SchemaDifference(name, expected.get(name), found.get(name))
        for name in sorted({*expected, *found})
        if expected.get(name) != found.get(name)
    ]


_FAULTS = """\
WITH ours AS (
  SELECT oid, rolname::text AS name, rolname IN ($1, $2) AS is_group,
    starts_with(rolname::text, $6) AS is_bot, rolsuper OR rolcreaterole OR rolcreatedb
      OR rolreplication OR rolbypassrls AS is_mighty, rolcanlogin
  FROM pg_catalog.pg_roles
  WHERE rolname IN ($1, $2, $3, $4, $5) OR starts_with(rolname::text, $6)
)
SELECT 'the role ' || name || ' is missing' AS fault
FROM unnest(ARRAY[$1, $2, $3, $4, $5]) AS name WHERE name NOT IN (SELECT name FROM ours)
UNION ALL SELECT 'the role ' || name || ' may do more than it needs' FROM ours WHERE is_mighty
UNION ALL SELECT 'the role ' || name || ' may log in' FROM ours WHERE is_group AND rolcanlogin
UNION ALL SELECT 'the role ' || o.name || ' is a member of ' || m.roleid::regrole
  FROM ours o JOIN pg_catalog.pg_auth_members m ON m.member = o.oid
  WHERE NOT (o.is_bot AND m.roleid = to_regrole(quote_ident($2)))
    AND NOT (o.name = $3 AND m.roleid = to_regrole(quote_ident($1)))
UNION ALL SELECT 'a stranger, ' || r.rolname || ', is a member of ' || o.name
  FROM ours o JOIN pg_catalog.pg_auth_members m ON m.roleid = o.oid
  JOIN pg_catalog.pg_roles r ON r.oid = m.member
  WHERE NOT r.rolsuper AND NOT r.rolcreaterole AND r.oid NOT IN (SELECT oid FROM ours)
    AND o.name NOT IN ($4, $5)
UNION ALL SELECT 'the bot role ' || o.name || ' is no member of ' || $2 FROM ours o
  WHERE o.is_bot AND NOT pg_has_role(o.oid, to_regrole(quote_ident($2)), 'USAGE')
UNION ALL SELECT 'everybody may ' || a.privilege_type || ' on the database'
  FROM pg_catalog.pg_database d,
    aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) AS a
  WHERE d.datname = current_database() AND a.grantee = 0
UNION ALL SELECT 'everybody may ' || a.privilege_type || ' on the schema public'
  FROM pg_catalog.pg_namespace n,
    aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
  WHERE n.nspname = 'public' AND a.grantee = 0
ORDER BY 1"""


def faults(connection: Connection, shape: Shape) -> Iterator[SchemaDifference]:
    """What is wrong with roles and with the rights on the database, which no schema holds."""
    names = (shape.owner, shape.bot, shape.migrator, shape.operator, shape.auditor)
    for row in connection.exec_driver_sql(_FAULTS, (*names, shape.bot_prefix)):
        yield SchemaDifference(row.fault, None, None)
