"""Why a connection to PostgreSQL failed, in one line with the mend. Connects to nothing.

What passes by itself (a restart, too many connections) is an UnavailableError, everything else a
StorageError. Decided by SQLSTATE, errno and OpenSSL's codes: a server may speak any language.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl

import asyncpg

from dims.addresses import PostgresAddress, TlsMode
from dims.errors import DimsError
from dims.storage.connections.greeting import Greeting
from dims.storage.connections.storage_errors import StorageError, UnavailableError

_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_NAMES = (62, 64)
"""X509_V_ERR_*: openssl verification options, section "Diagnostics" of openssl-verify(1)."""
_PASSING_CODES = frozenset({"53000", "53200", "53300", "57P01", "57P02", "57P03", "57P05"})
_POOLER_PASSES = re.compile(
    r"query_wait_timeout|no more connections|server login has been failing|shut ?down"
    r"|cannot connect to server|server_login_retry|server conn crashed|connect timeout",
    re.IGNORECASE,
)
"""PgBouncer has one SQLSTATE for nearly everything, and no translations."""
_UNENCRYPTED = re.compile(r"no encryption|SSL off")
_CERTIFIED = ", and see that the CN of sslcert is the role's name"
"""Only the server's log would tell that the password was right and the certificate was not."""
_PATH_TOO_LONG = "AF_UNIX path too long"
"""CPython's text, without an errno."""
_BY_ERRNO = re.compile(r"\[Errno (\d+)\]")


def explain(
    error: BaseException, address: PostgresAddress, *, greeting: Greeting | None = None
) -> DimsError:
    """The error to raise for `error`, which connecting to `address` ended with.

    `greeting` is who answers there, where somebody asked. Never has the password in it.
    """
    if isinstance(error, DimsError):
        return error
    root = _root(error)
    if greeting is Greeting.STRANGER:
        return _permanent(address, "what answers there is no PostgreSQL server", "correct the port")
    if isinstance(root, asyncpg.PostgresError) and root.sqlstate and _is_said_by_server(root):
        return _by_sqlstate(root, address)
    if isinstance(root, ssl.SSLError):
        return _by_tls(root, address)
    if type(root) is ConnectionError and "rejected SSL" in str(root):
        return _permanent(
            address,
            f"the server offers no TLS, which sslmode={address.sslmode} demands",
            "set ssl = on and a certificate at the server, or sslmode=disable where the way to it "
            "is safe",
        )
    if isinstance(root, OSError):
        return _by_os(root, address)
    if isinstance(root, asyncpg.PostgresError):
        return _passing(address, "the server ended the connection", "look into the server's log")
    return _permanent(address, _line(root) or type(root).__name__, "look into the server's log")


