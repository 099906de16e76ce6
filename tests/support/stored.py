"""The embedded database of a fleet under test: its processes, its rows, what root keeps of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from fleet import Fleet

from dims.layout import Layout

WITHIN_S = 10.0


def data_of(layout: Layout) -> Path:
    """The directory of the database."""
    pointer = layout.state / "embedded.home"
    home = Path(pointer.read_text().strip()) if pointer.exists() else layout.state
    return home / "postgres" / "data"


def postmaster(layout: Layout) -> int:
    """Pid of the server's first process. Raises OSError or ValueError while it is away."""
    return int((data_of(layout) / "postmaster.pid").read_text().split("\n")[0])


def backends(layout: Layout) -> set[int]:
    """Pids of the processes that serve bots. Raises as `postmaster`."""
    found = set()
    pid = postmaster(layout)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            title = Path(f"/proc/{child}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"dims_bot_" in title:
            found.add(int(child))
    return found


def rows(layout: Layout, statement: str, *args: Any) -> list[Any]:
    """All rows of a statement, as the superuser, who sees those of every bot."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(
            host=str(layout.server_sockets("postgres")),
            user="dims",
            password=(layout.state / "postgres.password").read_text().strip(),
            database="postgres",
            timeout=WITHIN_S,
        )
        try:
            found: list[Any] = await connection.fetch(statement, *args)
            return found
        finally:
            await connection.close()

    return asyncio.run(run())


def forget(layout: Layout) -> None:
    """Removes what root's servers keep outside of the state directory."""
    pointer = layout.state / "embedded.home"
    if pointer.exists():
        shutil.rmtree(Path(pointer.read_text().strip()))


@contextmanager
def forgotten(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet; at the end nothing of it may be left, its data neither."""
    try:
        yield fleet
    finally:
        try:
            fleet.end()
        finally:
            forget(fleet.layout)
