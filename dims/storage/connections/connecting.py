"""How a connection to PostgreSQL is opened: everything is told, nothing taken from elsewhere.

The driver would ask PG* variables, ~/.pgpass and ~/.postgresql for what is not told; a worker's
environment and home belong to the bot. Why it failed is put into words by `refusals`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any

import asyncpg

from dims.addresses import PostgresAddress, TlsMode
from dims.errors import DimsError
from dims.storage.connections.greeting import greet
from dims.storage.connections.refusals import explain
from dims.storage.connections.storage_errors import StorageError, is_passing
from dims.storage.connections.timed import TimedConnection
from dims.storage.connections.tls import context_for

__all__ = ["OLDEST_MAJOR", "connect", "explain", "is_passing", "use_json_text"]

OLDEST_MAJOR = 15
CLIENT_GRACE_S = 0.5
"""The server ends a statement that takes too long; only a server that does not is cut off, later,
as that costs a connection."""
_LOOKED_INTO = (
    TimeoutError,
    ConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.InternalClientError,
)
"""Failures after which somebody else than PostgreSQL may sit at the address."""


async def connect(
    address: PostgresAddress,
    *,
    timeout_s: float,
    application_name: str,
    statement_s: float | None = None,
    through_pooler: bool = False,
    json_codecs: bool = True,
) -> TimedConnection:
    """An open connection; whoever gets it closes it.

    `statement_s` is the limit of one statement in seconds, kept by the server and, for one that
    hangs, by the driver. `through_pooler` (PgBouncer in transaction mode) prepares no statements
    and asks for no setting that a pooler does not know; then only the driver keeps the limit.
    With `json_codecs` a parameter of json or jsonb is JSON text, and results are Python values.

    Raises UnavailableError for what may pass, StorageError for the rest, both in one line.
    """
    if not address.user:
        raise StorageError(f"the URL of {address} names no user", hint="postgresql://USER:…@…")
    options = _options(address, application_name, statement_s, through_pooler)
    try:
        async with asyncio.timeout(timeout_s):
            connection = await _by_mode(address, options)
    except DimsError:
        raise
    except ConnectionRefusedError as error:
        raise explain(error, address) from error
    except _LOOKED_INTO as error:
        raise explain(error, address, greeting=await greet(address)) from error
    except Exception as error:  # Whatever the driver raises is a failure to connect.
        raise explain(error, address) from error
    try:
        _check_version(connection, address)
        if statement_s is not None:
            connection.limit(statement_s + CLIENT_GRACE_S)
        if json_codecs:
            await use_json_text(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def use_json_text(connection: asyncpg.Connection) -> None:
    """Parameters of json and jsonb are JSON text from now on, results Python values.

    No round trip: the driver knows the types of pg_catalog.
    """
    for name, decoder in _JSON_TYPES.items():
        await connection.set_type_codec(
            name, schema="pg_catalog", encoder=_unchanged, decoder=decoder, format="text"
        )


def _load(text: str) -> Any:
    """Half the time of `json.loads`, for JSON without blanks around it, as jsonb always is."""
    value, _ = _decode(text)
    return value


_decode = json.JSONDecoder().raw_decode
_JSON_TYPES: dict[str, Callable[[str], Any]] = {"json": json.loads, "jsonb": _load}


def _unchanged(text: str) -> str:
    return text


def _options(
    address: PostgresAddress,
    application_name: str,
    statement_s: float | None,
    through_pooler: bool,
) -> dict[str, Any]:
    """The driver's arguments: all that it would look up elsewhere were it not told."""
    settings = {"application_name": application_name}
    if statement_s is not None and not through_pooler:
        settings["statement_timeout"] = str(max(1, round(statement_s * 1000)))
    options: dict[str, Any] = {
        "host": [address.host],
        "port": address.port,
        "user": address.user,
        "password": address.password,
        "database": address.database,
        "timeout": None,
        "connection_class": TimedConnection,
        "server_settings": settings,
        "direct_tls": False,
        "target_session_attrs": "any",
        "krbsrvname": "postgres",
        "gsslib": "gssapi",
    }
    if through_pooler:
        options["statement_cache_size"] = 0
    return options


async def _by_mode(address: PostgresAddress, options: dict[str, Any]) -> TimedConnection:
    """As libpq: `prefer` and `allow` try the other way when the first is refused before the
    session begins (PostgreSQL manual 34.19.3)."""
    mode = TlsMode.DISABLE if address.is_local else address.sslmode
    match mode:
        case TlsMode.DISABLE:
            return await _once(False, options)
        case TlsMode.REQUIRE | TlsMode.VERIFY_CA | TlsMode.VERIFY_FULL:
            return await _once(context_for(address), options)
        case TlsMode.ALLOW:
            ways: tuple[ssl.SSLContext | bool, ...] = (False, context_for(address))
        case TlsMode.PREFER:
            ways = (context_for(address), False)
    try:
        return await _once(ways[0], options)
    except (asyncpg.InvalidAuthorizationSpecificationError, OSError) as first:
        if not _may_go_the_other_way(first):
            raise
        try:
            return await _once(ways[1], options)
        except (asyncpg.InvalidAuthorizationSpecificationError, OSError) as second:
            raise _the_telling_one(first, second) from None


async def _once(way: ssl.SSLContext | bool, options: dict[str, Any]) -> TimedConnection:
    opened: TimedConnection = await asyncpg.connect(ssl=way, **options)
    return opened


def _may_go_the_other_way(error: Exception) -> bool:
    return _is_about_tls(error) or isinstance(error, asyncpg.PostgresError)


def _is_about_tls(error: Exception) -> bool:
    # The driver has no class of its own for a server without TLS.
    return type(error) is ConnectionError or isinstance(error, ssl.SSLError)


def _the_telling_one(first: Exception, second: Exception) -> Exception:
    """A refused password says more than the lack of a line in pg_hba.conf for the other way."""
    if not isinstance(first, asyncpg.PostgresError):
        return second
    is_weaker = isinstance(second, asyncpg.PostgresError) and not isinstance(
        second, asyncpg.InvalidPasswordError
    )
    return first if is_weaker or _is_about_tls(second) else second


def _check_version(connection: asyncpg.Connection, address: PostgresAddress) -> None:
    version = connection.get_server_version()
    if version.major < OLDEST_MAJOR:
        raise StorageError(
            f"cannot connect to {address}: it is PostgreSQL {version.major}",
            hint=f"DIMS needs {OLDEST_MAJOR} or newer",
        )
