"""How long to wait after the n-th failure in a row. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

_EXPONENT_LIMIT = 64
"""2.0 ** 1100 overflows a float; any cap is reached long before the 64th doubling."""
_FACTOR_LIMIT = 1000.0
"""1000.0 ** 64 is still a float; with a larger factor any cap is reached as soon."""
_SECOND_DELAY_S = 1.0
"""With a first delay of 0 the second failure waits up to this long: 0 doubled would stay 0."""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Limits of restarting; see docs/configuration.md for the meaning of each."""

    first_delay_s: float
    factor: float
    max_delay_s: float
    stable_after_s: float
    max_restarts: int
    within_s: float
    slow_retry_s: float


def ceiling_s(policy: RestartPolicy, failures: int) -> float:
    """The longest wait in seconds after `failures` (1 or more) failures in a row."""
    exponent = failures - 1
    base_s = policy.first_delay_s
    if base_s == 0:
        if exponent == 0:
            return 0.0
        base_s, exponent = _SECOND_DELAY_S, exponent - 1
    raised_s = base_s * min(policy.factor, _FACTOR_LIMIT) ** min(exponent, _EXPONENT_LIMIT)
    return min(policy.max_delay_s, raised_s)


def delay_s(policy: RestartPolicy, failures: int, draw: float) -> float:
    """The wait in seconds: full jitter, `draw` (0 to 1) of the ceiling.

    The draw is never fed back and the clamp comes last, so no delay exceeds the cap
    ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    return ceiling_s(policy, failures) * min(1.0, max(0.0, draw))


def slow_delay_s(slowest_s: float, draw: float) -> float:
    """The wait in seconds once restarts come too often: from half of `slowest_s` to all of it.

    Half stays certain, because a slow retry that may draw 0 is not slow.
    """
    return slowest_s * (0.5 + 0.5 * min(1.0, max(0.0, draw)))
