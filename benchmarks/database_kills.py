"""The database under `kill -9` while bots use it: what acknowledged messages are missing or double.

    python benchmarks/database_kills.py [--bots 20] [--kills 20] [--seed 1]

People talk to every bot all the time; each bot stores and counts a message in one transaction and
answers then. At moments that the seed draws the server is killed: its first process, in every
third round one that serves a bot, in every fourth the service that watches over it. At the end
every acknowledged message must be stored once and counted once, and every bot must be the process
that it was. Prints a table, a line of JSON and a verdict; exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from measures import machine, percentile, table
from stored_fleet import Answer, Attempt, StoredFleet, Talk, busiest, say, settled

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fleet import until
from stored import backends, data_of, forget, postmaster
from stored import rows as rows_of

RATE = 3.0
"""Messages a second to each bot."""
CALM_S = (0.3, 2.5)
"""Between the return of the database and the next kill."""
BACK_WITHIN_S = 60.0
SERVED = 3
"""Connections of bots after which the database counts as back."""
SERVER, BACKEND, SERVICE = "the server", "a backend", "the service"


@dataclass(frozen=True, slots=True)
class Kill:
    """What was killed, when, and the server's processes that were there before."""

    victim: str
    at_s: float
    before: frozenset[int]


class Campaign:
    """The kills, and what is measured around them."""

    def __init__(self, fleet: StoredFleet, seed: int) -> None:
        self._fleet = fleet
        self._dice = random.Random(seed)
        self.kills: list[Kill] = []

    def run(self, kills: int) -> None:
        """Kills, and waits until all bots are served again, in turn."""
        time.sleep(2.0)
        for number in range(1, kills + 1):
            time.sleep(self._dice.uniform(*CALM_S))
            self.kills.append(self._kill(number))
            at_s = self.kills[-1].at_s
            until(self._is_back, "the database is back", BACK_WITHIN_S)
            say(
                f"kill {number} of {kills}: {self.kills[-1].victim}, "
                f"back within {time.monotonic() - at_s:.2f} s"
            )

    def _kill(self, number: int) -> Kill:
        serving = backends(self._fleet.layout)
        victim, pid = SERVER, postmaster(self._fleet.layout)
        if number % 4 == 0:
            victim, pid = SERVICE, int(self._fleet.unit("postgres")["pid"])
        elif number % 3 == 0 and serving:
            victim, pid = BACKEND, self._dice.choice(sorted(serving))
        at_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        # Who came in since the look, and is about to leave as well.
        serving |= _serving(self._fleet)
        return Kill(victim, at_s, frozenset(serving))

    def _is_back(self) -> bool:
        """Whether other processes than those before the kill serve bots."""
        before, now = self.kills[-1].before, _serving(self._fleet)
        return not now & before and len(now) >= SERVED


def _serving(fleet: StoredFleet) -> set[int]:
    """As `backends`; empty while the server is away."""
    try:
        return backends(fleet.layout)
    except (OSError, ValueError):
        return set()


def outages(kills: list[Kill], answers: list[Answer]) -> list[float]:
    """Seconds from each kill to the first commit on a connection opened since."""
    found = []
    for kill in kills:
        after = [
            one.committed_s
            for one in answers
            if one.committed_s > kill.at_s and one.server not in kill.before
        ]
        found.append(min(after, default=float("inf")) - kill.at_s)
    return found


def restart_waits(fleet: StoredFleet) -> list[tuple[float, float]]:
    """When the supervisor let the server wait before it started it again: from, to."""
    offset_s = time.time() - time.monotonic()
    found, since_s = [], None
    for line in fleet.log("brain").splitlines():
        record = json.loads(line)
        at_s = datetime.fromisoformat(record["at"]).timestamp() - offset_s
        said = record["message"]
        if said.startswith(("postgres is backing_off", "postgres is failed")):
            since_s = at_s
        elif said.startswith("postgres is starting") and since_s is not None:
            found.append((since_s, at_s))
            since_s = None
    return found


def storms(kills: list[Kill], attempts: list[Attempt]) -> list[tuple[int, int, int]]:
    """After each kill: attempts in all, under way at once, begun within a second."""
    ends = [kill.at_s for kill in kills[1:]] + [float("inf")]
    found = []
    for kill, end_s in zip(kills, ends, strict=True):
        mine = [one for one in attempts if kill.at_s <= one.began_s < end_s]
        found.append((len(mine), *busiest(mine)))
    return found


