"""What is in force where the configuration says nothing: the defaults, as each part gets them."""

from __future__ import annotations

from typing import Any

from dims.config import FleetSettings, IpcSettings, LimitSettings, PoolSettings, RestartSettings
from dims.ipc.retry import RetryPolicy
from dims.storage.connections.pool import PoolLimits
from dims.supervisor.core.pacing import Pace
from dims.supervisor.units.units import policy_of

POLICY = policy_of(RestartSettings(), LimitSettings())
RESTART = POLICY.restart
PACE = Pace(FleetSettings().starts_at_once, cold_logins_per_minute=None)
RETRY = RetryPolicy(IpcSettings().attempts, IpcSettings().retry_first_s, IpcSettings().retry_max_s)


def pool_limits(**given: Any) -> PoolLimits:
    """Those of a pool, with what is given in their place."""
    return PoolLimits(**PoolSettings(**given).model_dump(exclude={"replica_lag_s"}))
