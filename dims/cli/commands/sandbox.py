"""`dims sandbox …`: a person's side of the local Telegram, and its fault drills."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import click

from dims.cli import render
from dims.cli.where import Where, as_json, located
from dims.errors import DimsError, TimedOutError
from dims.ipc.links.control_client import ControlClient

DEFAULT_USER = "you"
as_user = click.option(
    "--as", "user", default=DEFAULT_USER, show_default=True, help="Who speaks with the bot."
)


@click.group()
def sandbox() -> None:
    """Talk to bots on the local Telegram, and try what happens when Telegram fails."""


@sandbox.command()
@located
@as_user
@click.argument("bot")
@click.argument("text")
@click.option("--wait", is_flag=True, help="Wait for replies and print them.")
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True)
@as_json
def send(
    place: Where,
    *,
    bot: str,
    text: str,
    user: str,
    wait: bool,
    timeout_s: float,
    json_: bool,
) -> None:
    """Send TEXT to BOT; with --wait print what it replies, exit 7 if it does not."""
    body = {"bot": bot, "user": user, "text": text, "wait_s": timeout_s if wait else 0}
    with place.sandbox(timeout_s + 10) as client:
        answer = client.request("send", body)
    if json_:
        click.echo(json.dumps(answer))
    else:
        for message in answer["replies"]:
            click.echo(_text(message))
    if wait and not answer["replies"]:
        raise TimedOutError(
            f"{bot} did not reply within {timeout_s:g} s",
            hint=f"see `dims bot explain {bot}` and `dims logs {bot}`",
        )


@sandbox.command()
@located
@as_user
@click.argument("bot")
def chat(place: Where, bot: str, user: str) -> None:
    """Talk with BOT in the terminal; /press LABEL presses a button, Ctrl-D ends."""
    client = place.sandbox(None)
    events = client.stream("follow", {"bot": bot, "user": user})
    next(events)
    listener = threading.Thread(target=_print_events, args=(events, bot), daemon=True)
    listener.start()
    click.echo(f"SANDBOX  you are {user}, talking with {bot}; Ctrl-D ends")
    with place.sandbox(30) as mine:
        while True:
            try:
                line = click.prompt("", prompt_suffix="", default="", show_default=False)
            except click.exceptions.Abort:
                click.echo()
                return
            if line.strip():
                _say(mine, bot, user, line)


@sandbox.command()
@located
@as_user
@click.argument("bot")
@click.argument("label")
@as_json
def press(place: Where, bot: str, label: str, user: str, json_: bool) -> None:
    """Press the newest button called LABEL that BOT has shown."""
    with place.sandbox() as client:
        answer = _press(client, bot, user, label)
    if json_:
        click.echo(json.dumps(answer))
        return
    for text in (_event_text(event, bot) for event in answer["events"]):
        if text:
            click.echo(text)


@sandbox.command()
@located
@as_json
def status(place: Where, json_: bool) -> None:
    """Show accounts, logins, pending updates and active faults."""
    with place.sandbox() as client:
        answer = client.request("status")
    if json_:
        click.echo(json.dumps(answer))
        return
    address = answer["address"]
    click.echo(f"SANDBOX  {address['host']}:{address['port']}, {answer['connections']} connections")
    head = ("BOT", "CONNECTED", "LOGINS", "COLD", "DOUBLED", "PENDING", "IN", "OUT")
    keys = ["name", "connections", "logins", "cold_logins", "duplicated", "updates_pending"]
    keys += ["messages_in", "messages_out"]
    rows = [tuple(str(account[key]) for key in keys) for account in answer["accounts"]]
    click.echo("\n".join(render.table(head, rows)))
    if answer["faults"]:
        click.echo(f"{answer['faults']} active faults: see `dims sandbox fault list`")


@sandbox.group()
def fault() -> None:
    """Make the local Telegram misbehave: set, list, clear."""


@fault.command("set")
@located
@click.argument(
    "kind",
    type=click.Choice(
        [
            *("flood_wait", "silence", "cut", "latency", "withhold_updates", "deactivated"),
            *("token_expired", "session_revoked", "key_destroyed"),
        ]
    ),
)
@click.argument("bot", required=False)
@click.option("--request", help="Only this request, such as messages.sendMessage.")
@click.option("--seconds", type=float, help="Length of a flood wait, or latency.")
@click.option("--count", type=int, help="How often, then it is over.")
@click.option("--for", "duration_s", type=float, help="For so many seconds, then it is over.")
def set_(place: Where, kind: str, bot: str | None, **options: object) -> None:
    """Set a fault of KIND for BOT, or for all bots."""
    body = {"kind": kind, "bot": bot, **options}
    with place.sandbox() as client:
        answer = client.request("fault.set", {k: v for k, v in body.items() if v is not None})
    click.echo(_fault_text(answer) if "id" in answer else f"struck {answer['struck']}")


@fault.command("list")
@located
@as_json
def list_(place: Where, json_: bool) -> None:
    """List active faults."""
    with place.sandbox() as client:
        answer = client.request("fault.list")
    if json_:
        click.echo(json.dumps(answer))
        return
    for entry in answer["faults"]:
        click.echo(f"{entry['id']}: {_fault_text(entry)}")


@fault.command()
@located
@click.argument("bot", required=False)
def clear(place: Where, bot: str | None) -> None:
    """Clear all faults, or those of BOT."""
    with place.sandbox() as client:
        answer = client.request("fault.clear", {"bot": bot} if bot else {})
    click.echo(f"cleared {answer['cleared']}")


def _fault_text(fault_: Mapping[str, Any]) -> str:
    parts = [fault_["kind"], fault_.get("bot") or "all bots"]
    details = ("request", "seconds", "count_left", "remaining_s")
    parts += [f"{key} {fault_[key]}" for key in details if fault_.get(key) is not None]
    return ", ".join(parts)


def _say(client: ControlClient, bot: str, user: str, line: str) -> None:
    try:
        if line.startswith("/press "):
            _press(client, bot, user, line.removeprefix("/press ").strip())
        else:
            client.request("send", {"bot": bot, "user": user, "text": line, "wait_s": 0})
    except DimsError as error:
        click.echo(f"! {error}", err=True)


def _press(client: ControlClient, bot: str, user: str, label: str) -> dict[str, Any]:
    history = client.request("history", {"bot": bot, "user": user, "limit": 50})["messages"]
    for message in reversed(history):
        for row in message["buttons"]:
            if any(button["text"] == label for button in row):
                body = {"bot": bot, "user": user, "message_id": message["id"], "button": label}
                return client.request("press", body)
    raise DimsError(f"{bot} shows no button {label!r}")


def _print_events(events: Iterator[dict[str, Any]], bot: str) -> None:
    try:
        for event in events:
            text = _event_text(event, bot)
            if text:
                click.echo(text)
    except DimsError as error:
        click.echo(f"! the sandbox is gone: {error}", err=True)


def _event_text(event: Mapping[str, Any], bot: str) -> str:
    match event["event"]:
        case "new" if event["message"]["from"] == "bot":
            return f"{bot}> {_text(event['message'])}"
        case "edit" if event["message"]["from"] == "bot":
            return f"{bot} (edited)> {_text(event['message'])}"
        case "delete":
            return f"{bot} deleted a message"
        case "callback_answer" if event.get("text"):
            return f"[{event['text']}]"
        case _:
            return ""


def _text(message: Mapping[str, Any]) -> str:
    buttons = ["  " + " ".join(f"[{b['text']}]" for b in row) for row in message["buttons"]]
    return "\n".join([message["text"], *buttons])
