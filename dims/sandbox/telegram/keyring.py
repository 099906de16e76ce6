"""The auth keys that clients made, and whose they are. Pure; knows no connections."""

from __future__ import annotations

from dataclasses import dataclass, field

from dims.sandbox.mtproto import crypto
from dims.sandbox.telegram.box import UserId


@dataclass(slots=True)
class AuthKey:
    """One auth key; `repr` does not show it.

    `account_id` is None until a bot signed in. A duplicated key is dead for good: every request
    with it is answered by 406 AUTH_KEY_DUPLICATED, as Telegram does.
    """

    id: bytes
    key: bytes = field(repr=False)
    account_id: UserId | None = None
    is_duplicated: bool = False


class Keyring:
    """All keys by their 8-byte id, and by account."""

    def __init__(self) -> None:
        self._keys: dict[bytes, AuthKey] = {}
        self._by_account: dict[UserId, list[AuthKey]] = {}

    def get(self, key_id: bytes) -> AuthKey | None:
        """The key, or None: the client must be told -404."""
        return self._keys.get(key_id)

    def add(self, key: AuthKey) -> None:
        """Takes a loaded key in."""
        self._keys[key.id] = key
        if key.account_id is not None:
            self._by_account.setdefault(key.account_id, []).append(key)

    def make(self, raw: bytes) -> AuthKey:
        """A new key that nobody has signed in with."""
        key = AuthKey(crypto.key_id_of(raw), raw)
        self.add(key)
        return key

    def bind(self, key: AuthKey, account_id: UserId | None) -> None:
        """Signs the key in as an account, or out."""
        if key.account_id is not None:
            self._by_account[key.account_id].remove(key)
        key.account_id = account_id
        if account_id is not None:
            self._by_account.setdefault(account_id, []).append(key)

    def destroy(self, key: AuthKey) -> None:
        """Forgets the key; its account_id stays readable."""
        self._keys.pop(key.id, None)
        if key.account_id is not None:
            self._by_account[key.account_id].remove(key)

    def of(self, account_id: UserId) -> list[AuthKey]:
        """The keys that this account is signed in with."""
        return list(self._by_account.get(account_id, ()))
