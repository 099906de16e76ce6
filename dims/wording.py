"""Words of other people in our sentences: quoted when safe, and what they may have meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_QUOTABLE = re.compile(r"[\w@./-][\w@./ -]{0,39}")


def quoted(word: object) -> str:
    """The word in quotes when it is short and simple, else nothing that could be a secret."""
    text = str(word)
    return f"'{text}'" if _QUOTABLE.fullmatch(text) else "(not shown)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known word, or an empty text."""
    known = list(known)
    if len(word) >= 3 and (longer := [name for name in known if name.startswith(word)]):
        return f" Did you mean '{longer[0]}'?"
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
