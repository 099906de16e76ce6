"""`dims status` and `dims health`: ask the brain, render. Must start fast."""

from __future__ import annotations

import json

import click

from dims.cli import render
from dims.cli.where import Where, as_json, located
from dims.errors import NotRunningError, TimedOutError
from dims.ipc.words.states import FleetLevel

LEVEL_CODES = {FleetLevel.WELL: 0, FleetLevel.DEGRADED: 1, FleetLevel.DOWN: 2}


@click.command()
@located
@as_json
def status(place: Where, json_: bool) -> None:
    """Show every bot: state, pid, memory, restarts, and why it is as it is."""
    with place.brain() as brain:
        answer = brain.request("status")
    click.echo(json.dumps(answer) if json_ else "\n".join(render.status(answer)))


@click.command()
@located
@as_json
def health(place: Where, json_: bool) -> int:
    """Exit 0 when all is well, 1 when degraded, 2 when down."""
    try:
        with place.brain() as brain:
            answer = brain.request("health")
    except (NotRunningError, TimedOutError) as error:
        answer = {"level": FleetLevel.DOWN, "problems": [str(error)], "wanted": 0, "serving": 0}
    click.echo(json.dumps(answer) if json_ else "\n".join(render.health(answer)))
    return LEVEL_CODES[answer["level"]]
