"""Which fleet a command is about: its configuration file and state directory. Reads no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dims.errors import NotRunningError
from dims.ipc.links.control_client import ControlClient
from dims.layout import CONFIG_VARIABLE, DEFAULT_CONFIG, STATE_DIR_VARIABLE, Layout, state_path

as_json = click.option("--json", "json_", is_flag=True, help="Print JSON (shape: docs/json.md).")
"""The option `--json` of every command that shows something; its argument is `json_`."""


class Where:
    """The configuration file and the layout of the state directory, both absolute."""

    __slots__ = ("config", "layout")

    def __init__(self, config: Path, layout: Layout) -> None:
        self.config = config
        self.layout = layout

    def brain(self, timeout_s: float | None = 10.0) -> ControlClient:
        """A connection to the brain; raises NotRunningError when there is none."""
        try:
            return ControlClient(self.layout.control_socket, timeout_s=timeout_s)
        except NotRunningError as error:
            raise NotRunningError(
                f"no supervisor runs on {self.layout.state}", hint="`dims start --all` starts it"
            ) from error

    def sandbox(self, timeout_s: float | None = 60.0) -> ControlClient:
        """A connection to the sandbox; raises NotRunningError when there is none."""
        try:
            return ControlClient(self.layout.sandbox_socket, timeout_s=timeout_s)
        except NotRunningError as error:
            raise NotRunningError(
                f"no sandbox runs on {self.layout.state}",
                hint="`dims start --all` starts it, if bots.yaml says `server: sandbox`",
            ) from error


def where(config: str | None, state_dir: str | None) -> Where:
    """What the options and the environment say."""
    path = Path(config or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG).absolute()
    given = state_dir or os.environ.get(STATE_DIR_VARIABLE)
    return Where(path, Layout(state_path(path, given)))


def located(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config` and `--state-dir`; the command gets one argument `place` instead."""

    def run(*args: Any, config: str | None, state_dir: str | None, **kwargs: Any) -> Any:
        return command(*args, place=where(config, state_dir), **kwargs)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    text = f"[default: {DEFAULT_CONFIG}, or ${CONFIG_VARIABLE}]"
    run = click.option("--config", "-c", metavar="FILE", help=f"The fleet. {text}")(run)
    text = f"[default: .dims beside the file, or ${STATE_DIR_VARIABLE}]"
    return click.option("--state-dir", metavar="DIR", help=f"Where it keeps its state. {text}")(run)
