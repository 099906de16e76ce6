"""Handlers that do to an interpreter whatever Python code may do, and count what came of it.

Each message is one act, which asserts that the interpreter behaves; some numbers bring a rarer one
besides. Nothing here knows how memory is shared: the same counts must come out in any way.
"""

import asyncio
import collections
import copy
import ctypes
import decimal
import faulthandler
import functools
import gc
import importlib
import itertools
import json
import linecache
import multiprocessing
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import tracemalloc
import types
import weakref
from pathlib import Path

from telethon import TelegramClient, events, tl, utils

from dims import on

EXIT_CODE = 7
CHILD_LIMIT_S = 20
SAMPLE_EVERY = 50
"""Messages."""
END = "end"
"""The message that ends the worker through the interpreter's own end, once."""
PLANNED = "planned"

here = types.SimpleNamespace(bot=None, number=0)
"""This worker's bot, and the messages it has handled."""
counts = collections.Counter()


async def setup(context):
    here.bot = context


async def reload(_context):
    counts["reloads"] += 1


# Objects that come and go


class Circle:
    """Only the collector ends it."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        counts["circles ended"] += 1


come_back = []


class Undead:
    """Comes back once, in the list."""

    def __del__(self):
        come_back.append(self)


def finalisers():
    for _ in range(50):
        Circle()
    gc.collect()


def resurrection():
    Undead()
    assert len(come_back) == 1
    come_back.clear()
    gc.get_referrers(Undead)
    assert sys.getrefcount(json) > 1


def weak_references():
    class Thing:
        pass

    seen = []
    thing, named = Thing(), weakref.WeakValueDictionary()
    named["it"] = thing
    weakref.finalize(thing, seen.append, "gone")
    del thing
    assert (dict(named), seen) == ({}, ["gone"])
    assert weakref.ref(TelegramClient)() is TelegramClient
    assert len(weakref.WeakSet([TelegramClient, json.JSONDecoder])) == 2


def copies():
    peer = tl.types.PeerUser(5)
    assert bytes(copy.deepcopy(peer)) == bytes(peer)
    things = {"a": (1, 2.5, "x"), "d": decimal.Decimal("1.5")}
    assert pickle.loads(pickle.dumps(things)) == things  # noqa: S301 (our own)


# Frames


def exceptions():
    def fall(depth):
        if depth == 0:
            return json.loads("{bad")
        try:
            return fall(depth - 1)
        except ValueError as error:
            raise KeyError(depth) from error

    try:
        fall(20)
    except KeyError as error:
        counts[f"fallen for {type(error.__cause__).__name__}"] += 1


def generators():
    def endless():
        try:
            while True:
                yield 1
        except ValueError:
            yield 2
        finally:
            counts["generators ended"] += 1

    thrown = endless()
    next(thrown)
    assert thrown.throw(ValueError()) == 2
    thrown.close()
    dropped = endless()
    next(dropped)
    del dropped
    assert sum(itertools.islice(endless(), 5)) == 5


def recursion():
    def deep(left):
        return 0 if left == 0 else 1 + deep(left - 1)

    def bottomless():
        return bottomless()

    assert deep(700) == 700
    try:
        bottomless()
    except RecursionError:
        counts["bottoms reached"] += 1


async def numbers():
    try:
        for each in range(3):
            yield each
            await asyncio.sleep(0)
    finally:
        counts["asynchronous generators ended"] += 1


async def asynchronous_generators():
    assert [each async for each in numbers()] == [0, 1, 2]
    async for _ in numbers():
        break


# What others share


def attributes():
    json.added = here.number
    del json.added
    told, utils.get_display_name = utils.get_display_name, lambda _entity: "x"
    utils.get_display_name = told
    tl.types.Message.added = here.number
    assert type("Sub", (tl.types.PeerUser,), {"y": 1})(5).user_id == 5
    del tl.types.Message.added
    held = dict(vars(json))
    held.clear()
    decimal.getcontext().prec = 28 + here.number % 3
    os.environ["ADDED"] = str(here.number)
    del os.environ["ADDED"]


def interning():
    for text in (json.__doc__, re.__doc__, collections.OrderedDict.__doc__):
        longer = sys.intern(text)
        longer += "x"
        longer += "y"
        assert longer == text + "xy"
    assert sys.intern(f"made {here.number}") is sys.intern(f"made {here.number}")
    names = tuple(json.__all__)
    names += (here.number,)
    assert names[-1] == here.number
    assert b"".join([b"a", bytes(5)]) == b"a\0\0\0\0\0"


def caches():
    re.purge()
    assert re.compile(rf"a+b{here.number}").match(f"aab{here.number}")
    linecache.clearcache()
    functools.lru_cache(lambda: here.number)()
    importlib.reload(textwrap)
    module = sys.modules.pop("csv")
    assert importlib.import_module("csv") is not module
    sys.modules["csv"] = module
    sys._clear_type_cache()  # noqa: SLF001 (as tools do that hunt leaks)


def threads():
    own, seen = threading.local(), []

    def work():
        own.value = 5
        seen.append(own.value)
        generators()

    all_ = [threading.Thread(target=work) for _ in range(3)]
    for each in all_:
        each.start()
    for each in all_:
        each.join()
    assert seen == [5, 5, 5]


def database():
    with tempfile.TemporaryDirectory() as directory:
        connection = sqlite3.connect(Path(directory) / "a.db")
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(n, str(n)) for n in range(50)])
        assert connection.execute("SELECT sum(a) FROM t").fetchone() == (1225,)
        connection.close()


def stacks():
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        assert file.tell() > 0


# Processes


def forks():
    """A child ends as Python ends: after a collection, after one of all that is frozen, or hard."""
    kind = here.number % 3
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(CHILD_LIMIT_S)
            gc.collect()
            if kind:
                gc.unfreeze()
                gc.collect()
                gc.collect()
            if kind == 1:
                os._exit(EXIT_CODE)
            ctypes.pythonapi.Py_Exit(EXIT_CODE)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    counts[f"children of kind {kind} that ended with {code}"] += 1


def processes():
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(False)
    process = fork.Process(target=lambda: theirs.send(5))
    process.start()
    assert ours.recv() == 5
    process.join()
    ours.close()
    theirs.close()
    counts[f"processes that ended with {process.exitcode}"] += 1
    assert subprocess.run(["/bin/true"], check=False).returncode == 0


def thawing():
    if not here.bot.settings["thaws"]:
        return
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def tracing():
    tracemalloc.start(3)
    held = [bytes(100) for _ in range(500)]
    assert len(tracemalloc.take_snapshot().traces) >= len(held)
    tracemalloc.stop()


async def messages():
    await here.bot.send(here.bot.settings["next"], "ping", {"number": here.number})


ACTS = (
    *(finalisers, resurrection, weak_references, copies, exceptions, generators, recursion),
    *(asynchronous_generators, attributes, interning, caches, threads, database, stacks),
)
RARE = ((25, 3, forks), (50, 7, processes), (10, 4, messages), (300, 9, thawing), (100, 0, tracing))
"""Every how many messages, at which remainder, what."""


@on("ping")
async def pinged(_message):
    counts["pings"] += 1


@events.register(events.NewMessage(incoming=True))
async def on_message(event):
    if event.raw_text == END:
        end_once(event.id)
        return
    here.number += 1
    rare = (act for every, at, act in RARE if here.number % every == at)
    for act in (ACTS[here.number % len(ACTS)], *rare):
        await try_out(act)
    if here.bot.settings["stores"] and here.number % 4 == 0:
        await here.bot.db.messages.record(event)
    await event.respond(event.raw_text, parse_mode=None)
    if here.number % SAMPLE_EVERY == 0:
        sample()
    if here.number % 30 == 0:
        raise RuntimeError(PLANNED)


async def try_out(act):
    """A failure is counted, not raised: the next act shall have its turn."""
    try:
        done = act()
        if done is not None:
            await done
    except Exception as error:
        counts[f"failed: {act.__name__}: {error!r}"] += 1
    else:
        counts[act.__name__] += 1


def end_once(message_id):
    """A message that was in hand comes again: it must not end the next worker as well."""
    try:
        Path(here.bot.settings["results"], f"{here.bot.id}.{message_id}.ended").touch(
            exist_ok=False
        )
    except FileExistsError:
        return
    ctypes.pythonapi.Py_Exit(EXIT_CODE)


def sample():
    rollup = Path("/proc/self/smaps_rollup").read_text("ascii")
    said = {
        "pid": os.getpid(),
        "number": here.number,
        "unshared_bytes": 1024 * int(re.search(r"Private_Dirty: +(\d+)", rollup)[1]),
        "gc_objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "counts": counts,
    }
    with Path(here.bot.settings["results"], f"{here.bot.id}.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")
