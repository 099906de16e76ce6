"""What a worker must hide, and where its database is now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dims.addresses import PostgresAddress
from dims.ipc.retry import RetryPolicy
from dims.ipc.words.terms import (
    FreshSettings,
    Limits,
    MailTerms,
    StoragePlace,
    StorageTerms,
    TelegramAddress,
    WorkerTerms,
    worth_hiding,
)

HERE = Path("/here")
TOKEN, API_HASH = "5000000001:" + 35 * "t", 32 * "h"
PLACE = StoragePlace(PostgresAddress("/run", user="echo", password="pass"), None)
STORAGE = StorageTerms(PLACE, is_pooled=False, pool={}, replica_lag_s=2.0, share=1)
TERMS = WorkerTerms(
    bot="echo",
    token=TOKEN,
    api_id=1,
    api_hash=API_HASH,
    server=TelegramAddress("127.0.0.1", 443, 2),
    proxy=None,
    sandbox=False,
    handlers="echo.py",
    directory=HERE,
    admins=(),
    own=FreshSettings({}, ()),
    limits=Limits(1.0, 1.0, 1.0, 1.0, 1, 1, 1, 1, 1),
    mail=MailTerms(HERE, HERE, False, 1, RetryPolicy(1, 1.0, 1.0), 1.0, 1, ()),
    storage=None,
    session=HERE,
    lease=HERE,
    log=HERE,
)


def test_a_token_its_secret_half_and_the_hash_are_secrets() -> None:
    assert TERMS.secrets == (TOKEN, 35 * "t", API_HASH)


@pytest.mark.parametrize(("length", "hidden"), [(15, False), (16, True)])
def test_what_is_too_short_for_a_secret_is_a_word(length: int, hidden: bool) -> None:
    proxy = length * "p"
    assert (proxy in replace(TERMS, proxy=proxy).secrets) is hidden


def test_the_password_and_what_settings_hide_are_secrets_too() -> None:
    terms = replace(TERMS, storage=STORAGE, own=FreshSettings({}, ("a secret", "yes")))
    assert terms.secrets == (*TERMS.secrets, "pass", "a secret")


def test_a_text_of_settings_is_worth_hiding_from_six_letters_on() -> None:
    assert worth_hiding(["12345", "123456", "1234567"]) == ("123456", "1234567")


def test_a_database_that_moves_takes_nothing_else_along() -> None:
    place = StoragePlace(PostgresAddress("/other", user="echo", password="new"), None)
    assert STORAGE.moved(place) == replace(STORAGE, place=place)
    assert STORAGE.moved(place).place is place
