"""What stands where a server is named: a word, or a URL that is kept secret.

Judges text alone; no error repeats what was written, which may be a password.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from dims.addresses import POSTGRES_EXAMPLE, REDIS_EXAMPLE, check_redis_url, parse_postgres_url
from dims.config.text.variables import FromVariable
from dims.wording import did_you_mean


class DatabaseKind(StrEnum):
    """Where a server that keeps data comes from: DIMS runs it, nobody does, or a URL names it."""

    EMBEDDED = "embedded"
    OFF = "off"
    URL = "url"


_WORDS = [DatabaseKind.EMBEDDED.value, DatabaseKind.OFF.value]


def _postgres(value: object) -> object:
    return _kind_or_url(value, parse_postgres_url, POSTGRES_EXAMPLE)


def _redis(value: object) -> object:
    return _kind_or_url(value, check_redis_url, REDIS_EXAMPLE)


def _url_or_none(value: object) -> object:
    if value is None:
        return None
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ValueError(f"must be {POSTGRES_EXAMPLE}")  # noqa: TRY004 (pydantic wants it)
    return _secret(text, parse_postgres_url)


def _kind_or_url(value: object, check: Callable[[str], object], example: str) -> object:
    if value in _WORDS:
        return DatabaseKind(str(value))
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(text, str) and ":" in text:
        return _secret(text, check)
    is_written = isinstance(text, str) and not isinstance(text, FromVariable)
    near = f".{did_you_mean(str(text), _WORDS)}" if is_written else ""
    raise ValueError(f"must be {', '.join(_WORDS)} or {example}{near}")


def _secret(url: str, check: Callable[[str], object]) -> SecretStr:
    try:
        check(url)
    except ValueError as error:
        raise ValueError(f"is wrong: {error}") from None
    return SecretStr(str(url))


Database = Annotated[DatabaseKind | SecretStr, BeforeValidator(_postgres)]
Redis = Annotated[DatabaseKind | SecretStr, BeforeValidator(_redis)]
OtherDatabase = Annotated[SecretStr | None, BeforeValidator(_url_or_none)]
