"""What storage costs: reads and bulk inserts of a bot next to bare asyncpg on plain tables, by the
number of workers and of bots.

Contenders alternate on servers of their own; medians over the rounds are compared. See
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import storage_bulk
import storage_reads
import storage_roles
from ipc_pairs import Player
from measures import machine, write_json
from rounds import Found, Held, Limit, Together, Turn, hold, play, ratios_of, report, say
from storage_ground import Home, Server, make_home

from dims.storage.embedded.binaries import Source

NAMES = ("read", "ways", "crowd", "bulk", "roles")
READ, WAYS, CROWD, BULK, ROLES = (
    "point read", "other ways", "50 workers", "bulk insert", "roles",
)  # fmt: skip
WORKERS = 50
CROWD_LIMIT_US = 50_000.0
BATCHES = ((1_000, 10), (10_000, 1))
"""Sizes, and how many batches for each of `Sizes.bulk`."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done in one turn."""

    bots: int
    users: int
    """Of each bot."""
    reads: int
    ways: int
    per_worker_s: float
    crowd_s: float
    bulk: int
    many: int
    """Bots that are many; the few are ten. Both have as many rows."""
    roles: int


FULL = Sizes(100, 1_000, 3_000, 400, 10.0, 6.0, 3, 1_000, 8)
QUICK = Sizes(100, 100, 600, 100, 10.0, 2.0, 1, 100, 3)
FEW = 10


class Place:
    """Servers with bots, each made when it is first asked for."""

    def __init__(self, work: Path, stack: ExitStack, options: argparse.Namespace) -> None:
        self.sizes = QUICK if options.quick else FULL
        self._work = work
        self._stack = stack
        self._source = options.source
        self._homes: dict[int, Home] = {}

    def home(self, bots: int) -> Home:
        """A server with so many bots, and as many rows whatever their number."""
        if bots not in self._homes:
            began_s = time.monotonic()
            server = self._stack.enter_context(Server(self._work / f"bots{bots}", self._source))
            rows = self.sizes.bots * self.sizes.users
            self._homes[bots] = home = make_home(server.address, bots, rows // bots)
            took_s = time.monotonic() - began_s
            say(f"{bots:,} bots with {rows:,} users are made, {took_s:.0f} s; {home.version}")
        return self._homes[bots]


Prepared = tuple[list[Turn | Together], list[Limit]]


def read(place: Place) -> Prepared:
    """A user by key."""
    home, reads = place.home(place.sizes.bots), storage_reads
    run = partial(reads.point_reads, home, place.sizes.reads)
    return [Together(READ, run)], [
        Limit(READ, "p50_us", reads.DIMS, reads.BARE, 1.5, at_most=True),
    ]


def ways(place: Place) -> Prepared:
    """What each other way costs; no limits."""
    home = place.home(place.sizes.bots)
    run = partial(storage_reads.other_ways, home, place.sizes.ways)
    return [Together(WAYS, run)], []


def crowd(place: Place) -> Prepared:
    """Many workers at the same time."""
    home, sizes = place.home(place.sizes.bots), place.sizes
    run = partial(storage_reads.crowd, home, WORKERS, sizes.per_worker_s, sizes.crowd_s)
    turns = [
        Turn(CROWD, way, partial(run, way)) for way in (storage_reads.DIMS, storage_reads.BARE)
    ]
    return [*turns], [
        Limit(CROWD, "p99_us", storage_reads.DIMS, None, CROWD_LIMIT_US, at_most=True),
    ]


def bulk(place: Place) -> Prepared:
    """Messages in batches."""
    home = place.home(place.sizes.bots)
    turns: list[Turn | Together] = []
    limits = []
    for size, times in BATCHES:
        group = f"{BULK}, {size:,} at a time"
        batches = times * place.sizes.bulk
        turns.append(Together(group, partial(storage_bulk.bulk, home, size, batches)))
        limits += [
            Limit(group, "per_s", storage_bulk.DIMS, peer, 0.5, at_most=False)
            for peer in (storage_bulk.COPY, storage_bulk.COPY_PARTED)
        ]
    return turns, limits


def roles(place: Place) -> Prepared:
    """Many bots next to few."""
    few, many = place.home(FEW), place.home(place.sizes.many)
    run = partial(storage_roles.roles, few, many, place.sizes.reads, place.sizes.roles)
    of, to, twin = storage_roles.MANY, storage_roles.FEW, storage_roles.FEW_AGAIN
    return [Together(ROLES, run)], [
        Limit(ROLES, figure, of, to, None, at_most=figure != "per_s", twin=twin)
        for figure in ("p50_us", "per_s", "connect_ms", "role_ms")
    ]


GROUPS = dict(zip(NAMES, (read, ways, crowd, bulk, roles), strict=True))


def run(options: argparse.Namespace, work: Path) -> tuple[Found, list[Held], list[str]]:
    """Prepares, plays all rounds, holds the limits."""
    with ExitStack() as stack:
        place = Place(work, stack, options)
        turns: list[Turn | Together] = []
        limits: list[Limit] = []
        for name in options.only or NAMES:
            more_turns, more_limits = GROUPS[name](place)
            turns += more_turns
            limits += more_limits
        found, failed = play(turns, options.rounds, time.monotonic() + options.budget_s)
    return found, [hold(limit, found) for limit in limits], failed


def main() -> int:
    """Exit code 0 when everything was measured, whatever the ratios are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="[default: 5]")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--budget-s", type=float, default=600.0, help="fewer rounds beyond it")
    parser.add_argument(
        "--unpinned",
        action="store_true",
        help="not who asks on the first core, the server on the last, but as the kernel likes",
    )
    parser.add_argument("--source", type=Source, choices=tuple(Source), default=Source.AUTO,
                        help="whose PostgreSQL")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="small counts: a trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, as JSON")
    options = parser.parse_args()
    Player.pinned = not options.unpinned
    # So that servers, children and files go when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = machine()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="dims-bench-") as work:
        # The server may run as another user, who must get through.
        Path(work).chmod(0o711)
        found, held, failed = run(options, Path(work))
    print(f"\n{where}\n{options.rounds} rounds, contenders in turn\n")
    print(report(found, held))
    print("\nnot measured:", "; ".join(failed) or "nothing")
    if options.json:
        figures = {f"{group}: {contender}": each for (group, contender), each in found.items()}
        write_json(options.json, where, figures, ratios_of(held))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
