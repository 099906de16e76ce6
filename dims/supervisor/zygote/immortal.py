"""An immortal heap: makes objects that are never counted again, so that no worker copies them.

Knows how CPython counts references and tests that on objects of its own before anything relies on
it; refuses to know who shares the heap, and what lies in it.

Since CPython 3.12 an object whose count reads `IMMORTAL` is never counted again (PEP 683), and what
nobody writes stays shared after a fork. Python offers no call for it, so counts are written from
outside, by the kernel.
"""

from __future__ import annotations

import array
import ctypes
import gc
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from sys import getrefcount
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    FrameType,
    GeneratorType,
    TracebackType,
)
from typing import Any

from dims.supervisor.zygote.interpreters import Interpreter

IMMORTAL = 0xFFFF_FFFF
"""`_Py_IMMORTAL_REFCNT` of Include/object.h where pointers have 64 bits."""
COUNT_BYTES = 4
"""Of `ob_refcnt` the lower half, which comes first; the upper one of a mortal object is 0."""
AT_ONCE = 1024
"""Targets of one preadv, IOV_MAX of Linux. One call each took five times as long in all."""
LEFT_OUT = frozenset({AsyncGeneratorType, CoroutineType, FrameType, GeneratorType, TracebackType})
"""What is still under way, and looks at its own count when it ends."""
_TRIES = 5
_NAME, _QUALNAME = (type.__dict__[name].__get__ for name in ("__name__", "__qualname__"))
"""Of a class, whatever its metaclass says; the collector does not see them."""


def this_interpreter() -> Interpreter:
    """The one that runs this."""
    return Interpreter(
        name=sys.implementation.name,
        version=sys.version_info[:2],
        pointer_bits=sys.maxsize.bit_length() + 1,
        byteorder=sys.byteorder,
        has_gil=not sysconfig.get_config_var("Py_GIL_DISABLED"),
        is_debug=hasattr(sys, "gettotalrefcount"),
    )


class Counts:
    """Writes reference counts by the thousand: the kernel reads them from a file into memory.

    Use as a context manager. Raises OSError when there is no such file.
    """

    def __init__(self) -> None:
        # Not CDLL: while counts change, this thread keeps the interpreter.
        self._preadv = ctypes.PyDLL(None, use_errno=True).preadv
        self._preadv.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
        self._preadv.restype = ctypes.c_ssize_t
        self._file = os.memfd_create("dims-immortal")
        os.write(self._file, IMMORTAL.to_bytes(COUNT_BYTES, sys.byteorder) * AT_ONCE)

    def __enter__(self) -> Counts:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, objects: list[Any]) -> None:
        """Makes at most `AT_ONCE` objects immortal. Raises OSError when some are not."""
        many = len(objects)
        vector = array.array("Q", (COUNT_BYTES,)) * (2 * many)
        vector[::2] = array.array("Q", map(id, objects))
        done = self._preadv(self._file, vector.buffer_info()[0], many, 0)
        if done != COUNT_BYTES * many:
            raise OSError(ctypes.get_errno(), f"preadv wrote {done} bytes of {many} counts")


def doubt() -> str:
    """What is not as it should be when an object of our own is made immortal; empty if nothing.

    To be asked only where `interpreters.refusal` has none.
    """
    if getrefcount(None) != IMMORTAL:
        return f"None is counted: {getrefcount(None)}"
    mortal: list[object] = []
    other: list[object] = []
    before = _head(mortal)
    if before != (getrefcount(mortal), 0, id(list)):
        return f"the head of an object reads {before}"
    try:
        with Counts() as counts:
            counts.write([mortal, other])
    except (OSError, AttributeError) as error:
        return f"counts cannot be written: {error}"
    for each in (mortal, other):
        held = [each] * _TRIES
        if (getrefcount(each), *_head(each)) != (IMMORTAL, IMMORTAL, 0, id(list)):
            return f"an immortal object is counted: its head reads {_head(each)}"
        del held
        if _head(each) != (IMMORTAL, 0, id(list)):
            return f"an immortal object was released: its head reads {_head(each)}"
    return ""


def _head(subject: object) -> tuple[int, int, int]:
    """The two halves of an object's count and the address of its type, as they lie in memory."""
    halves = (ctypes.c_uint32 * 2).from_address(id(subject))
    kind = ctypes.c_uint64.from_address(id(subject) + ctypes.sizeof(halves))
    return halves[0], halves[1], kind.value


def make_immortal() -> int:
    """Makes immortal what can be reached from all that the collector tracks; returns how many.

    To be called where `doubt` has none, after a collection and before `gc.freeze()`, by the only
    thread, without signal handlers. If anything is raised, the heap is unfit for further use: the
    process has to end without the interpreter's own end.
    """
    total = 0
    with _collector_at_rest(), Counts() as counts:
        # Whatever was reached is held until it is immortal: `_asyncio` of 3.12 shows the objects
        # of its free list, and one that is released there again makes the list a circle.
        layer = gc.get_objects()
        while layer:
            reached: list[Any] = []
            for first in range(0, len(layer), AT_ONCE):
                total += _spread(counts, layer[first : first + AT_ONCE], reached)
            layer = reached
    return total


def _spread(counts: Counts, some: list[Any], reached: list[Any]) -> int:
    """Makes the mortal ones of `some` immortal and adds what they refer to; returns how many."""
    mortal = [one for one in some if getrefcount(one) < IMMORTAL and type(one) not in LEFT_OUT]
    counts.write(mortal)
    reached += gc.get_referents(*mortal)
    for one in mortal:
        # The collector is not told of these, since none of them can be part of a circle.
        if type(one) is CodeType:
            reached += (one.co_consts, one.co_names, one.co_name, one.co_qualname)
            reached += (one.co_filename, one.co_linetable, one.co_exceptiontable)
        elif issubclass(type(one), type):
            reached += (_NAME(one), _QUALNAME(one))
    return len(mortal)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    was_at_work = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_at_work:
            gc.enable()
