"""The section `grants`: who may send what to whom, each name checked against the bots.

Judges the words, not the messages: what a grant means is decided in `dims.ipc.grants`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from dims.config.models import GrantSettings
from dims.config.text.complaints import validate
from dims.config.text.document import ItemPath
from dims.config.text.ground import Ground
from dims.config.text.variables import FromVariable
from dims.wording import did_you_mean

BRAIN = "brain"
CONTROL_KINDS = ("start", "stop", "restart", "status")
"""What a bot may ask of the brain, where a grant names it."""

_LISTS = frozenset({"from", "to", "kinds"})


def read_grants(ground: Ground) -> tuple[GrantSettings, ...]:
    """The grants without a fault, in the order of the file."""
    raw = ground.data.get("grants")
    if raw is None:
        return ()
    if not isinstance(raw, list):
        ground.fault(("grants",), "grants must be a list; begin each grant with '- from: ...'")
        return ()
    made = [_grant(ground, index, value) for index, value in enumerate(raw)]
    return tuple(grant for grant in made if grant is not None)


def _grant(ground: Ground, index: int, value: Any) -> GrantSettings | None:
    here: ItemPath = ("grants", index)
    if not isinstance(value, dict):
        ground.fault(here, "a grant must be a mapping (from: ..., to: ..., kinds: ...)")
        return None
    # A single word stands for a list of one; a fault in it belongs to the word itself.
    single = {key for key in _LISTS & value.keys() if not isinstance(value[key], list | dict)}
    raw = value | {key: [value[key]] for key in single}
    made, complaints = validate(GrantSettings, raw, "a grant")
    for path, of_key, text in complaints:
        written = path[:1] if path[0] in single else path
        ground.fault((*here, *written), text, of_key=of_key)
    if not isinstance(made, GrantSettings):
        return None
    _check_bots(ground, here, raw)
    if BRAIN in made.to:
        _check_control(ground, here, raw)
    return made


def _check_bots(ground: Ground, here: ItemPath, raw: dict[str, Any]) -> None:
    known = list(_written_ids(ground.data.get("bots")))
    for key, also in (("from", []), ("to", [BRAIN])):
        for index, glob in enumerate(raw[key]):
            if known and glob not in also and not any(fnmatchcase(name, glob) for name in known):
                text = f"{key}: {_shown(glob)} matches no bot.{_near(glob, known + also)}"
                ground.fault(_place(ground, (*here, key), index), text)


def _check_control(ground: Ground, here: ItemPath, raw: dict[str, Any]) -> None:
    """The brain obeys commands: each must be written out, so that none is granted by accident."""
    wanted = ", ".join(CONTROL_KINDS)
    if "kinds" not in raw:
        text = f"kinds is missing; for {BRAIN} list some of {wanted}"
        ground.fault((*here, "kinds"), text)
    for index, kind in enumerate(raw.get("kinds", [])):
        if kind not in CONTROL_KINDS:
            near = _near(kind, list(CONTROL_KINDS))
            text = f"kinds for {BRAIN} must be some of {wanted}, not {_shown(kind)}.{near}"
            ground.fault(_place(ground, (*here, "kinds"), index), text)


def _written_ids(bots: object) -> Iterator[str]:
    """The ids in the file, those of faulty bots too: their grants are not wrong as well."""
    for bot in bots if isinstance(bots, list) else []:
        if isinstance(bot, dict) and isinstance(bot.get("id"), str):
            yield bot["id"]


def _place(ground: Ground, path: ItemPath, index: int) -> ItemPath:
    return (*path, index) if ground.has((*path, index)) else path


def _shown(glob: str) -> str:
    return "the value of the variable" if isinstance(glob, FromVariable) else f"'{glob}'"


def _near(glob: str, known: list[str]) -> str:
    return "" if isinstance(glob, FromVariable) else did_you_mean(glob, known)
