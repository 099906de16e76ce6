"""A bot's code, looked at without running a line of it: is it there, and does it compile?

`handlers` is a file when it ends in .py, else the dotted name of a module.
"""

from __future__ import annotations

import importlib.machinery
import sys
import warnings
from pathlib import Path

from dims.config.models import BotSettings
from dims.config.text.faults import scrub


def check_handlers_source(bot: BotSettings, directory: Path) -> str | None:
    """What is wrong with the bot's code as `file:line:column: text`, or None.

    `directory` is the one of bots.yaml. Nothing is imported, parent packages neither.
    """
    source = find_source(bot.handlers, directory)
    if source is None:
        looked = directory / bot.handlers if _is_file(bot.handlers) else f"{directory}, sys.path"
        kind = "file" if _is_file(bot.handlers) else "module"
        return f"bot {bot.id}: the handlers {kind} '{bot.handlers}' does not exist (in {looked})"
    return _compile_fault(source, bot.handlers)


def find_source(handlers: str, directory: Path) -> Path | None:
    """The file that holds the bot's code, or None."""
    if _is_file(handlers):
        path = directory / handlers
        return path if path.is_file() else None
    search = [str(directory), *sys.path]
    parts = handlers.split(".")
    for depth, part in enumerate(parts, start=1):
        spec = importlib.machinery.PathFinder.find_spec(part, search) if part else None
        if spec is None:
            return None
        if depth == len(parts):
            return Path(spec.origin) if spec.has_location and spec.origin else None
        if spec.submodule_search_locations is None:
            return None
        search = list(spec.submodule_search_locations)
    return None


def _is_file(handlers: str) -> bool:
    return handlers.endswith(".py")


def _compile_fault(source: Path, shown: str) -> str | None:
    name = shown if _is_file(shown) else str(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source.read_bytes(), name, "exec", dont_inherit=True)
    except SyntaxError as error:
        return scrub(f"{name}:{error.lineno or 1}:{error.offset or 1}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{name}:1:1: cannot be compiled: {error or type(error).__name__}"
    except OSError as error:
        return f"{name}: cannot be read: {error.strerror}"
    return None