def check_rows(fleet: StoredFleet, answers: list[Answer]) -> dict[str, Any]:
    """What the database holds against what was acknowledged."""
    rows = rows_of(fleet.layout, "SELECT bot_id, chat_id, message_id, text FROM dims.messages")
    stored = Counter((row["bot_id"], row["message_id"]) for row in rows)
    heard = {
        row["bot_id"]: json.loads(row["value"])
        for row in rows_of(
            fleet.layout, "SELECT bot_id, value FROM dims.bot_settings WHERE key = 'heard'"
        )
    }
    acknowledged = Counter((one.bot, one.message_id) for one in answers)
    per_bot = Counter(row["bot_id"] for row in rows)
    return {
        "stored": len(rows),
        "acknowledged": len(acknowledged),
        "missing": sum(1 for key in acknowledged if not stored[key]),
        "twice": sum(1 for count in stored.values() if count > 1)
        + sum(1 for count in acknowledged.values() if count > 1),
        "counted otherwise than stored": sum(
            1 for bot in fleet.bots if heard.get(bot, 0) != per_bot[bot]
        ),
        "stored, not acknowledged": sum(1 for key in stored if not acknowledged[key]),
    }


def processes(fleet: StoredFleet) -> dict[str, tuple[int, int]]:
    """Pid and incarnation of every bot."""
    return {bot["id"]: (bot["pid"], bot["incarnation"]) for bot in fleet.status()["bots"]}


def trial(fleet: StoredFleet, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """All of it; figures, and what was broken."""
    fleet.start()
    fleet.until_ready()
    before = processes(fleet)
    campaign = Campaign(fleet, options.seed)
    began_s = time.monotonic()
    with Talk(fleet, dict.fromkeys(fleet.bots, RATE)) as talk:
        campaign.run(options.kills)
        time.sleep(3.0)
    took_s = time.monotonic() - began_s
    fleet.until_ready(within_s=BACK_WITHIN_S)
    answered = settled(fleet, talk)
    rows = check_rows(fleet, answered)
    changed = [bot for bot, process in processes(fleet).items() if process != before[bot]]
    away = outages(campaign.kills, answered)
    waits = restart_waits(fleet)
    own = [
        away_s - sum(to - since for since, to in waits if 0 <= since - kill.at_s < away_s)
        for kill, away_s in zip(campaign.kills, away, strict=True)
    ]
    storm = storms(campaign.kills, fleet.attempts())
    budget = fleet.ask("storage")["budget"]
    figures = {
        "bots": len(fleet.bots),
        **{f"kills of {name}": n for name, n in _kinds(campaign.kills).items()},
        "messages": talk.total,
        **rows,
        **{f"handlers that failed: {name}": n for name, n in fleet.failures().items()},
        "not acknowledged": talk.total - rows["acknowledged"],
        "bots whose process changed": len(changed),
        "away s, p50": round(percentile(away, 0.5), 2),
        "away s, longest": round(max(away), 2),
        "without the wait before a restart, p50": round(percentile(own, 0.5), 2),
        "without the wait before a restart, longest": round(max(own), 2),
        "attempts to connect per kill, most": max(one[0] for one in storm),
        "attempts at once, most": max(one[1] for one in storm),
        "attempts begun in a second, most": max(one[2] for one in storm),
        "connections the budget allows": budget["total"],
        "max_connections": budget["max_connections"],
        "seconds": round(took_s, 1),
    }
    return figures, _faults(figures, changed)


def _faults(figures: Mapping[str, Any], changed: list[str]) -> list[str]:
    names = ("missing", "twice", "counted otherwise than stored")
    faults = [f"{figures[name]} {name}" for name in names if figures[name]]
    if changed:
        faults.append(f"{len(changed)} bots did not stay up: {changed[:3]}")
    if figures["attempts at once, most"] > figures["connections the budget allows"]:
        faults.append("more attempts at once than the budget allows")
    if not figures["acknowledged"]:
        faults.append("nothing was acknowledged")
    return faults


def _kinds(kills: list[Kill]) -> Counter[str]:
    return Counter(kill.victim for kill in kills)


def main() -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bots", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    options = parser.parse_args()
    where = machine()
    work = Path(tempfile.mkdtemp(prefix="dims-dbkills-"))
    fleet = StoredFleet(work / "fleet", options.bots, {"database": "embedded"})
    try:
        figures, faults = trial(fleet, options)
    finally:
        fleet.end()
        if options.keep:
            print(f"the files are in {work} and {data_of(fleet.layout)}", file=sys.stderr)
        else:
            forget(fleet.layout)
            shutil.rmtree(work)
    print(f"{where}\nseed {options.seed}, {RATE:g} messages a second to each bot\n")
    print(table(["", ""], [[name, str(value)] for name, value in figures.items()]))
    print(json.dumps(figures))
    print("verdict:", "; ".join(faults) or "every promise was kept")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