def _root(error: BaseException) -> BaseException:
    """What the driver's "connection was closed" hides."""
    while isinstance(error, asyncpg.ConnectionDoesNotExistError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_said_by_server(error: asyncpg.PostgresError) -> bool:
    """The driver raises its own with the classes' codes, but without a severity."""
    return bool(getattr(error, "severity", None))


def _by_sqlstate(error: asyncpg.PostgresError, address: PostgresAddress) -> StorageError:
    code, said = error.sqlstate, _line(error)
    match code:
        case "28P01":
            return _permanent(
                address,
                f"the password for {address.user!r} is wrong, or there is no such role",
                "correct user and password in the URL" + (_CERTIFIED if address.sslcert else ""),
                code,
            )
        case "28000":
            return _unauthorized(error, address)
        case "3D000":
            return _permanent(
                address,
                f"there is no database {address.database!r}",
                f"correct its name, or create it: createdb {address.database}",
                code,
            )
        case "42501":
            return _permanent(
                address,
                f"the server forbids it: {said}",
                f"grant {address.user} CONNECT on database {address.database}",
                code,
            )
        case "57P03":
            return _passing(address, f"the server is not ready: {said}", "", code)
        case "53300":
            return _passing(
                address,
                f"the server has no connection left: {said}",
                "raise max_connections there, or lower storage.connections",
                code,
            )
    if code == "08P01":
        return _by_pooler(said, address)
    if code in _PASSING_CODES:
        return _passing(address, said, "", code)
    return _permanent(address, said, "look into the server's log", code)


def _by_pooler(said: str, address: PostgresAddress) -> StorageError:
    code = "08P01"
    if _POOLER_PASSES.search(said):
        return _passing(address, f"the pooler says: {said}", "", code)
    if said.startswith("unsupported startup parameter"):
        hint = "is it PgBouncer? then name it with storage.pooler, and the server with database"
    elif "authentication failed" in said or said.startswith("no such user"):
        hint = "correct user and password, and let the pooler ask the server (auth_query)"
    elif "database" in said:
        hint = f"correct the name {address.database!r}, or add it to the pooler's [databases]"
    else:
        hint = "look into the pooler's log"
    return _permanent(address, f"the pooler says: {said}", hint, code)


def _unauthorized(error: asyncpg.PostgresError, address: PostgresAddress) -> StorageError:
    said = _line(error)
    if error.server_source_function == "InitializeSessionUserId":
        why, hint = said, "create the role with LOGIN, or correct the user in the URL"
    elif "certificate" in said:
        why = f"the server wants a certificate of {address.user!r}: {said}"
        hint = "name sslcert and sslkey in the URL; the certificate's CN is the role's name"
    elif _UNENCRYPTED.search(said) and address.sslmode is TlsMode.DISABLE and not address.is_local:
        why = f"the server does not take us without TLS: {said}"
        hint = "write sslmode=require or verify-full, or add a line to the server's pg_hba.conf"
    else:
        why, hint = said, "add a line to the server's pg_hba.conf"
    return _permanent(address, why, hint, error.sqlstate)


def _by_tls(error: ssl.SSLError, address: PostgresAddress) -> StorageError:
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        if "alert" in reason:
            return _permanent(
                address,
                f"the server did not take our TLS or our certificate: {reason}",
                "correct sslcert and sslkey",
            )
        return _permanent(address, f"TLS failed: {reason}", "look into the server's log")
    match error.verify_code:
        case code if code == _EXPIRED:
            why, hint = "the server's certificate has expired", "renew it at the server"
        case code if code == _NOT_YET_VALID:
            why, hint = "the server's certificate is not valid yet", "compare the two clocks"
        case code if code in _OTHER_NAMES:
            why = f"the server's certificate is not for {address.host!r}"
            hint = "write the host as the certificate has it, or sslmode=verify-ca"
        case _:
            why = f"the server's certificate is of an unknown authority ({error.verify_message})"
            hint = "name the authority's file with sslrootcert"
    return _permanent(address, why, hint)


def _by_os(error: OSError, address: PostgresAddress) -> StorageError:
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return _passing(address, f"no name server tells where {address.host} is", "")
        return _permanent(
            address, f"there is no host {address.host!r}", "correct the host in the URL"
        )
    if isinstance(error, TimeoutError) and error.errno is None:
        return _passing(
            address, "no answer in time", "is the server overloaded, or a firewall in between?"
        )
    number = _errno(error)
    match number:
        case errno.ECONNREFUSED:
            return _passing(
                address, "nobody listens there", "start the server, or correct host and port"
            )
        case errno.ENOENT:
            return _passing(
                address,
                f"there is no socket {address.socket}",
                "start the server, or correct the directory",
            )
        case errno.EACCES | errno.EPERM:
            return _permanent(
                address,
                f"uid {os.geteuid()} may not use it",
                "let that user into the socket's directory",
            )
        case None if _PATH_TOO_LONG in str(error):
            return _permanent(address, "the socket's path is too long", "choose a shorter one")
    text = os.strerror(number) if number else _line(error)
    return _passing(address, text or "the connection broke", "")


def _errno(error: OSError) -> int | None:
    """The first one, where several addresses of a host were tried and asyncio lists all."""
    if error.errno is None and (found := _BY_ERRNO.search(str(error))):
        return int(found[1])
    return error.errno


def _line(error: BaseException) -> str:
    """The error's own text on one line; for a server's only the message, no DETAIL."""
    text = getattr(error, "message", None) or str(error)
    return " ".join(str(text).split())


def _permanent(address: PostgresAddress, why: str, hint: str, code: str = "") -> StorageError:
    return StorageError(_sentence(address, why), hint=hint, sqlstate=code)


def _passing(address: PostgresAddress, why: str, hint: str, code: str = "") -> StorageError:
    return UnavailableError(_sentence(address, why), hint=hint, sqlstate=code)


def _sentence(address: PostgresAddress, why: str) -> str:
    text = f"cannot connect to {address}: {why}"
    return text.replace(address.password, "…") if len(address.password) > 3 else text
