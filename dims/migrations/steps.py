"""What a revision may call. The meaning of what is here never changes: old revisions rely on it."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from dims.storage.admin.blueprint import expand
from dims.storage.names import Shape

SHAPE = "dims_shape"
"""Key of the Shape among the options of the migration context."""
REVISIONS = Path(__file__).parent / "revisions"


def shape() -> Shape:
    """How the database that is being changed was made."""
    found = op.get_context().opts[SHAPE]
    assert isinstance(found, Shape)  # noqa: S101 (the runner puts it there)
    return found


def run(*templates: str) -> None:
    """Executes statements, one each, with `@prefix@` and `@n@` filled in (see `blueprint`)."""
    connection = op.get_bind()
    for statement in expand(templates, shape()):
        connection.exec_driver_sql(statement)


def run_file(name: str) -> None:
    """Executes a file beside the revisions; statements are separated by blank lines."""
    text = (REVISIONS / name).read_text("utf-8")
    run(*(part for part in text.strip().split("\n\n") if part.strip()))
