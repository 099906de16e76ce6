"""bots.yaml and the environment in, one valid `Config` or all its faults out.

Joins the parts; each part notes its faults on the `Ground`, and the error is raised once at
the end, outside any `except`, so that it drags no input along.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dims.config.bots_section import read_bots
from dims.config.grants_section import read_grants
from dims.config.models import Config, DefaultSettings, FleetSettings, IpcSettings
from dims.config.storage_section import read_storage
from dims.config.telegram_section import read_telegram
from dims.config.text import document
from dims.config.text.complaints import unknown_key
from dims.config.text.document import Scalar, Table
from dims.config.text.faults import Fault, Mark, lines
from dims.config.text.files import HOW_TO_BEGIN, read_config_text
from dims.config.text.ground import Ground, tidy
from dims.config.text.variables import OWN_NAMES, names_in, read_dotenv
from dims.errors import ConfigError

SECTIONS = ["telegram", "fleet", "ipc", "grants", "storage", "defaults", "bots"]


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in the file, with variables from `environ` and the .env beside it.

    Where both have a name, `environ` wins. Raises `ConfigError` with every fault.
    """
    ground = _open(path, environ)
    for key in ground.data:
        if key not in SECTIONS:
            ground.fault((key,), unknown_key(key, SECTIONS), of_key=True)
    server, telegram = read_telegram(ground)
    fleet = ground.section(FleetSettings, ("fleet",), ground.data.get("fleet") or {})
    ipc = ground.section(IpcSettings, ("ipc",), ground.data.get("ipc") or {})
    raw_defaults = tidy(ground.data.get("defaults") or {})
    defaults = ground.section(DefaultSettings, ("defaults",), raw_defaults)
    bots = read_bots(ground, server.kind if server else None)
    grants = read_grants(ground)
    storage = read_storage(ground)
    if ground.faults or telegram is None or storage is None:
        raise _error(path, ground.faults)
    return Config(
        path=path,
        directory=ground.directory,
        telegram=telegram,
        fleet=fleet,
        ipc=ipc,
        grants=grants,
        storage=storage,
        defaults=defaults,
        bots=bots,
        sources=ground.sources,
    )


def referenced_variables(path: Path) -> frozenset[str]:
    """The names of all ${NAME} in the values of the file; raises `ConfigError`."""
    root, faults = document.parse(read_config_text(path), path.name)
    if root is None and faults:
        raise _error(path, faults)
    return frozenset(name for scalar in document.scalars(root) for name in names_in(scalar.text))


def read_environment(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` that the file uses, and DIMS's own; all else stays out.

    Without those of .env, which `load_config` reads itself, so that a later change of it counts.
    Raises `ConfigError`.
    """
    wanted = referenced_variables(path) | OWN_NAMES
    return {name: environ[name] for name in sorted(wanted) if name in environ}


def _open(path: Path, environ: Mapping[str, str]) -> Ground:
    """The ground with what is wrong already; raises when there is nothing to stand on."""
    root, faults = document.parse(read_config_text(path), path.name)
    dotenv, dotenv_faults = read_dotenv(path.parent / ".env")
    faults += dotenv_faults
    if isinstance(root, Table):
        return Ground(path, root, {**dotenv, **environ}, faults)
    if root is None and faults:
        raise _error(path, faults)
    if root is None or (isinstance(root, Scalar) and root.value() is None):
        fault = Fault(path.name, Mark(1, 1), "the file is empty")
        raise ConfigError(lines([fault]), hint=HOW_TO_BEGIN)
    text = f"the file must be a mapping with the keys {', '.join(SECTIONS)}"
    raise _error(path, [*faults, Fault(path.name, root.mark, text)])


def _error(path: Path, faults: list[Fault]) -> ConfigError:
    return ConfigError(lines(faults), hint=f"mend {path} and try again")
