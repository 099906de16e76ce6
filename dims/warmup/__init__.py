"""What a zygote imports and runs once, so that no worker has to. The zygote is told its name.

Each page touched here is shared by all workers; each module forgotten here is a private copy in
every one of them, and its import time is paid at every start.
"""

from __future__ import annotations

import concurrent.futures  # noqa: F401 (preloaded)
import contextlib  # noqa: F401
import csv  # noqa: F401
import decimal  # noqa: F401
import html  # noqa: F401
import random  # noqa: F401
import secrets  # noqa: F401
import sqlite3  # noqa: F401
import ssl  # noqa: F401
import textwrap  # noqa: F401
import urllib.request  # noqa: F401
import uuid  # noqa: F401

from dims.warmup.rehearsal import rehearse


def warm_up() -> None:
    """Imports everything above, and plays a worker's life."""
    rehearse()


def warm_up_with_database() -> None:
    """The same, and the driver that bots with a database need."""
    import asyncpg  # noqa: F401, PLC0415 (see the module)

    import dims.storage.bot.database  # noqa: PLC0415
    import dims.storage.connections.connecting  # noqa: F401, PLC0415

    rehearse()
