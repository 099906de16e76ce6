"""`dims bot tell`: a command for one running worker. Knows their names, and how answers read.

What a command takes is checked by the worker, which may be newer or older than this.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from dims.cli.render import duration, size
from dims.cli.where import Where, as_json, located
from dims.errors import UsageError

COMMANDS: Mapping[str, str] = {
    "reload": "read the bot's settings in bots.yaml again",
    "warm": "make entities=ID,@NAME,... known ahead",
    "drop-caches": "give memory back",
    "log-level": "level=debug|info|warning|error [logger=NAME] [for_s=S]",
    "drain": "finish what is in hand, then a new process",
    "dump": "the stacks of all threads and tasks",
    "readings": "how it is right now",
}
LISTS = frozenset({"entities"})
"""Names whose value is a list, by comma."""
MOST_SECONDS = 3_600.0
MARGIN_S = 5.0
"""The brain answers within the time limit, if only that there was no answer."""
_TABLE = "\n".join(f"  {name:<12} {text}" for name, text in COMMANDS.items())
# A line of \b keeps click from folding the table.
_HELP = f"""Tell the running bot ID something, and show its answer.

\b
COMMAND is one of
{_TABLE}
"""


@click.command(help=_HELP)
@located
@click.argument("bot_id", metavar="ID")
@click.argument("command", metavar="COMMAND")
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--timeout", "timeout_s", type=float, default=30.0, show_default=True)
@as_json
def tell(
    place: Where,
    *,
    bot_id: str,
    command: str,
    values: tuple[str, ...],
    timeout_s: float,
    json_: bool,
) -> None:
    """See `_HELP`."""
    if command not in COMMANDS:
        _no_such_command(command)
    if not 0 < timeout_s <= MOST_SECONDS:
        raise UsageError(f"--timeout must be above 0 and at most {MOST_SECONDS:g} s")
    body = read_values(values)
    request = {"bot": bot_id, "command": command, "body": body, "timeout_s": timeout_s}
    with place.brain(timeout_s + MARGIN_S) as brain:
        answer = brain.request("tell", request)
    click.echo(json.dumps(answer) if json_ else plain("\n".join(lines(command, answer))))


def read_values(words: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE words as one object: values are JSON where they parse, else text.

    Raises UsageError for a word without a name, or a name that comes twice.
    """
    body: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{word!r} is not NAME=VALUE")
        if name in body:
            raise UsageError(f"{name!r} is given twice")
        value = _value(text)
        if name in LISTS and not isinstance(value, list):
            value = [_value(part.strip()) for part in text.split(",") if part.strip()]
        body[name] = value
    return body


def lines(command: str, answer: Mapping[str, Any]) -> list[str]:
    """The answer for people; one of a worker that says something else is shown as it is."""
    try:
        match command:
            case "reload":
                return _reloaded(answer)
            case "warm":
                failed = [f"not {name}: {why}" for name, why in answer["failed"].items()]
                return [f"{answer['warmed']} known", *failed]
            case "drop-caches":
                before, after = answer["unshared_bytes_before"], answer["unshared_bytes_after"]
                went = f"{answer['dropped']} entities dropped, {answer['kept']} kept"
                return [f"{went}; memory {size(before)}, now {size(after)}"]
            case "log-level":
                which = answer["logger"] or "the root logger"
                lent = f", for {duration(answer['for_s'])}" if answer["for_s"] else ""
                return [f"{which} is at {answer['level']}{lent}; it was at {answer['was']}"]
            case "drain":
                left = f"{answer['in_hand']} updates are still in hand"
                how = "drained" if answer["drained"] else f"not drained in time: {left}"
                return [f"{how}; a new process follows"]
            case "dump":
                return [str(answer["stacks"]).rstrip("\n")]
            case _:
                return _pairs(answer)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        # A worker runs foreign code: what it answers may be anything.
        return _pairs(answer)


def plain(text: str) -> str:
    """The text without what a terminal would obey."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _reloaded(answer: Mapping[str, Any]) -> list[str]:
    changed = ", ".join(answer["changed"])
    told = [f"changed: {changed}" if changed else "nothing changed"]
    if answer["needs_restart"]:
        told.append(f"needs `dims stop` and `dims start`: {', '.join(answer['needs_restart'])}")
    return told


def _pairs(answer: Mapping[str, Any]) -> list[str]:
    width = max(map(len, answer), default=0)
    return [f"{name:<{width}}  {_shown(value)}".rstrip() for name, value in answer.items()]


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case _:
            return json.dumps(value)


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    # Python reads NaN, Infinity and 1e999, which are no JSON.
    return text if isinstance(value, float) and not math.isfinite(value) else value


def _no_such_command(command: str) -> NoReturn:
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(
        f"there is no command {command!r}{meant}", hint=f"commands: {', '.join(COMMANDS)}"
    )
