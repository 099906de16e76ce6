"""Durable mail under `kill -9` of its senders and readers: what is lost, comes twice, or too early.

    python benchmarks/mail_kills.py [--rounds 1000] [--seed 1] [--durability process|power|both]

Two senders, a reader that handles each message in a transaction and forwards it, and a last reader
are killed in turn, at moments that the seed draws, and started again over the same files. At the
end every acknowledged message must have had exactly one effect, in order. Prints a table and one
line of JSON per durability; exits with 1 when a promise was broken. See
tests/support/mail_actors.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from mail_actors import READER, SENDERS, Campaign, Place, Verdict


def figures(verdict: Verdict) -> list[tuple[str, object]]:
    """What the table shows."""
    kills = verdict.kills
    return [
        ("rounds", verdict.rounds),
        ("kills of a sender", sum(kills.get(name, 0) for name in SENDERS)),
        ("kills of the reader", kills.get(READER, 0)),
        ("kills of the last reader", sum(kills.values()) - sum(map(kills.get, (*SENDERS, READER)))),
        ("acknowledged messages", verdict.acknowledged),
        ("handled messages", verdict.handled),
        ("  of these never acknowledged", verdict.unacknowledged_handled),
        ("forwarded messages", verdict.forwarded),
        ("copies that were recognised", verdict.duplicates_recognised),
        ("lost", verdict.lost),
        ("twice", verdict.twice),
        ("out of order", verdict.out_of_order),
        ("not forwarded", verdict.not_forwarded),
        ("dead letters", verdict.dead),
        ("quarantined", verdict.quarantined),
        ("files left behind", len(verdict.left_behind)),
        ("seconds", verdict.seconds),
    ]


def main() -> int:
    """0 when every promise was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=("process", "power", "both"), default="both")
    parser.add_argument("--directory", type=Path, help="where the files lie; [default: /tmp]")
    parser.add_argument("--keep", action="store_true", help="leave the files there")
    options = parser.parse_args()
    both = ("process", "power")
    verdicts = []
    for durability in both if options.durability == "both" else (options.durability,):
        work = Path(tempfile.mkdtemp(prefix="dims-kills-", dir=options.directory))
        campaign = Campaign(Place(work, durability == "power"), options.seed)
        try:
            verdict = campaign.run(options.rounds, lambda text: print(text, file=sys.stderr))
        finally:
            campaign.close()
            if options.keep:
                print(f"the files are in {work}", file=sys.stderr)
            else:
                shutil.rmtree(work)
        print(f"\ndurability: {durability}, seed {options.seed}\n")
        for name, value in figures(verdict):
            print(f"{name:32}{value!s:>12}")
        print(json.dumps(verdict.json), flush=True)
        verdicts.append(verdict)
    return 1 if any(verdict.faults for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
