"""What bot authors send: any JSON value or pydantic model, as the object that an envelope holds.

A mapping travels as it is; anything else, and a mapping that would look like such a wrapper, under
the one key `~`. Pure: knows pydantic's two methods by name and imports nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ONLY = "~"


def wrap_body(body: Any) -> Mapping[str, Any]:
    """The body as a JSON object; `None` is an empty one. Whether it is JSON shows when it is
    encoded."""
    dump = getattr(body, "model_dump", None)
    if dump is not None:
        body = dump(mode="json")
    if body is None:
        return {}
    if isinstance(body, Mapping) and tuple(body) != (_ONLY,):
        return body if isinstance(body, dict) else dict(body)
    return {_ONLY: body}


def unwrap_body(body: Mapping[str, Any], model: Any = None) -> Any:
    """What was sent; an instance of `model`, a pydantic model, where one is given.

    Raises ValueError (pydantic's ValidationError is one) when the model does not fit.
    """
    value = body[_ONLY] if tuple(body) == (_ONLY,) else body
    return value if model is None else model.model_validate(value)
