"""Errors as they travel between processes: one way to write them, one to read them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dims.errors
from dims.errors import ConfigError, DimsError, FullError, ProtocolError


def error_body(error: DimsError) -> dict[str, Any]:
    """The body of an `error` message: type, message, hint, and when to try again if it says so."""
    # A class of one module's own is told as what it is to all others.
    family = type(error).__mro__
    known = next(one for one in family if getattr(dims.errors, one.__name__, None) is one)
    body: dict[str, Any] = {"type": known.__name__, "message": str(error), "hint": error.hint}
    if isinstance(error, FullError):
        body["retry_after_s"] = error.retry_after_s
    return body


def error_from(body: Mapping[str, Any]) -> DimsError:
    """The error that the other side described, as our own type where it is one of ours."""
    kind = getattr(dims.errors, str(body.get("type")), None)
    message, hint = str(body.get("message", "unknown error")), str(body.get("hint", ""))
    if kind is ConfigError:
        return ConfigError(message.splitlines(), hint=hint)
    if kind is FullError:
        wait_s = body.get("retry_after_s")
        return FullError(
            message, hint=hint, retry_after_s=wait_s if isinstance(wait_s, int | float) else 1.0
        )
    if isinstance(kind, type) and issubclass(kind, DimsError):
        return kind(message, hint=hint)
    return ProtocolError(message, hint=hint)
