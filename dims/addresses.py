"""Addresses of PostgreSQL and Redis servers, read from URLs. Pure: connects to nothing.

Only what is known is taken: a parameter that is misspelt must not silently leave a connection
without encryption. No text of an error repeats a part of the URL: where a password was not
encoded, pieces of it stand wherever the URL's syntax puts them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from dims.wording import did_you_mean

POSTGRES_SCHEMES = ("postgresql", "postgres")
POSTGRES_PORT = 5432
POSTGRES_EXAMPLE = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
REDIS_SCHEMES = ("redis", "rediss", "unix")
REDIS_EXAMPLE = "redis://:PASSWORD@HOST:6379/0"


class TlsMode(StrEnum):
    """As libpq's sslmode (PostgreSQL manual 32.19.1)."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


TLS_FILES = ("sslrootcert", "sslcert", "sslkey")
_SYSTEM = "system"
"""As `sslrootcert`: the authorities of the system (PostgreSQL manual 32.19.1)."""
_PARAMETERS = ("sslmode", *TLS_FILES, "host", "application_name")
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NAME = re.compile(r"[\w.-]+")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class PostgresAddress:
    """One database of one server, and as whom to go there. The repr shows no password."""

    host: str
    """A name, an IP address, or the directory of a Unix socket, which begins with `/`."""
    port: int = POSTGRES_PORT
    database: str = "postgres"
    user: str = ""
    password: str = field(default="", repr=False)
    sslmode: TlsMode = TlsMode.PREFER
    sslrootcert: str = ""
    """File of the authorities to trust; empty: those of the system."""
    sslcert: str = ""
    sslkey: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is a Unix socket, which needs no encryption."""
        return self.host.startswith("/")

    @property
    def socket(self) -> str:
        """The socket's path, where it is one; the name is PostgreSQL's (unix_socket_directories in
        its manual)."""
        return f"{self.host}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        """For people: without password and files."""
        place = self.host if self.is_local else f"{_bracketed(self.host)}:{self.port}"
        user = f"{self.user}@" if self.user else ""
        return f"{user}{place}/{self.database}"

    def as_user(self, user: str, password: str) -> PostgresAddress:
        """The same database for somebody else."""
        return replace(self, user=user, password=password)


def parse_postgres_url(url: str) -> PostgresAddress:
    """The address in `postgresql://user:password@host:port/database?sslmode=verify-full`.

    A socket's directory is `postgresql://user@/database?host=/run/postgresql`, or the host with
    `%2F` for each slash. Raises ValueError, whose text says what is wrong and never repeats the
    URL, which has a password in it.
    """
    parts = _split(url, POSTGRES_SCHEMES, POSTGRES_EXAMPLE)
    if not parts.user:
        raise ValueError(f"the URL names no user: {POSTGRES_EXAMPLE}")
    options = _options(parts.query)
    if "/" in parts.path:
        raise ValueError(f"the URL has more than a database behind the host: {POSTGRES_EXAMPLE}")
    root = options.get("sslrootcert", "")
    return PostgresAddress(
        host=_postgres_host(parts.host, options.get("host", "")),
        port=POSTGRES_PORT if parts.port is None else parts.port,
        database=_decoded(parts.path) or parts.user,
        user=parts.user,
        password=parts.password,
        sslmode=_sslmode(options.get("sslmode"), root),
        sslrootcert="" if root == _SYSTEM else root,
        sslcert=options.get("sslcert", ""),
        sslkey=options.get("sslkey", ""),
    )


def anchored(url: str, directory: Path) -> str:
    """The URL of a PostgreSQL server with the TLS files absolute, relative ones from there."""
    place, mark, query = url.partition("?")
    return place + mark + "&".join(_anchored(option, directory) for option in query.split("&"))


def check_redis_url(url: str) -> str:
    """The URL itself, when it is `redis://`, `rediss://` or `unix://` with a place. Raises
    ValueError, whose text never repeats the URL."""
    parts = _split(url, REDIS_SCHEMES, REDIS_EXAMPLE)
    if parts.scheme == "unix":
        if not parts.path or parts.host:
            raise ValueError("the URL names no socket: unix:///PATH/OF/SOCKET")
    elif not parts.host:
        raise ValueError(f"the URL names no host: {REDIS_EXAMPLE}")
    elif parts.path and not _PORT.fullmatch(parts.path):
        raise ValueError(f"the database in the URL is no number: {REDIS_EXAMPLE}")
    return url


class _Parts(NamedTuple):
    """A URL in pieces: decoded, but for path (without the first slash) and query."""

    scheme: str
    user: str
    password: str
    host: str
    port: int | None
    path: str
    query: str


def _split(url: str, schemes: tuple[str, ...], example: str) -> _Parts:
    """Not urlsplit: that one puts the host, which may be a directory, in lower case, drops line
    ends, and quotes pieces of the URL in its errors."""
    scheme, slashes, rest = url.partition("://")
    if scheme.lower() not in schemes or not slashes:
        raise ValueError(f"not a URL such as {example}")
    if "#" in rest:
        raise ValueError("a '#' ends the URL: write %23 where it belongs to the password")
    if _NOT_ENCODED.search(rest):
        raise ValueError("a '%' in the URL begins no code: write %25 where it stands for itself")
    if not rest.isprintable() or " " in rest:
        raise ValueError("the URL has a space or a line end in it: write %20 for a space")
    before_query, _, query = rest.partition("?")
    authority, _, path = before_query.partition("/")
    if "@" in path or "@" in query:
        raise ValueError(
            "an '@' stands behind the host: write %40 for '@', %2F for '/' and %3F for '?' "
            "where they belong to the password"
        )
    login, _, place = authority.rpartition("@")
    user, _, password = login.partition(":")
    host, port = _place(place)
    return _Parts(scheme.lower(), _decoded(user), _decoded(password), host, port, path, query)


def _place(place: str) -> tuple[str, int | None]:
    if place.startswith("["):
        host, bracket, rest = place[1:].partition("]")
        if not bracket or rest[:1] not in {"", ":"} or not _is_ip6(_decoded(host)):
            raise ValueError("the host in the URL is malformed: an IPv6 address looks like [::1]")
        return _decoded(host), _port(rest[1:])
    if place.count(":") > 1:
        raise ValueError("the host in the URL is malformed: an IPv6 address stands in [ ]")
    host, _, port = place.partition(":")
    return _decoded(host), _port(port)


def _is_ip6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _port(port: str) -> int | None:
    if not port:
        return None
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65_535:
        raise ValueError("the port in the URL is no number from 1 to 65535")
    return int(port)


def _decoded(text: str) -> str:
    decoded = unquote(text)
    # unquote puts this where the bytes are no UTF-8.
    if "\ufffd" in decoded or "\0" in decoded:
        raise ValueError("the URL has a %-code in it that is no UTF-8 text")
    return decoded


def _options(query: str) -> dict[str, str]:
    """Not parse_qsl: that one turns the '+' in a file's name to a space."""
    options: dict[str, str] = {}
    for option in query.split("&") if query else []:
        name, _, value = option.partition("=")
        if name not in _PARAMETERS:
            raise ValueError(
                f"the URL has an unknown parameter.{did_you_mean(name, _PARAMETERS)}"
                f" Known are {', '.join(_PARAMETERS)}"
            )
        if not value or name in options:
            fault = "is there twice; keep one" if value else "is empty; give it a value"
            raise ValueError(f"the parameter {name} of the URL {fault}")
        options[name] = _decoded(value)
    if ("sslcert" in options) != ("sslkey" in options):
        raise ValueError("sslcert and sslkey belong together: name both or neither")
    return options


