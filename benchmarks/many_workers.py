"""More workers than a database has connections: is everyone served, nobody refused, how long is the
wait.

    python benchmarks/many_workers.py [--workers 300] [--max-connections 50] [--seconds 20]

One fleet on a PostgreSQL of its own. A few bots are busy, all get some messages; for each a bot
takes a connection, reads, writes and commits, then answers. The server's processes are counted all
the time. Prints a table, a line of JSON and a verdict; exits with 1 when somebody was not served or
was refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from measures import cpu_s, machine, percentile, table
from stored_fleet import Answer, StoredFleet, Talk, busiest, say, settled

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from embedded import USERS, Place, Service, place_for

BUSY = 10
"""Bots that get `BUSY_RATE` messages a second; the others get `QUIET_RATE`."""
BUSY_RATE = 3.0
QUIET_RATE = 0.12
COUNT_EVERY_S = 0.05
START_WITHIN_S = 120.0
REFUSALS = ("too many clients", "too many connections", "connection slots are reserved", "53300")


class Counted:
    """The server's processes that serve clients, counted until it is ended."""

    def __init__(self, place: Place, postmaster: int) -> None:
        self._children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
        self._place = place
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self.counts: list[int] = []

    def __enter__(self) -> Counted:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _count(self) -> None:
        while not self._ended.wait(COUNT_EVERY_S):
            serving = 0
            for pid in self._children.read_text().split():
                try:
                    title = Path(f"/proc/{pid}/cmdline").read_bytes()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                # `postgres: USER DATABASE [local] ...`
                serving += b"[local]" in title
            self.counts.append(serving)


def trial(
    place: Place, server: Service, fleet: StoredFleet, options: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """All of it; figures, and what was broken."""
    began_s = time.monotonic()
    fleet.dims("start", "--all", timeout_s=START_WITHIN_S)
    fleet.until_ready(within_s=START_WITHIN_S)
    started_s = time.monotonic() - began_s
    say(f"{len(fleet.bots)} bots ready after {started_s:.1f} s")
    brain = int(fleet.supervisor()["pid"])
    rates = {
        bot: BUSY_RATE if number < BUSY else QUIET_RATE for number, bot in enumerate(fleet.bots)
    }
    with Counted(place, server.server_pid()) as counted, Talk(fleet, rates) as talk:
        used_s, began_s = cpu_s([brain]), time.monotonic()
        time.sleep(options.seconds)
        used_s, took_s = cpu_s([brain]) - used_s, time.monotonic() - began_s
    answers = settled(fleet, talk)
    served = Counter(one.bot for one in answers)
    told = Counter(bot for bot, _, _ in talk.said_at_s)
    waits = [one.got_s - one.began_s for one in answers]
    whole = [one.committed_s - talk.said_at_s[one.bot, one.user, one.message_id] for one in answers]
    storage = fleet.ask("storage")
    attempts = fleet.attempts()
    figures = {
        "workers": len(fleet.bots),
        "max_connections": storage["budget"]["max_connections"],
        "connections that may be lent": storage["budget"]["lendable"],
        "most connections at once": max(counted.counts),
        "messages": talk.total,
        "messages a second": round(talk.total / took_s, 1),
        "answered": len(answers),
        "bots that were told something": len(told),
        "bots that answered all": sum(1 for bot in told if served[bot] == told[bot]),
        "refusals in the server's log": refusals(server),
        "handlers that failed": sum(fleet.failures().values()),
        "connections opened": sum(1 for one in attempts if one.is_open),
        "attempts that failed": sum(1 for one in attempts if not one.is_open),
        "attempts at once, most": busiest(attempts)[0],
        **_times("wait for a connection", waits),
        **_times("message to commit", whole),
        "brain's processor, percent": round(100 * used_s / took_s, 1),
        "seconds to start all": round(started_s, 1),
    }
    return figures, _faults(figures, fleet, answers)


def _times(name: str, values: list[float]) -> dict[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "longest": 1.0}
    return {
        f"{name} ms, {word}": round(1000 * percentile(values, share), 1)
        for word, share in shares.items()
    }


def refusals(server: Service) -> int:
    """How often the server had no connection left."""
    return sum(1 for text in server.said() if any(part in text for part in REFUSALS))


def _faults(figures: dict[str, Any], fleet: StoredFleet, answers: list[Answer]) -> list[str]:
    faults = []
    if figures["bots that answered all"] < len(fleet.bots) or len(answers) < figures["messages"]:
        faults.append("not everyone was served")
    if figures["refusals in the server's log"] or figures["attempts that failed"]:
        faults.append("somebody was refused")
    if figures["handlers that failed"]:
        faults.append(f"handlers failed: {dict(fleet.failures())}")
    if figures["most connections at once"] > figures["max_connections"]:
        faults.append("more connections than there are")
    return faults


def main() -> int:
    """0 when everyone was served and nobody refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=300)
    parser.add_argument("--max-connections", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--keep", action="store_true", help="leave the fleet's files there")
    options = parser.parse_args()
    where = machine()
    work = Path(tempfile.mkdtemp(prefix="dims-many-"))
    with place_for(USERS[0]) as place:
        server = Service(place, "postgres", "--max-connections", str(options.max_connections))
        try:
            server.ready()
            host = place.sockets("postgres")
            password = (place.state / "postgres.password").read_text().strip()
            url = f"postgresql://dims:{password}@/postgres?host={host}"
            storage = {"database": "${DATABASE_URL}"}
            fleet = StoredFleet(work / "fleet", options.workers, storage, {"DATABASE_URL": url})
            try:
                figures, faults = trial(place, server, fleet, options)
            finally:
                fleet.end()
        finally:
            server.end()
            if options.keep:
                print(f"the files are in {work}", file=sys.stderr)
            else:
                shutil.rmtree(work)
    print(f"{where}\n")
    print(table(["", ""], [[name, str(value)] for name, value in figures.items()]))
    print(json.dumps(figures))
    print("verdict:", "; ".join(faults) or "everyone was served, nobody refused")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
