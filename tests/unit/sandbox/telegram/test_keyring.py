"""Auth keys: whose they are, and that they go when they shall."""

from __future__ import annotations

from dims.sandbox.telegram.box import UserId
from dims.sandbox.telegram.keyring import AuthKey, Keyring

ANNA, BERT = UserId(1), UserId(2)


def test_a_new_key_is_nobodys_and_found_by_its_id() -> None:
    ring = Keyring()
    key = ring.make(b"k" * 256)
    assert ring.get(key.id) is key
    assert (key.account_id, len(key.id)) == (None, 8)
    assert ring.get(b"unknown.") is None
    assert ring.of(ANNA) == []


def test_a_key_is_of_whoever_signed_in_last() -> None:
    ring = Keyring()
    key, other = ring.make(b"a" * 256), ring.make(b"b" * 256)
    ring.bind(key, ANNA)
    ring.bind(other, ANNA)
    assert ring.of(ANNA) == [key, other]
    ring.bind(key, BERT)
    assert (ring.of(ANNA), ring.of(BERT), key.account_id) == ([other], [key], BERT)
    ring.bind(key, None)
    assert (ring.of(BERT), key.account_id) == ([], None)
    assert ring.get(key.id) is key


def test_a_loaded_key_is_of_its_account() -> None:
    ring = Keyring()
    loaded, foreign = AuthKey(b"12345678", b"", ANNA), AuthKey(b"87654321", b"")
    ring.add(loaded)
    ring.add(foreign)
    assert ring.of(ANNA) == [loaded]
    assert ring.get(foreign.id) is foreign


def test_a_key_that_is_destroyed_is_gone_and_remembers_its_account() -> None:
    ring = Keyring()
    key, nobodys = ring.make(b"a" * 256), ring.make(b"b" * 256)
    ring.bind(key, ANNA)
    ring.destroy(key)
    ring.destroy(nobodys)
    assert (ring.get(key.id), ring.get(nobodys.id), ring.of(ANNA)) == (None, None, [])
    assert key.account_id == ANNA


def test_what_is_handed_out_is_a_copy() -> None:
    ring = Keyring()
    key = ring.make(b"a" * 256)
    ring.bind(key, ANNA)
    ring.of(ANNA).clear()
    assert ring.of(ANNA) == [key]
