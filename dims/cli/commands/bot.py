"""`dims bot …`: single bots or globs of them."""

from __future__ import annotations

import json
from collections.abc import Collection

import click

from dims.cli import render
from dims.cli.waiting import complain_about, until_settled
from dims.cli.where import Where, as_json, located

timeout = click.option(
    "--timeout", "timeout_s", type=float, default=60.0, show_default=True, help="Seconds to wait."
)
named = click.argument("bots", nargs=-1, required=True, metavar="ID...")


class _Group(click.Group):
    """Imports `tell` when it is used; the others are all here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "tell"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "tell":
            return super().get_command(ctx, cmd_name)
        from dims.cli.commands.tell import tell  # noqa: PLC0415 (the others need none of it)

        return tell


@click.group(cls=_Group)
def bot() -> None:
    """List, start, stop, restart, explain or tell bots; IDs may be globs such as 'shop-*'."""


@bot.command("list")
@located
@as_json
def list_(place: Where, json_: bool) -> None:
    """List the bots."""
    with place.brain() as brain:
        answer = brain.request("status")
    bots = answer["bots"]
    click.echo(json.dumps({"bots": bots}) if json_ else "\n".join(render.bots(bots)))


@bot.command()
@located
@timeout
@named
def start(place: Where, bots: tuple[str, ...], timeout_s: float) -> None:
    """Start bots and wait until they are ready."""
    settled = until_settled(place, _ask(place, "start", bots), timeout_s, quiet=True)
    click.echo("\n".join(render.bots(settled)))
    complain_about(settled)


@bot.command()
@located
@timeout
@named
def stop(place: Where, bots: tuple[str, ...], timeout_s: float) -> None:
    """Stop bots; they stay stopped until they are started by name or with --all."""
    settled = until_settled(place, _ask(place, "stop", bots), timeout_s, quiet=True)
    click.echo("\n".join(render.bots(settled)))


@bot.command()
@located
@timeout
@named
def restart(place: Where, bots: tuple[str, ...], timeout_s: float) -> None:
    """Restart bots: each finishes what is in hand first."""
    settled = until_settled(place, _ask(place, "restart", bots), timeout_s, quiet=True)
    click.echo("\n".join(render.bots(settled)))
    complain_about(settled)


@bot.command()
@located
@as_json
@click.argument("bot_id", metavar="ID")
def explain(place: Where, bot_id: str, json_: bool) -> None:
    """Say why a bot is as it is, on what evidence, and what happens next."""
    with place.brain() as brain:
        answer = brain.request("explain", {"bot": bot_id})
    click.echo(json.dumps(answer) if json_ else "\n".join(render.explanation(answer)))


def _ask(place: Where, kind: str, bots: tuple[str, ...]) -> Collection[str]:
    with place.brain() as brain:
        wanted: list[str] = brain.request(kind, {"bots": list(bots)})["bots"]
    return wanted
