"""What pages point at is there: links, anchors, and the files, modules and tests they name."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fleet import REPOSITORY

FOUND = [
    *(REPOSITORY / page for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
PAGES = [page.relative_to(REPOSITORY).as_posix() for page in FOUND]
NOW = [page for page in PAGES if not page.startswith("docs/decisions/")]
"""Decisions of the past may name what was."""
FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FILE = re.compile(r"(?<![\w/.-])(?:dims|tests|benchmarks|docs|examples)(?:/[\w*-]+)+(?:\.\w+)?")
PYTHON = re.compile(r"`((?:[\w-]+/)*[\w-]+\.py)`")
MODULE = re.compile(r"\bdims(?:\.[a-z_]+)+\b")
TEST = re.compile(r"`(test_\w+)`")
TABLES = {"dims.messages"}
"""The schema of the database has the package's name."""
FILES = [
    path.as_posix()
    for top in ("dims", "tests", "benchmarks", "docs", "examples")
    for path in (REPOSITORY / top).rglob("*.py")
]
TESTS = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text("utf-8")


def anchors(page: str) -> set[str]:
    """The anchors that headings give, as GitHub makes them."""
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", text_of(page))):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        found.append(anchor)
    return {
        f"{anchor}-{found[:at].count(anchor)}".removesuffix("-0") for at, anchor in enumerate(found)
    }


def leads_somewhere(page: str, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = ((REPOSITORY / page).parent / path if path else REPOSITORY / page).resolve()
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.relative_to(REPOSITORY).as_posix())


def links(page: str) -> list[str]:
    """Links of a page to places within the repository."""
    return [link for link in LINK.findall(FENCE.sub("", text_of(page))) if "://" not in link]


def is_module(name: str) -> bool:
    path = REPOSITORY.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def lost_names(page: str) -> Iterator[str]:
    """Files, modules and tests that a page names and nobody has."""
    text = text_of(page)
    yield from (name for name in FILE.findall(text) if not list(REPOSITORY.glob(name)))
    yield from (name for name in MODULE.findall(text) if not (is_module(name) or name in TABLES))
    for name in PYTHON.findall(text):
        if not any(file.endswith("/" + name) for file in FILES):
            yield name
    yield from (name for name in TEST.findall(text) if f"def {name}(" not in TESTS)


def test_there_are_pages_links_and_names_to_look_at() -> None:
    texts = "".join(map(text_of, NOW))
    assert "docs/decisions/0001-packages-inside-dims.md" in PAGES
    assert "messages.md#on-the-disk" in links("docs/architecture.md")
    assert not leads_somewhere("docs/architecture.md", "messages.md#on-the-moon")
    assert not leads_somewhere("README.md", "docs/moon.md")
    assert "dims/cli/main.py" in FILE.findall(texts)
    assert "dims.sandbox" in MODULE.findall(texts)
    assert not is_module("dims.moon")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    assert [link for link in links(page) if not leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", NOW)
def test_every_file_module_and_test_that_a_page_names_is_there(page: str) -> None:
    assert list(lost_names(page)) == []