def _postgres_host(host: str, option: str) -> str:
    if host and option:
        raise ValueError("the URL names the host twice; keep one")
    host = host or option
    if not host:
        raise ValueError(f"the URL names no host: {POSTGRES_EXAMPLE}")
    if "," in host:
        raise ValueError("the URL names several hosts; name one")
    if not (host.startswith("/") or _NAME.fullmatch(host) or _is_ip6(host)):
        raise ValueError("the host in the URL is malformed; a socket's directory begins with '/'")
    return host


def _sslmode(given: str | None, root: str) -> TlsMode:
    """libpq's rule: who names the system's authorities wants verify-full and nothing less."""
    if given is None:
        return TlsMode.VERIFY_FULL if root == _SYSTEM else TlsMode.PREFER
    known = [mode.value for mode in TlsMode]
    if given not in known:
        raise ValueError(f"sslmode must be one of {', '.join(known)}.{did_you_mean(given, known)}")
    mode = TlsMode(given)
    if root == _SYSTEM and mode is not TlsMode.VERIFY_FULL:
        raise ValueError("sslrootcert=system wants sslmode=verify-full")
    return mode


def _anchored(option: str, directory: Path) -> str:
    name, _, value = option.partition("=")
    if name not in TLS_FILES or not value or value == _SYSTEM:
        return option
    return f"{name}={quote(str(directory / unquote(value)))}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
