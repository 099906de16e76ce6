"""Each import contract of pyproject.toml is broken on purpose: what cannot fail checks nothing.

Works on a copy of the package's files in a directory of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VIOLATIONS = [
    ("layers", "dims/api.py", "import dims.cli.main"),
    ("layers", "dims/ipc/retry.py", "import dims.storage.names"),
    ("layers", "dims/storage/names.py", "import dims.ipc.retry"),
    ("layers", "dims/config/models.py", "import dims.ipc.retry"),
    ("layers", "dims/supervisor/brain/bonds/links.py", "import dims.bot_worker.lease"),
    ("telethon", "dims/storage/names.py", "import telethon"),
    ("drivers", "dims/ipc/retry.py", "import asyncpg"),
    ("supervisor", "dims/supervisor/brain/engine.py", "import dims.storage.names"),
    ("psutil", "dims/supervisor/brain/cpu_use.py", "import psutil"),
    ("machine", "dims/supervisor/zygote/forked.py", "import dims.system.machine"),
    ("core", "dims/supervisor/core/backoff.py", "import dims.layout"),
    ("worker", "dims/bot_worker/lease.py", "import dims.config"),
    ("services", "dims/services/steward/roles.py", "import dims.services.embedded.service"),
    ("sandbox", "dims/sandbox/drills.py", "import dims.storage.names"),
    ("bot-storage", "dims/storage/bot/replica.py", "import dims.storage.admin.scram"),
    ("embedded", "dims/storage/embedded/home.py", "import dims.storage.admin.scram"),
]
"""A contract's id, the file that breaks it, and the line it is broken with."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its contracts, free to be spoilt."""
    place = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "dims", place / "dims", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place


def lint(place: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """What the linter says of some contracts, else of all, about the package in `place`."""
    program = Path(sys.executable).with_name("lint-imports")
    named = [word for contract in contracts for word in ("--contract", contract)]
    return subprocess.run(
        [program, *named, "--cache-dir", str(place / "cache")],
        cwd=place, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_every_contract_is_broken_here() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    assert sorted(contract["id"] for contract in contracts) == sorted(
        {row[0] for row in VIOLATIONS}
    )


def test_every_contract_is_kept_until_it_is_broken(copy: Path) -> None:
    kept = lint(copy)
    assert kept.returncode == 0, kept.stdout


@pytest.mark.parametrize(("contract", "name", "line"), VIOLATIONS)
def test_a_broken_contract_is_noticed(copy: Path, contract: str, name: str, line: str) -> None:
    path = copy / name
    former = path.read_text() if path.exists() else None
    try:
        path.write_text(f"{former or ''}\n{line}\n")
        broken = lint(copy, contract)
    finally:
        path.unlink() if former is None else path.write_text(former)
    assert broken.returncode == 1
    assert "BROKEN" in broken.stdout or "Missing layer" in broken.stdout
    assert path.stem in broken.stdout
