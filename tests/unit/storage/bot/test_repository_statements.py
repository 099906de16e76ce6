"""Statements of repositories with the bot's id written out."""

from __future__ import annotations

from dims.storage.bot.repositories.repository import for_bot


def test_the_id_stands_where_its_parameter_was_and_the_others_move_up() -> None:
    asked = for_bot("SELECT a FROM t WHERE bot_id = $1 AND b = $2 AND c > $3", "shop", 1)
    assert asked == "SELECT a FROM t WHERE bot_id = 'shop' AND b = $1 AND c > $2"


def test_parameters_before_it_and_of_two_digits_are_kept_apart() -> None:
    asked = for_bot("VALUES ($2, $3, $11, $1::text, $2)", "shop", 2)
    assert asked == "VALUES ('shop', $2, $10, $1::text, 'shop')"


def test_an_id_that_is_none_stays_a_literal() -> None:
    assert for_bot("SELECT $1", "a'; DROP TABLE t --", 1) == "SELECT 'a''; DROP TABLE t --'"
