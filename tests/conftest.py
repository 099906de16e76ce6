"""Fixtures that integration and acceptance tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet, MakeFleet
from hypothesis import settings

from dims.system.prctl import become_subreaper

# A deadline for each example would be a timed test: a loaded machine is no fault.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _orphans_come_to_us() -> Iterator[None]:
    """As init does: where pid 1 of a container reaps nothing, our dead would pile up."""
    become_subreaper()
    yield
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[MakeFleet]:
    """Makes fleets, not started yet; at the end nothing of them may be left."""
    fleets: list[Fleet] = []

    def make(bots_yaml: str | None = None, **options: Any) -> Fleet:
        fleets.append(Fleet(tmp_path / f"fleet{len(fleets)}", bots_yaml, **options))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.end()
