"""`dims logs`: reads the file of one process, and follows it over rotations."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import click

from dims.cli.where import Where, located
from dims.errors import UsageError

LOOK_S = 0.2


@click.command()
@located
@click.argument("bot", metavar="BOT")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many old lines.")
def logs(place: Where, bot: str, follow: bool, lines: int) -> None:
    """Show the log of BOT, or of keeper, brain, zygote or sandbox."""
    path = place.layout.log(bot)
    if not path.exists():
        known = sorted(log.stem for log in place.layout.logs.glob("*.log"))
        there = f"there are: {', '.join(known)}" if known else "nothing was started here yet"
        raise UsageError(f"there is no log of {bot!r}", hint=there)
    with path.open("rb") as file:
        for line in deque(file, maxlen=max(0, lines)):
            click.echo(line, nl=False)
        position = file.tell()
    if follow:
        for chunk in _growing(path, position):
            click.echo(chunk, nl=False)


def _growing(path: Path, position: int) -> Iterator[bytes]:
    """What is appended from now on; a rotated file is read to its end, then the new one."""
    file = path.open("rb")
    file.seek(position)
    try:
        while True:
            chunk = file.read()
            if chunk:
                yield chunk
                continue
            if _replaced(path, file.fileno()):
                # Lines may have come between that read and the rotation.
                yield file.read()
                file.close()
                file = path.open("rb")
                continue
            time.sleep(LOOK_S)
    finally:
        file.close()


def _replaced(path: Path, descriptor: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
