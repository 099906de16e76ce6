"""What the database costs at the start: first and warm `dims start --all`, with and without it.

    python benchmarks/storage_start.py [--rounds 5]

The repository's bots.yaml in a fresh directory, both kinds interleaved; a warm start is one with
all files of the first still there. Root measures an ordinary user as well. Prints medians, when
each part of the fleet was ready, and verdicts; exits with 1 when a limit was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from measures import at_most, machine, spread, table

REPOSITORY = Path(__file__).parents[1]
DIMS = str(Path(sys.executable).with_name("dims"))
WITH, WITHOUT = "embedded", "off"
FIRST, WARM = "first", "warm"
FIRST_LIMIT_S, WARM_LIMIT_S = 10.0, 1.0
ORDINARY = "nobody"
AS_ORDINARY = (
    *("setpriv", f"--reuid={ORDINARY}", "--clear-groups"),
    # An interpreter may lie where only root can read.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
PARTS = ("postgres", "valkey", "sandbox", "zygote", "steward", "echo")


class Site:
    """A directory with the repository's bots.yaml, and a user who starts it."""

    def __init__(self, user: str, storage: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dims-start-"))
        self._state = self.directory / ".dims"
        shutil.copytree(
            REPOSITORY / "examples",
            self.directory / "examples",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        text = (REPOSITORY / "bots.yaml").read_text("utf-8")
        text += f"\nstorage: {{database: {storage}, redis: {storage}}}\n"
        (self.directory / "bots.yaml").write_text(text, "utf-8")
        self._prefix: tuple[str, ...] = ()
        if user != pwd.getpwuid(os.geteuid()).pw_name:
            entry = pwd.getpwnam(user)
            self._prefix = (*AS_ORDINARY, f"--regid={entry.pw_gid}")
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, entry.pw_uid, entry.pw_gid)

    def dims(self, *words: str) -> float:
        """Runs a command; how long it took."""
        began_s = time.monotonic()
        done = subprocess.run(
            [*self._prefix, DIMS, *words],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        took_s = time.monotonic() - began_s
        if done.returncode:
            raise SystemExit(f"dims {' '.join(words)}: {done.stderr}")
        return took_s

    def parts(self) -> dict[str, float]:
        """When the last start had each part ready, in seconds after the brain's first word."""
        began: datetime | None = None
        found: dict[str, float] = {}
        for line in (self._state / "logs" / "brain.log").read_text("utf-8").splitlines():
            record = json.loads(line)
            at, said = datetime.fromisoformat(record["at"]), record["message"]
            if said == "zygote is starting: supervisor started":
                began, found = at, {}
            elif " is ready" in said and began is not None:
                found.setdefault(said.split()[0], (at - began).total_seconds())
        return found

    def close(self) -> None:
        """Stops the fleet and removes all it left."""
        self.dims("stop")
        pointer = self._state / "embedded.home"
        if pointer.exists():
            shutil.rmtree(Path(pointer.read_text().strip()))
        shutil.rmtree(self.directory)


def users() -> list[str]:
    """Who starts the fleet."""
    ours = pwd.getpwuid(os.geteuid()).pw_name
    return [ours, ORDINARY] if os.geteuid() == 0 and shutil.which("setpriv") else [ours]


def main() -> int:
    """0 when no limit was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    where = machine()
    took: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    parts: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for user in users():
            # Who comes second finds warmer caches: in turns.
            for storage in (WITH, WITHOUT) if number % 2 else (WITHOUT, WITH):
                site = Site(user, storage)
                try:
                    took[user, storage, FIRST].append(site.dims("start", "--all"))
                    site.dims("stop")
                    took[user, storage, WARM].append(site.dims("start", "--all"))
                    for part, at_s in site.parts().items():
                        parts[user, storage, part].append(at_s)
                finally:
                    site.close()
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    rows, verdicts = [], []
    for user in users():
        for kind, limit_s in ((FIRST, FIRST_LIMIT_S), (WARM, WARM_LIMIT_S)):
            ours, bare = took[user, WITH, kind], took[user, WITHOUT, kind]
            more_s = statistics.median(ours) - statistics.median(bare)
            rows.append([f"{kind} start as {user}", spread(bare, 1, 2), spread(ours, 1, 2),
                         f"{more_s:+.2f}"])  # fmt: skip
            verdicts.append(at_most(f"{kind} start as {user}: at most more", more_s, limit_s, "s"))
    print(f"{where}\n{options.rounds} rounds; seconds, median (lowest-highest)\n")
    print(table(["", "without", "with", "more"], rows))
    print("\nwarm start: seconds from the brain's first word until ready\n")
    print(_parts_table(parts))
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.reached for verdict in verdicts) else 1


def _parts_table(parts: dict[tuple[str, str, str], list[float]]) -> str:
    head = ["", *(f"{user}, {storage}" for user in users() for storage in (WITHOUT, WITH))]
    rows = [
        [part, *(spread(parts[user, storage, part], 1, 2)
                 for user in users() for storage in (WITHOUT, WITH))]
        for part in PARTS
    ]  # fmt: skip
    return table(head, rows)


if __name__ == "__main__":
    sys.exit(main())
