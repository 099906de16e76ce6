"""The names and kinds of units, and how each kind lives. No I/O."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from dims.config import (
    LimitSettings,
    RestartSettings,
)
from dims.supervisor.core.backoff import RestartPolicy
from dims.supervisor.core.facts import UnitId
from dims.supervisor.core.states import Policy

ZYGOTE = UnitId("zygote")
SANDBOX = UnitId("sandbox")
POSTGRES = UnitId("postgres")
VALKEY = UnitId("valkey")
STEWARD = UnitId("steward")


class UnitKind(StrEnum):
    """What a unit is, and so how it is launched."""

    BOT = "bot"
    ZYGOTE = "zygote"
    SERVICE = "service"


def policy_of(restart: RestartSettings, limits: LimitSettings) -> Policy:
    """The lifecycle's share of a bot's settings."""
    return Policy(
        restart=RestartPolicy(**restart.model_dump()),
        start_timeout_s=limits.start_timeout_s,
        stuck_after_s=limits.stuck_after_s,
        drain_timeout_s=limits.drain_timeout_s,
    )


SERVICE_POLICY = replace(
    policy_of(
        RestartSettings(first_delay_s=0.0, max_delay_s=10.0, slow_retry_s=30.0, max_restarts=10),
        LimitSettings(start_timeout_s=60.0, drain_timeout_s=10.0),
    ),
    stuck_after_s=10**9,
)
"""Services come back fast, for bots wait for them. They send no heartbeats: no stuck deadline."""
SERVER_POLICY = replace(
    SERVICE_POLICY,
    restart=replace(
        SERVICE_POLICY.restart,
        max_delay_s=2.0,
        slow_retry_s=5.0,
        stable_after_s=10.0,
        # Beyond the cap a start waits until the window has room: of two minutes that is an outage.
        within_s=20.0,
    ),
    start_timeout_s=86_400.0,
    drain_timeout_s=20.0,
)
"""All bots stand still without their database, and its start harms nobody outside. It may have much
to write when it is to leave, and to read when it recovers: what its process waits for, that limits
itself."""
STEWARD_POLICY = replace(SERVICE_POLICY, start_timeout_s=3600.0, stuck_after_s=90.0)
"""A migration takes as long as it takes; what the steward waits for it limits itself."""
