"""The worker of DIMS in a fresh interpreter: what our worker costs without a zygote.

It imports what a bot with database, cache and validated models imports, and then runs the very
worker code of DIMS. Usage: fat_bot.py TERMS.json: what a brain would say in its welcome.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import asyncpg  # noqa: F401 (its cost is what is measured)
import pydantic  # noqa: F401
import redis.asyncio  # noqa: F401
import sqlalchemy.ext.asyncio
import sqlalchemy.orm  # noqa: F401

from dims.bot_worker.foreground import run_in_foreground
from dims.ipc.wire.sentences import read
from dims.ipc.words.terms import WorkerTerms

told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
run_in_foreground(read(WorkerTerms, told), nullcontext())
