"""TLS towards PostgreSQL as libpq's sslmode means it. Reads files, connects to nothing.

libpq: PostgreSQL manual, 34.19. Nothing comes from the environment or a home directory, as
neither is ours in a worker: no SSL_CERT_FILE, no SSLKEYLOGFILE, no ~/.postgresql.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections import OrderedDict
from pathlib import Path

from dims.addresses import PostgresAddress, TlsMode
from dims.storage.connections.storage_errors import StorageError

ALPN = ["postgresql"]
"""Asked for by servers since 17 when TLS is spoken at once; others ignore it."""
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Debian, Fedora, openSUSE, Alpine: for a Python that was built elsewhere and looks elsewhere."""
_KEPT = 8

_Key = tuple[object, ...]
_contexts: OrderedDict[_Key, ssl.SSLContext] = OrderedDict()
"""Reading the system's authorities takes 10 ms, and a pool connects often."""


def context_for(address: PostgresAddress) -> ssl.SSLContext:
    """The context to speak TLS with to that server, whatever its mode says of when.

    `require` verifies when an authority is named, as libpq's does. Files that have changed are
    read again. Raises StorageError, which names the file.
    """
    key = (address.sslmode, *(_version(path) for path in _files(address)))
    if (context := _contexts.get(key)) is None:
        context = _contexts[key] = _make(address)
    _contexts.move_to_end(key)
    while len(_contexts) > _KEPT:
        _contexts.popitem(last=False)
    return context


def _make(address: PostgresAddress) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = address.sslmode is TlsMode.VERIFY_FULL
    if verifies(address):
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, address.sslrootcert)
    else:
        context.verify_mode = ssl.CERT_NONE
    if address.sslcert:
        _load_client(context, address.sslcert, address.sslkey)
    if ssl.HAS_ALPN:
        context.set_alpn_protocols(ALPN)
    return context


def verifies(address: PostgresAddress) -> bool:
    """Whether the server has to prove who it is."""
    match address.sslmode:
        case TlsMode.DISABLE | TlsMode.ALLOW | TlsMode.PREFER:
            return False
        case TlsMode.REQUIRE:
            return bool(address.sslrootcert)
        case TlsMode.VERIFY_CA | TlsMode.VERIFY_FULL:
            return True


def _load_authorities(context: ssl.SSLContext, sslrootcert: str) -> None:
    if not sslrootcert:
        _load_system(context)
        return
    try:
        context.load_verify_locations(cafile=sslrootcert)
    except ssl.SSLError as error:
        raise StorageError(
            f"sslrootcert {sslrootcert} holds no certificate of an authority",
            hint="name a file in PEM format",
        ) from error
    except OSError as error:
        raise _unreadable("sslrootcert", sslrootcert, error) from error


def _load_system(context: ssl.SSLContext) -> None:
    built_in = ssl.get_default_verify_paths()
    for bundle in (built_in.openssl_cafile, *_SYSTEM_BUNDLES):
        if os.access(bundle, os.R_OK):
            context.load_verify_locations(cafile=bundle)
            return
    raise StorageError(
        "this system has no certificate authorities to verify the database server with",
        hint="install ca-certificates, or name the authority's file with sslrootcert",
    )


def _load_client(context: ssl.SSLContext, sslcert: str, sslkey: str) -> None:
    for name, path in (("sslcert", sslcert), ("sslkey", sslkey)):
        try:
            status = os.stat(path)  # noqa: PTH116  # follows links, as opening it will
            with Path(path).open("rb"):
                pass
        except OSError as error:
            raise _unreadable(name, path, error) from error
        if name == "sslkey":
            _check_private(path, status)
    try:
        context.load_cert_chain(sslcert, sslkey, password=_refuse_to_decrypt)
    except (ssl.SSLError, _EncryptedError) as error:
        if isinstance(error, _EncryptedError):
            text, hint = "is encrypted", "decrypt it: openssl pkey -in KEY -out NEW"
        elif error.reason == "KEY_VALUES_MISMATCH":
            text, hint = (
                f"does not belong to sslcert {sslcert}",
                "name the two that belong together",
            )
        else:
            text, hint = f"or sslcert {sslcert} is not in PEM format", "name files in PEM format"
        raise StorageError(f"sslkey {sslkey} {text}", hint=hint) from error


def _check_private(path: str, status: os.stat_result) -> None:
    """libpq's rule: 0600 or stricter, or root's and 0640 (manual 34.19.2)."""
    forbidden = stat.S_IRWXG | stat.S_IRWXO
    if status.st_uid == 0 and os.geteuid() != 0:
        forbidden = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
    if status.st_mode & forbidden:
        raise StorageError(f"sslkey {path} can be read by others", hint=f"chmod 600 {path}")


class _EncryptedError(Exception):
    """OpenSSL asked for a passphrase."""


def _refuse_to_decrypt() -> str:
    # Without it OpenSSL would ask at the terminal.
    raise _EncryptedError


def _unreadable(name: str, path: str, error: OSError) -> StorageError:
    return StorageError(
        f"{name} {path} cannot be read: {error.strerror or error}",
        hint="the path is read by the worker, as its user",
    )


def _files(address: PostgresAddress) -> tuple[str, str, str]:
    return address.sslrootcert, address.sslcert, address.sslkey


def _version(path: str) -> _Key:
    """What changes when the file does."""
    try:
        status = Path(path).stat() if path else None
    except OSError:
        status = None
    if status is None:
        return (path,)
    return (path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)
