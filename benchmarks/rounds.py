"""Contenders in turn, round by round; what was found, and how it is held against limits.

Knows no contender and no clock but the one that says when the time is up.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ipc_pairs import Figures
from measures import BenchmarkError, Ratio, ratio, spread, table


@dataclass(frozen=True, slots=True)
class Turn:
    """One contender of one group; `run` makes one turn."""

    group: str
    contender: str
    run: Callable[[], Figures]

    def play(self) -> Mapping[str, Figures]:
        """What one turn finds, by contender."""
        return {self.contender: self.run()}


@dataclass(frozen=True, slots=True)
class Together:
    """A group whose contenders alternate within one turn, for differences below what two processes
    differ by. `run` finds the figures of all."""

    group: str
    run: Callable[[], Mapping[str, Figures]]
    contender = "all"

    def play(self) -> Mapping[str, Figures]:
        """What one turn finds, by contender."""
        return self.run()


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure of one contender, divided by that of another, is held against a number: at most
    that, or at least.

    Without `theirs` the figure itself is held. None as the number: noise, that is what the other
    differs by from `twin`, the same contender once more, or, without one, what its single values
    differ by."""

    group: str
    figure: str
    ours: str
    theirs: str | None
    limit: float | None
    at_most: bool
    twin: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """What became of a limit. `low` and `high`: the ratios of single rounds."""

    group: str
    figure: str
    of: str
    to: str | None
    ratio: float | None
    low: float | None
    high: float | None
    wanted: str
    limit: float | None
    reached: bool | None


Found = dict[tuple[str, str], dict[str, list[float]]]


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def play(turns: Sequence[Turn | Together], rounds: int, until_s: float) -> tuple[Found, list[str]]:
    """All turns, round by round; the second value says what failed."""
    found: Found = {}
    failed = []
    for number in range(rounds):
        if time.monotonic() > until_s:
            say(f"the budget is used up after {number} rounds")
            break
        for turn in turns:
            try:
                played = turn.play()
            except (BenchmarkError, OSError) as error:
                failed.append(f"{turn.group}, {turn.contender}: {error}")
                say(f"not measured: {failed[-1]}")
                continue
            for contender, figures in played.items():
                kept = found.setdefault((turn.group, contender), {})
                for figure, values in figures.items():
                    kept.setdefault(figure, []).extend(values)
        say(f"round {number + 1} of {rounds}")
    return found, failed


def hold(limit: Limit, found: Found) -> Held:
    """Holds a limit against what was found."""

    def values(contender: str) -> list[float]:
        return found.get((limit.group, contender), {}).get(limit.figure, [])

    ours = values(limit.ours)
    theirs = [1.0] * len(ours) if limit.theirs is None else values(limit.theirs)
    value = low = high = reached = None
    number = limit.limit
    if ours and theirs:
        value = ratio(statistics.median(ours), statistics.median(theirs))
        each = [mine / other for mine, other in zip(ours, theirs, strict=False)]
        low, high = min(each), max(each)
        if number is None:
            number = _noise(theirs, values(limit.twin) if limit.twin else [], limit.at_most)
        if value is not None:
            reached = value <= number if limit.at_most else value >= number
    wanted = "at most" if limit.at_most else "at least"
    if limit.limit is None:
        wanted += ", as noise"
    return Held(
        limit.group, limit.figure, limit.ours, limit.theirs, value, low, high, wanted, number,
        reached,
    )  # fmt: skip


def ratios_of(held: Sequence[Held]) -> dict[str, Ratio]:
    """What was found, by what it is about."""
    found = {}
    for each in held:
        if each.ratio is not None:
            smaller_is_better = each.wanted.startswith("at most")
            found[f"{_name(each)}, {each.figure}"] = Ratio(each.ratio, smaller_is_better)
    return found


def _name(held: Held) -> str:
    return f"{held.group}: {held.of}" + (f" / {held.to}" if held.to else "")


def _noise(values: Sequence[float], twins: Sequence[float], at_most: bool) -> float:
    if not twins:
        return max(values) / statistics.median(values)
    each = [max(one / other, other / one) for one, other in zip(values, twins, strict=False)]
    return max(each) if at_most else 1 / max(each)


def rows(found: Found) -> Iterator[list[str]]:
    """One line of the table for each figure of each contender."""
    for (group, contender), figures in found.items():
        for figure, values in figures.items():
            digits = 0 if figure == "per_s" else 2 if figure.endswith(("_ms", "_mb")) else 1
            yield [f"{group}: {contender}", figure, spread(values, 1.0, digits)]


def report(found: Found, held: Sequence[Held]) -> str:
    """Tables of figures and of ratios."""
    verdicts = [
        [
            _name(each),
            each.figure,
            "-" if each.ratio is None else f"{each.ratio:.3f} ({each.low:.3f}-{each.high:.3f})",
            "-" if each.limit is None else f"{each.wanted} {each.limit:.3g}",
            {True: "reached", False: "missed", None: "not measured"}[each.reached],
        ]
        for each in held
    ]
    return "\n\n".join(
        (
            table(["contender", "figure", "median (lowest-highest)"], rows(found)),
            table(["ratio of medians", "figure", "(rounds)", "limit", "verdict"], verdicts),
        )
    )
