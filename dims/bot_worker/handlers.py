"""The bot's own code: a module whose functions carry `@events.register(...)`. Loads and hooks it.

Whatever goes wrong while it is loaded is the operator's to mend, and is said with file and line.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from telethon import events

from dims.bot_worker.telegram.diagnosis import Failure, WorkerFailedError
from dims.ipc.words.failures import FailureClass


def load_module(handlers: str, directory: Path) -> ModuleType:
    """The imported module: a `.py` file (relative to `directory`), or a dotted name.

    `directory` is importable for it. Raises WorkerFailedError with file and line of the fault.
    """
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    try:
        if handlers.endswith(".py"):
            return _load_file(directory / handlers)
        return importlib.import_module(handlers)
    except WorkerFailedError:
        raise
    except SyntaxError as error:
        place = f"{error.filename}:{error.lineno}"
        raise _mend(f"handlers {handlers!r}: syntax error at {place}: {error.msg}") from error
    except ModuleNotFoundError as error:
        raise _mend(f"handlers {handlers!r}: no module {error.name!r}{_place(error)}") from error
    except Exception as error:
        # Foreign code may raise anything while it is imported, and all of it is the operator's.
        what = f"{type(error).__name__}: {error}"
        raise _mend(f"handlers {handlers!r} cannot be imported: {what}{_place(error)}") from error


def registered(module: ModuleType) -> list[tuple[Callable[..., Any], Any]]:
    """(function, event builder) for each registered function of the module, in its order.

    Functions that were only imported into the module count, as with `client.add_event_handler`;
    one that has two names counts once.
    """
    found: list[tuple[Callable[..., Any], Any]] = []
    seen: set[int] = set()
    for value in vars(module).values():
        builders = events._get_handlers(value) if callable(value) else None  # noqa: SLF001 (Telethon's own client reads it so; it has no public reader)
        if builders and id(value) not in seen:
            seen.add(id(value))
            found.extend((value, builder) for builder in builders)
    return found


async def call_hook(module: ModuleType, name: str, bot: object) -> None:
    """Awaits `setup(bot)`, `teardown(bot)` or `reload(bot)` where the module has it.

    Raises WorkerFailedError when it is no coroutine function; whatever it raises itself passes.
    """
    hook = getattr(module, name, None)
    if hook is None:
        return
    if not inspect.iscoroutinefunction(hook):
        raise _mend(f"{module.__name__}.{name} must be `async def {name}(bot)`")
    await hook(bot)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise _mend(f"handlers file {path} does not exist")
    # The module's own name, so that tracebacks and loggers read well; siblings import by name.
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _mend(f"handlers file {path} is no Python source")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _place(error: BaseException) -> str:
    """Where in the bot's own code it happened: the last frame outside the import machinery."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename != __file__
    ]
    return f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _mend(reason: str) -> WorkerFailedError:
    return WorkerFailedError(Failure(FailureClass.NEEDS_OPERATOR, reason))
