"""The Python that the documentation shows."""

from __future__ import annotations

from fleet import REPOSITORY


def python_of(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    blocks = (REPOSITORY / page).read_text("utf-8").split("```python\n")[1:]
    return [block.split("```")[0] for block in blocks]


def pages() -> dict[str, int]:
    """Every page that shows Python, and how many blocks of it."""
    found = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    names = [page.relative_to(REPOSITORY).as_posix() for page in found]
    return {name: len(python_of(name)) for name in names if python_of(name)}
