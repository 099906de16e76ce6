"""Each service of a fleet, and the zygote: one record with all that is known before it runs.

What it says when it is ready, and what it is told, is in `dims.supervisor.brain.providers`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from dims.config import Config, DatabaseKind, ServerKind
from dims.layout import Layout
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.states import Policy
from dims.supervisor.units.units import (
    POSTGRES,
    SANDBOX,
    SERVER_POLICY,
    SERVICE_POLICY,
    STEWARD,
    STEWARD_POLICY,
    VALKEY,
    ZYGOTE,
    UnitKind,
)

EMBEDDED_CONNECTIONS = (100, 500)
"""Of an embedded PostgreSQL: at least, and at most; between them one for each bot."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a service is: when a fleet has it, how it is launched, how it lives."""

    unit: UnitId
    policy: Policy
    is_wanted: Callable[[Config], bool]
    command: Callable[[Config, Layout], list[str]]
    """Arguments of the interpreter, without those that every service gets."""
    bots_need: bool = False
    """No bot starts before it is ready."""
    goes_on: bool = False
    """It runs on when a brain comes back: a restart would cut off whoever uses it."""

    @property
    def kind(self) -> UnitKind:
        """The zygote ends last, for the others may still need it."""
        return UnitKind.ZYGOTE if self.unit == ZYGOTE else UnitKind.SERVICE

    def argv(self, config: Config, layout: Layout, incarnation: Incarnation) -> list[str]:
        """The whole command; modules are named in it, so that nothing here imports them."""
        return [
            *(sys.executable, "-m", *self.command(config, layout)),
            *("--notify", str(layout.bot_socket), "--unit", self.unit),
            *("--incarnation", str(incarnation)),
            *(("--log", str(layout.log(self.unit))) if self.kind is UnitKind.SERVICE else ()),
        ]


def services_of(config: Config) -> list[Service]:
    """The services that this fleet needs, in the order in which they are shown."""
    return [service for service in SERVICES if service.is_wanted(config)]


def _has_database(config: Config) -> bool:
    return config.storage.database_kind is not DatabaseKind.OFF


def _zygote(config: Config, _layout: Layout) -> list[str]:
    warm_up = "warm_up_with_database" if _has_database(config) else "warm_up"
    return [
        "dims.supervisor.zygote",
        *("--preload", f"dims.warmup:{warm_up}"),
        *("--entry", "dims.bot_worker.worker:run_forked"),
    ]


def _embedded(unit: UnitId) -> Callable[[Config, Layout], list[str]]:
    def command(config: Config, layout: Layout) -> list[str]:
        words = ["dims.services.embedded", unit]
        words += ["--state-dir", str(layout.state), "--runtime-dir", str(layout.runtime)]
        if unit == POSTGRES:
            least, most = EMBEDDED_CONNECTIONS
            connections = max(least, min(most, len(config.bots) + least // 2))
            words += ["--max-connections", str(connections)]
        return words

    return command


def _sandbox(config: Config, layout: Layout) -> list[str]:
    return [
        "dims.sandbox",
        *("--dir", str(layout.sandbox), "--control", str(layout.sandbox_socket)),
        *("--port", str(config.telegram.sandbox_port)),
    ]


SERVICES = (
    Service(ZYGOTE, SERVICE_POLICY, lambda _config: True, _zygote, bots_need=True),
    Service(
        POSTGRES,
        SERVER_POLICY,
        lambda config: config.storage.database_kind is DatabaseKind.EMBEDDED,
        _embedded(POSTGRES),
        goes_on=True,
    ),
    Service(
        VALKEY,
        SERVER_POLICY,
        lambda config: config.storage.redis_kind is DatabaseKind.EMBEDDED,
        _embedded(VALKEY),
        goes_on=True,
    ),
    Service(
        STEWARD,
        STEWARD_POLICY,
        _has_database,
        lambda _config, _layout: ["dims.services.steward"],
        bots_need=True,
    ),
    Service(
        SANDBOX,
        SERVICE_POLICY,
        lambda config: config.telegram.server.kind is ServerKind.SANDBOX,
        _sandbox,
        bots_need=True,
    ),
)
