"""`dims ipc …`: what waits, what died, and a word from the operator."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import click

from dims.cli import mailboxes
from dims.cli.render import clock, duration, size, table
from dims.cli.where import Where, as_json, located
from dims.errors import DimsError, UsageError
from dims.ipc.wire.bodies import wrap_body
from dims.ipc.wire.envelope import Priority, created_s

PRIORITIES = tuple(priority.name.lower() for priority in Priority)
BODY_SHOWN = 200

some_bots = click.argument("bots", nargs=-1, metavar="[ID...]")
one_bot = click.argument("bot", metavar="ID")
numbers = click.argument("wanted", nargs=-1, type=int, metavar="[N...]")
every = click.option("--all", "all_", is_flag=True, help="All dead letters of this bot.")


@click.group()
def ipc() -> None:
    """See and send messages between bots. Works while the supervisor is down, too."""


@ipc.command()
@located
@as_json
@some_bots
def status(place: Where, json_: bool, bots: tuple[str, ...]) -> None:
    """Show what waits in each mailbox: how much, how old, how fast it goes."""
    found, failed = [], []
    for bot in mailboxes.chosen(place, bots):
        try:
            found.append(mailboxes.ask(place, bot, "mail.status", {}))
        except DimsError as error:
            failed.append({"bot": bot, "error": str(error)})
    if json_:
        click.echo(json.dumps({"mailboxes": found, "failed": failed}))
        return
    head = ("BOT", *(name.upper() for name in PRIORITIES), "OLDEST", "SIZE", "RATE", "DEAD", "NOW")
    click.echo("\n".join(table(head, [_row(answer) for answer in found])))
    for fault in failed:
        click.echo(f"{fault['bot']}: {fault['error']}", err=True)


@ipc.command()
@located
@as_json
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@one_bot
def peek(place: Where, json_: bool, limit: int, bot: str) -> None:
    """Show the next messages of each sender and priority, without taking them."""
    answer = mailboxes.ask(place, bot, "mail.peek", {"limit": limit})
    if json_:
        click.echo(json.dumps(answer))
        return
    rows = [_message_row(wire) for wire in answer["messages"]]
    click.echo("\n".join(table(("MADE", "FROM", "PRIORITY", "KIND", "BODY"), rows)))


@ipc.command()
@located
@as_json
@click.option("--priority", type=click.Choice(PRIORITIES), default="normal", show_default=True)
@click.option("--request", "asks", is_flag=True, help="Wait for the handler's reply, print it.")
@click.option("--ephemeral", is_flag=True, help="To the running bot only, through no file.")
@click.option("--expires", "expires_in_s", type=click.FloatRange(0, min_open=True), metavar="S")
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True)
@one_bot
@click.argument("kind")
@click.argument("body", default="{}")
def send(  # noqa: PLR0917 (click passes by name)
    place: Where,
    json_: bool,
    priority: str,
    asks: bool,
    ephemeral: bool,
    expires_in_s: float | None,
    timeout_s: float,
    bot: str,
    kind: str,
    body: str,
) -> None:
    """Send BODY, a JSON value ('-' reads standard input), to a bot as a message of KIND."""
    if any(character in bot for character in "*?["):
        raise UsageError(f"{bot!r} is no single bot", hint="a message goes to one bot")
    mailboxes.chosen(place, (bot,))
    if asks:
        expires_in_s = timeout_s
    class_ = Priority[priority.upper()]
    message = mailboxes.message_of(
        bot, kind, wrap_body(_json(body)), class_, expires_in_s, asks=asks
    )
    if asks:
        reply = mailboxes.deliver(place, message, timeout_s)
        click.echo(json.dumps(reply, ensure_ascii=False))
        return
    if ephemeral:
        mailboxes.deliver(place, message, timeout_s)
    else:
        mailboxes.post(place, message)
    click.echo(json.dumps({"id": message.id}) if json_ else message.id)


@ipc.group()
def dead() -> None:
    """Look at messages that nobody could handle, try them again, or drop them."""


@dead.command("list")
@located
@as_json
@some_bots
def list_(place: Where, json_: bool, bots: tuple[str, ...]) -> None:
    """List dead letters and why they died."""
    letters = [
        {"bot": bot, **letter}
        for bot in mailboxes.chosen(place, bots)
        for letter in mailboxes.ask(place, bot, "mail.dead.list", {"limit": 1_000})["dead"]
    ]
    if json_:
        click.echo(json.dumps({"dead": letters}))
        return
    rows = [
        (
            letter["bot"],
            str(letter["n"]),
            clock(letter["at"]),
            letter["sender"],
            letter["kind"] or "?",
            str(letter["attempts"]),
            letter["reason"],
        )
        for letter in letters
    ]
    click.echo("\n".join(table(("BOT", "N", "DIED", "FROM", "KIND", "TRIES", "WHY"), rows)))


@dead.command()
@located
@as_json
@one_bot
@click.argument("n", type=int)
def show(place: Where, json_: bool, bot: str, n: int) -> None:
    """Show one dead letter whole."""
    letter = mailboxes.ask(place, bot, "mail.dead.show", {"n": n})
    letter.pop("live")
    click.echo(json.dumps(letter) if json_ else json.dumps(letter, indent=2, ensure_ascii=False))


@dead.command()
@located
@as_json
@every
@one_bot
@numbers
def replay(place: Where, json_: bool, all_: bool, bot: str, wanted: tuple[int, ...]) -> None:
    """Put dead letters back into the mailbox, as if they came now."""
    body = {"numbers": _numbers(all_, wanted)}
    replayed = mailboxes.ask(place, bot, "mail.dead.replay", body)["replayed"]
    said = f"replayed {_listed(replayed)}"
    click.echo(json.dumps({"replayed": replayed}) if json_ else said)


@dead.command()
@located
@as_json
@every
@one_bot
@numbers
def drop(place: Where, json_: bool, all_: bool, bot: str, wanted: tuple[int, ...]) -> None:
    """Drop dead letters for good."""
    body = {"numbers": _numbers(all_, wanted)}
    dropped = mailboxes.ask(place, bot, "mail.dead.drop", body)["dropped"]
    click.echo(json.dumps({"dropped": dropped}) if json_ else f"dropped {_listed(dropped)}")


def _row(answer: Mapping[str, Any]) -> tuple[str, ...]:
    counts = [answer["by_priority"][name]["messages"] for name in PRIORITIES]
    rate = answer.get("handled_per_s")
    now = f"{answer['in_hand']} in hand" if answer["live"] else "no reader"
    if answer["trouble"]:
        now += f": {answer['trouble']}"
    return (
        answer["bot"],
        *map(str, counts),
        duration(answer["oldest_age_s"]),
        size(answer["bytes"]),
        "-" if rate is None else f"{rate:.1f}/s",
        str(answer["dead"]),
        now,
    )


def _message_row(wire: Mapping[str, Any]) -> tuple[str, ...]:
    body = json.dumps(wire["body"], ensure_ascii=True)
    shown = body if len(body) <= BODY_SHOWN else body[:BODY_SHOWN] + "…"
    priority = Priority(wire["prio"]).name.lower()
    made = created_s(wire["id"])
    return (clock(made) if made else "-", wire["from"], priority, wire["kind"], shown)


def _numbers(all_: bool, wanted: tuple[int, ...]) -> list[int] | None:
    if all_ == bool(wanted):
        raise UsageError("name dead letters by number, or say --all")
    return None if all_ else list(wanted)


def _listed(done: list[int]) -> str:
    return ", ".join(map(str, done)) or "nothing"


def _json(text: str) -> Any:
    raw = sys.stdin.read() if text == "-" else text
    try:
        return json.loads(raw)
    except ValueError as error:
        raise UsageError(
            f"the body is no JSON: {error}", hint="text needs quotes, such as '\"hello\"'"
        ) from error
