"""`dims config check | show`: the configuration, without starting anything."""

from __future__ import annotations

import json
import os

import click

from dims.cli.where import Where, as_json, located
from dims.config import check_handlers_source, load_config, masked
from dims.errors import ConfigError


@click.group()
def config() -> None:
    """Check or show the configuration."""


@config.command()
@located
def check(place: Where) -> None:
    """Say every fault with file, line and column; start nothing."""
    checked = load_config(place.config, os.environ)
    faults = [check_handlers_source(bot, checked.directory) for bot in checked.bots]
    found = [fault for fault in faults if fault is not None]
    if found:
        raise ConfigError(found)
    server = checked.telegram.server.kind.value
    click.echo(f"{place.config}: fine, {len(checked.bots)} bots, server {server}")


@config.command()
@located
@as_json
def show(place: Where, json_: bool) -> None:
    """Show what is in force, defaults filled in, secrets masked."""
    shown = masked(load_config(place.config, os.environ))
    if json_:
        click.echo(json.dumps(shown))
        return
    import yaml  # noqa: PLC0415 (only for this output)

    click.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)
