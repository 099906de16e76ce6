"""Sentences of `dims.ipc.words` as the bodies of envelopes, and back. Pure.

msgspec checks every type on the way in; what an older or newer DIMS says besides is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from dims.errors import ProtocolError, RefusedError

T = TypeVar("T")

_REPEATED = re.compile(r"(?s)(Invalid (?:enum )?value) .*?( - at `[^`]*`)?\Z")
"""What msgspec says of a choice that is not known, the one fault of which it repeats the value."""


class Sentence(Protocol):
    """A frozen dataclass of `dims.ipc.words` that can be said."""

    @property
    def kind(self) -> str:
        """Its name on the wire."""


class Vocabulary(dict[str, type[Any]]):
    """The kinds that one end of a link understands."""

    def __init__(self, *sentences: type[Any]) -> None:
        super().__init__({sentence.kind: sentence for sentence in sentences})

    def read(self, kind: str, body: Mapping[str, Any], who: str) -> Any:
        """The sentence of that kind. Raises RefusedError for a kind that `who`, who is told it,
        does not know, and ProtocolError for a body of the wrong shape."""
        sentence = self.get(kind)
        if sentence is None:
            raise RefusedError(
                f"{who} does not know {kind!r}", hint="one of the two may be older than the other"
            )
        return read(sentence, body)


def read(sentence: type[T], body: object) -> T:
    """The sentence in a decoded JSON object. Raises ProtocolError, which names field and fault
    but repeats no value: it may be a secret, or as long as a frame."""
    try:
        return msgspec.convert(body, sentence, dec_hook=_path)
    except msgspec.ValidationError as error:
        fault = _REPEATED.sub(r"\1\2", str(error))
        raise ProtocolError(f"a malformed {sentence.__name__}: {fault}") from None


def written(sentence: object) -> dict[str, Any]:
    """The sentence as a JSON object."""
    body: dict[str, Any] = msgspec.to_builtins(sentence, enc_hook=str)
    return body


def _path(wanted: type[Any], said: object) -> Path:
    if wanted is not Path:
        raise NotImplementedError(wanted)
    if not isinstance(said, str):
        # msgspec adds the place, and raises it as its own.
        raise TypeError(f"Expected `str`, got `{type(said).__name__}`")
    return Path(said)
