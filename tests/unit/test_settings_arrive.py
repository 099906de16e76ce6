"""What is configured arrives: no setting is read and then forgotten on its way to its user."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dims.config import (
    BotSettings,
    Config,
    IpcSettings,
    LimitSettings,
    PoolSettings,
    PostgresAddress,
    RestartSettings,
    ServerKind,
    ServerSettings,
    StorageSettings,
    TelegramSettings,
)
from dims.ipc.wire.sentences import read, written
from dims.ipc.words.terms import Limits, TelegramAddress, WorkerTerms
from dims.layout import Layout
from dims.storage.connections.pool import PoolLimits
from dims.supervisor.core.states import Policy
from dims.supervisor.units.units import policy_of
from dims.supervisor.units.worker_terms import storage_terms, worker_terms

SECTIONS = (RestartSettings, LimitSettings, IpcSettings, PoolSettings)


def told(
    directory: Path, section: BaseModel | None = None
) -> tuple[Policy, WorkerTerms, PoolLimits]:
    """What a bot's lifecycle, its worker and its pool get of a configuration with that section."""
    bot = BotSettings(id="echo", handlers="echo.py")
    config = Config(
        path=directory / "bots.yaml",
        directory=directory,
        telegram=TelegramSettings(server=ServerSettings(kind=ServerKind.SANDBOX)),
        bots=(bot,),
    )
    match section:
        case RestartSettings():
            bot = bot.model_copy(update={"restart": section})
        case LimitSettings():
            bot = bot.model_copy(update={"limits": section})
        case IpcSettings():
            config = config.model_copy(update={"ipc": section})
        case PoolSettings():
            storage = StorageSettings().model_copy(update={"pool": section})
            config = config.model_copy(update={"storage": storage})
    place = storage_terms(config, PostgresAddress("/socket"), "role", "password", share=1)
    server = TelegramAddress("127.0.0.1", 1, 2, None)
    told = worker_terms(config, Layout(directory), bot, server, "token", storage=place)
    terms = read(WorkerTerms, written(told))
    assert terms.storage is not None
    return policy_of(bot.restart, bot.limits), terms, PoolLimits(**terms.storage.pool)


def another(value: Any) -> Any:
    """A value of that kind which is not this one."""
    if isinstance(value, Enum):
        return next(one for one in type(value) if one is not value)
    return value + 1


@pytest.mark.parametrize(
    ("section", "name"),
    [(section, name) for section in SECTIONS for name in section.model_fields],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_whoever_changes_a_setting_changes_what_somebody_is_told(
    tmp_path: Path, section: type[BaseModel], name: str
) -> None:
    usual = section()
    changed = usual.model_copy(update={name: another(getattr(usual, name))})
    assert told(tmp_path, usual) == told(tmp_path)
    assert told(tmp_path, changed) != told(tmp_path)


def test_each_limit_keeps_its_name_on_the_way(tmp_path: Path) -> None:
    limits = LimitSettings()
    policy, terms, _ = told(tmp_path, limits)
    given = {name: getattr(limits, name) for name in LimitSettings.model_fields}
    for part in (terms.limits, policy):
        kept = {one.name: getattr(part, one.name) for one in fields(part) if one.name in given}
        assert kept.items() <= given.items()
    assert {one.name for one in fields(Limits)} <= given.keys()
