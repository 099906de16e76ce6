"""SCRAM-SHA-256 verifiers: what a server keeps instead of a password. Arithmetic but for the salt.

Sent in place of the password, so that no log, no pg_stat_activity and no replication stream of the
server ever has the password itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

from dims.errors import UsageError

ITERATIONS = 4096
"""As PostgreSQL's own (scram_iterations). Passwords here are 256 random bits: more buys nothing."""
_SALT_BYTES = 16
_ASCII = range(0x21, 0x7F)


def verifier(password: str, salt: bytes | None = None) -> str:
    """`SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` (RFC 5803; pg_authid, PostgreSQL manual
    53.8).

    Takes printable ASCII only, which SASLprep leaves as it is. Raises UsageError otherwise.
    """
    if not password or any(ord(char) not in _ASCII for char in password):
        raise UsageError("a password must be printable ASCII without spaces")
    salt = os.urandom(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    server = hmac.digest(salted, b"Server Key", "sha256")
    stored = hashlib.sha256(client).digest()
    parts = [base64.b64encode(part).decode("ascii") for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"
