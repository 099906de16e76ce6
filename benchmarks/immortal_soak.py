"""Whether workers that share the zygote's memory for good behave as those that copy it.

    python benchmarks/immortal_soak.py [--bots 20] [--updates 200000] [--rounds 40] [--storage]
    python benchmarks/immortal_soak.py --short

Two fleets, alike but for `fleet.sharing`, get the same messages in turn; their handlers
(stress_handlers.py) do whatever Python code may do. In each round one bot is killed, one ends
through the interpreter's own end, one is restarted and one reloaded; half of the bots is left
alone, and tells what grows. Prints a table, what came of each act, and a verdict.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from measures import MB, Verdict, at_least, machine, table, wait_until

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from fleet import Fleet

HANDLERS = Path(__file__).with_name("stress_handlers.py")
MANNERS = ("copy", "immortal")
AT_ONCE = 50
"""Messages for each bot before the next are sent: a busy chat, not one burst of all."""
WITHIN_S = 300.0
WARM = 500
"""Messages until a worker has seen everything: what grows later, grows."""
LESS_TIMES = 1.5
"""Of unshared memory; less than echo bots save, for these use much more of their own."""
MORE_SHARE, MORE_BYTES, MORE_OBJECTS, MORE_BLOCKS = 0.1, 100_000, 200, 1_000
"""Growth over the whole run that is no more than that of the copy: a share of it, or noise."""
COUNTS_DIFFER = 0.05
"""Of a count per message: a worker that is ended does not tell the last ones, such as what others
sent it. What must not be at all is a count of its own."""


@dataclass
class Trial:
    """One fleet: what it should have done, and the samples of its workers."""

    manner: str
    fleet: Fleet
    bots: Sequence[str]
    incarnations: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def start(self) -> None:
        """Raises AssertionError when the zygote shares in another manner than it should."""
        self.fleet.start()
        self.fleet.until_ready(within_s=WITHIN_S)
        self.incarnations.update(self.bots)
        said = self.fleet.supervisor()
        assert said["sharing"] == self.manner, said["sharing_reason"]

    def flood(self, each: int) -> None:
        """Sends `each` messages to each bot, and waits until all are answered."""
        for begun in range(0, each, AT_ONCE):
            many = min(AT_ONCE, each - begun)
            wanted = {bot: out + many for bot, out in self._answered().items()}
            for bot in self.bots:
                self.fleet.sandbox("flood_updates", bot=bot, user="alice", count=many)
            self.sent += many * len(self.bots)

            def answered(wanted: dict[str, int] = wanted) -> bool:
                now = self._answered()
                return all(now[bot] >= count for bot, count in wanted.items())

            wait_until(answered, WITHIN_S, 0.05, f"{self.manner}: answers to all messages")

    def _answered(self) -> dict[str, int]:
        accounts = self.fleet.sandbox("status")["accounts"]
        return {account["name"]: account["messages_out"] for account in accounts}

    def end_some(self, number: int) -> None:
        """In this round: one is killed, one ends by itself, one is restarted, one reloaded."""
        ended = self.bots[: len(self.bots) // 2]
        ends: Sequence[Callable[[str], object]] = (
            lambda bot: self.fleet.kill(self.fleet.unit(bot)["pid"]),
            lambda bot: self.fleet.tell(bot, "end"),
            lambda bot: self.fleet.ask("restart", bots=[bot]),
        )
        for at, end in enumerate(ends):
            bot = ended[(number * len(ends) + at) % len(ended)]
            end(bot)
            self.fleet.until_ready(bot, after=self.incarnations[bot], within_s=WITHIN_S)
            self.incarnations[bot] += 1
        self.fleet.dims("bot", "tell", self.bots[number % len(self.bots)], "reload")

    def unexpected_ends(self) -> list[str]:
        """Bots with more incarnations than were made, and why the last one was."""
        found = []
        for unit in (*self.fleet.status()["bots"], self.fleet.unit("zygote")):
            wanted = self.incarnations[unit["id"]] or 1
            if unit["incarnation"] != wanted or unit["state"] != "ready":
                what = f"{unit['id']} is #{unit['incarnation']} instead of #{wanted}"
                found.append(f"{self.manner}: {what}, {unit['state']}: {unit['reason']}")
        return found

    def samples(self, bot: str) -> list[dict[str, Any]]:
        """What its workers told, oldest first."""
        path = self.fleet.directory / f"{bot}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def counts(self) -> Counter[str]:
        """Of all workers together, as each told them last; `messages` are those in them."""
        total: Counter[str] = Counter()
        for bot in self.bots:
            last = {sample["pid"]: sample for sample in self.samples(bot)}
            for sample in last.values():
                total.update(sample["counts"])
                total["messages"] += sample["number"]
        return total

    def level(self, name: str, at: int) -> float:
        """The median over the bots that were left alone: from `WARM` messages on, the sample `at`
        (0 the first, -1 the last)."""
        left_alone = self.bots[len(self.bots) // 2 :]
        warm = ([one for one in self.samples(bot) if one["number"] >= WARM] for bot in left_alone)
        return statistics.median(samples[at][name] for samples in warm)


def make_trial(work: Path, manner: str, options: argparse.Namespace) -> Trial:
    """A fleet that is not started yet."""
    bots = [f"bot-{number:02d}" for number in range(options.bots)]
    directory = work / manner
    config: dict[str, Any] = {
        "telegram": {"server": "sandbox"},
        "fleet": {"sharing": "auto" if manner == "immortal" else "copy"},
        "grants": [{"from": ["*"], "to": ["*"], "kinds": ["ping"]}],
        "defaults": {
            "restart": {"first_delay_s": 0.1, "max_delay_s": 0.1, "max_restarts": 1_000},
        },
        "bots": [
            {
                "id": bot,
                "handlers": HANDLERS.name,
                "settings": {
                    "results": str(directory),
                    "next": following,
                    "stores": options.storage,
                    # What thaws copies everything: those that are left alone do not.
                    "thaws": bot in bots[: len(bots) // 2],
                },
            }
            for bot, following in zip(bots, [*bots[1:], bots[0]], strict=True)
        ],
    }
    if options.storage:
        config["storage"] = {"redis": "off"}
    files = {HANDLERS.name: HANDLERS.read_text()}
    return Trial(manner, Fleet(directory, yaml.safe_dump(config), files), bots)


def growth_verdicts(copy: Trial, immortal: Trial) -> list[Verdict]:
    """What grew, against what grew in the copy."""
    found = []
    for name, noise in (
        ("unshared_bytes", MORE_BYTES),
        ("gc_objects", MORE_OBJECTS),
        ("blocks", MORE_BLOCKS),
    ):
        base, value = (one.level(name, -1) - one.level(name, 0) for one in (copy, immortal))
        limit = max(base * (1 + MORE_SHARE), base + noise)
        said = f"{value:+,.0f}, copy {base:+,.0f}"
        found.append(Verdict(f"{name} grow no more than with copy", said, value <= limit, None))
    return found


def differences(copy: Counter[str], immortal: Counter[str]) -> list[str]:
    """Counts that are not alike, each per message; and whatever failed at all."""
    found = []
    for name in sorted(copy.keys() | immortal.keys()):
        shares = [counts[name] / counts["messages"] for counts in (copy, immortal)]
        room = COUNTS_DIFFER * max(shares) + 3 / min(copy["messages"], immortal["messages"])
        if name.startswith("failed") or abs(shares[0] - shares[1]) > room:
            found.append(f"{name}: copy {copy[name]}, immortal {immortal[name]}")
    return found


def report(trials: Sequence[Trial], unexpected: Sequence[str]) -> bool:
    """Prints all of it; whether everything is as it should be."""
    copy, immortal = trials
    counts = [trial.counts() for trial in trials]
    names = sorted(counts[0].keys() | counts[1].keys())
    rows = [(name, *(f"{each[name]:,}" for each in counts)) for name in names]
    for at, when in ((0, f"at {WARM} messages"), (-1, "at the end")):
        levels = [trial.level("unshared_bytes", at) / MB for trial in trials]
        rows.append((f"MB unshared, median, {when}", *(f"{level:.2f}" for level in levels)))
    print(table(("what", *MANNERS), rows), "\n")
    differ = differences(*counts)
    verdicts = [
        Verdict(
            "no end that nobody asked for", "; ".join(unexpected) or "none", not unexpected, None
        ),
        Verdict("the same comes of the same acts", "; ".join(differ) or "alike", not differ, None),
        *growth_verdicts(copy, immortal),
        at_least("less unshared memory at the end", levels[0] / levels[1], LESS_TIMES),
    ]
    print(*verdicts, sep="\n")
    return all(verdict.reached for verdict in verdicts)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bots", type=int, default=20)
    parser.add_argument("--updates", type=int, default=200_000, help="for each fleet")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--storage", action="store_true", help="with a database of its own")
    parser.add_argument("--short", action="store_true", help="some minutes: a trial")
    options = parser.parse_args()
    if options.short:
        options.bots, options.updates, options.rounds = 6, 9_000, 3
    return options


def main() -> int:
    """Exit code 0 when sharing makes no difference but memory."""
    options = _options()
    print(machine(), flush=True)
    each = options.updates // options.rounds // options.bots
    unexpected: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dims-soak-") as work:
        trials = [make_trial(Path(work), manner, options) for manner in MANNERS]
        try:
            for trial in trials:
                trial.start()
            for number in range(options.rounds):
                for trial in trials:
                    trial.flood(each)
                    unexpected += trial.unexpected_ends()
                    trial.end_some(number)
                print(f"{time.strftime('%H:%M:%S')} round {number + 1}", *unexpected, flush=True)
            good = report(trials, unexpected)
        finally:
            for trial in trials:
                trial.fleet.end()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
