"""The line of revisions: which there are, and which lie between two of them. Knows no database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alembic.script import Script, ScriptDirectory
from alembic.util.exc import CommandError

from dims.errors import StateError, UsageError
from dims.migrations.steps import REVISIONS

HEAD = "head"
BASE = "base"


@dataclass(frozen=True, slots=True)
class Revision:
    """One change."""

    id: str
    title: str
    script: Script


class History:
    """All revisions this DIMS knows, oldest first."""

    def __init__(self, *directories: Path) -> None:
        """`directories` hold further revisions. Raises StateError where they are no single line."""
        places = [str(place) for place in (REVISIONS, *directories)]
        try:
            found = ScriptDirectory(str(REVISIONS.parent), version_locations=places)
            scripts = list(found.walk_revisions())
            heads = found.get_heads()
        except (CommandError, SyntaxError) as error:
            raise StateError(f"the revisions cannot be read: {error}") from error
        if len(heads) != 1:
            raise StateError(f"the revisions end in {', '.join(heads)}: there must be one line")
        self.scripts = found
        self.revisions = tuple(
            Revision(script.revision, script.doc, script) for script in reversed(scripts)
        )
        self._places = {revision.id: n for n, revision in enumerate(self.revisions, start=1)}

    @property
    def head(self) -> Revision:
        """The newest."""
        return self.revisions[-1]

    def place(self, current: str | None) -> int:
        """How many revisions a database at `current` has; None has none. Raises StateError for one
        that is not known here."""
        if current is None:
            return 0
        if current not in self._places:
            raise StateError(
                f"the database is at revision {current}, which this DIMS does not know "
                f"(its newest is {self.head.id}): a newer one has been here",
                hint="run that newer DIMS, or let it roll back: `dims db rollback --to "
                f"{self.head.id}`",
            )
        return self._places[current]

    def target(self, name: str) -> int:
        """The place that `head`, `base`, a revision or the beginning of one names. Raises
        UsageError."""
        if name == HEAD:
            return len(self.revisions)
        if name == BASE:
            return 0
        found = [n for revision, n in self._places.items() if revision.startswith(name)]
        if name in self._places:
            found = [self._places[name]]
        if len(found) != 1 or not name:
            what = "there is no revision" if not found else "more than one revision begins with"
            raise UsageError(f"{what} '{name}'", hint="`dims db history` lists them")
        return found[0]

    def id_at(self, place: int) -> str | None:
        """The revision of a database that has so many; None for none."""
        return self.revisions[place - 1].id if place else None
