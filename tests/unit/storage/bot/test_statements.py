"""What the first words of a statement say."""

from __future__ import annotations

import pytest

from dims.errors import UsageError
from dims.storage.bot.statements import Effect, checked, effect


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("SELECT 1", Effect.READS),
        ("  (select 1)", Effect.READS),
        ("-- a\n/* b * / */ values (1)", Effect.READS),
        ("SHOW search_path", Effect.READS),
        ("WITH x AS (SELECT 1) SELECT 1", Effect.WRITES),
        ("insert into a values (1)", Effect.WRITES),
        ("", Effect.WRITES),
        ("-- only a comment", Effect.WRITES),
        ("SET LOCAL a = 1", Effect.SETS_LOCALLY),
        ("set  transaction read only", Effect.SETS_LOCALLY),
        ("SET a = 1", Effect.CHANGES_SESSION),
        ("listen a", Effect.CHANGES_SESSION),
        ("listen local", Effect.CHANGES_SESSION),
        ("Commit", Effect.ENDS_TRANSACTION),
        ("selection", Effect.WRITES),
    ],
)
def test_the_first_words_say_what_a_statement_does(sql: str, found: Effect) -> None:
    assert effect(sql) is found


@pytest.mark.parametrize("in_transaction", [True, False])
def test_what_reads_and_what_writes_may_do_so_anywhere(in_transaction: bool) -> None:
    assert checked("SELECT 1", in_transaction=in_transaction) is Effect.READS
    assert checked("DELETE FROM a", in_transaction=in_transaction) is Effect.WRITES


def test_what_lasts_as_long_as_a_transaction_is_for_transactions() -> None:
    assert checked("SET LOCAL a = 1", in_transaction=True) is Effect.SETS_LOCALLY
    with pytest.raises(UsageError, match="SET cannot"):
        checked("SET LOCAL a = 1", in_transaction=False)


@pytest.mark.parametrize("in_transaction", [True, False])
@pytest.mark.parametrize("sql", ["SET a = 1", "BEGIN", "/* x */ COMMIT", "DISCARD ALL"])
def test_what_hits_whoever_comes_next_is_refused(sql: str, in_transaction: bool) -> None:
    with pytest.raises(UsageError) as caught:
        checked(sql, in_transaction=in_transaction)
    assert "bot.tx()" in caught.value.hint
