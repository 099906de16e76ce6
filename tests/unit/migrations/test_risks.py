"""Statements that are not run unasked, and those that look like them."""

from __future__ import annotations

import pytest

from dims.migrations.risks import Risk, risks

LOSES_TABLE = Risk("drops a table with its rows")
LOSES_COLUMN = Risk("drops a column with its values")
READS = "reads the whole table while nobody may use it"
INDEXES = "makes an index while nobody may write to the table"


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DROP TABLE users", [LOSES_TABLE]),
        ("drop\n table users", [LOSES_TABLE]),
        ("DROP /* all */ TABLE users -- gone", [LOSES_TABLE]),
        ("DROP SCHEMA dims", [Risk("drops a schema with all that is in it")]),
        ("TRUNCATE users", [Risk("empties a table")]),
        ("ALTER TABLE users DROP COLUMN name", [LOSES_COLUMN]),
        ("ALTER TABLE users DROP name", [LOSES_COLUMN]),
        (
            "ALTER TABLE users NO FORCE ROW LEVEL SECURITY",
            [Risk("takes tenants apart no longer")],
        ),
        ("ALTER TABLE dims.Users ALTER name SET NOT NULL", [Risk(READS, "dims.Users")]),
        (
            "ALTER TABLE ONLY users ALTER name TYPE bigint",
            [Risk("may write the whole table anew while nobody may use it", "users")],
        ),
        (
            "alter table users add check (n > 0)",
            [Risk("reads the whole table while nobody may write to it", "users")],
        ),
        ("CREATE INDEX ON users (name)", [Risk(INDEXES, "users")]),
        ("CREATE UNIQUE INDEX one ON users (name)", [Risk(INDEXES, "users")]),
        (
            "SELECT 1; DROP TABLE users; ALTER TABLE users DROP name",
            [LOSES_TABLE, LOSES_COLUMN],
        ),
        (
            "ALTER TABLE users DROP name, ALTER id SET NOT NULL",
            [LOSES_COLUMN, Risk(READS, "users")],
        ),
        ("DO $$ BEGIN DROP TABLE users; END $$", [LOSES_TABLE]),
        ("\n do $x$ BEGIN DROP TABLE users; END $x$", [LOSES_TABLE]),
        ("GRANT SELECT ON users TO a; DROP TABLE users", [LOSES_TABLE]),
    ],
)
def test_what_may_go_wrong_is_found(statement: str, found: list[Risk]) -> None:
    assert list(risks(statement)) == found


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "INSERT INTO notes VALUES ('DROP TABLE users')",
        "-- DROP TABLE users",
        "/* TRUNCATE users */ SELECT 1",
        "CREATE FUNCTION f() RETURNS void AS $$ BEGIN DROP TABLE users; END $$ LANGUAGE plpgsql",
        "GRANT TRUNCATE ON users TO a",
        "REVOKE TRUNCATE ON users FROM a",
        "CREATE TRIGGER t BEFORE TRUNCATE ON users EXECUTE FUNCTION f()",
        "CREATE OR REPLACE TRIGGER t BEFORE TRUNCATE ON users EXECUTE FUNCTION f()",
        "ALTER TABLE users DROP CONSTRAINT c",
        "ALTER TABLE users ALTER name DROP NOT NULL",
        "ALTER TABLE users ADD CONSTRAINT c CHECK (n > 0) NOT VALID",
        "CREATE INDEX CONCURRENTLY ON users (name)",
        "CREATE INDEX ON ONLY users (name)",
    ],
)
def test_the_harmless_is_run(statement: str) -> None:
    assert list(risks(statement)) == []
