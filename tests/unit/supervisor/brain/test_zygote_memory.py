"""What a brain remembers of its zygotes' memory: how it is shared, and that one must not try."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from dims.config import MemorySharing
from dims.errors import ProtocolError
from dims.ipc.wire.sentences import read
from dims.ipc.words.failures import ExitStatus
from dims.ipc.words.sharing import Sharing
from dims.ipc.words.states import Manner
from dims.supervisor.brain.providers.zygote_memory import ZygoteMemory
from dims.supervisor.core.facts import Incarnation

FIRST, SECOND = Incarnation(1), Incarnation(2)
IMMORTAL = Sharing(Manner.IMMORTAL)
COPY = Sharing(Manner.COPY, "no way")
KILLED = ExitStatus(signal=9)


def why_copied(memory: ZygoteMemory, incarnation: Incarnation) -> str:
    option, why = memory.options(incarnation)
    assert option == "--copy-because"
    return why


def test_a_zygote_may_share_unless_the_operator_says_otherwise() -> None:
    assert why_copied(ZygoteMemory(MemorySharing.AUTO), FIRST) == ""
    assert "fleet.sharing" in why_copied(ZygoteMemory(MemorySharing.COPY), FIRST)


@pytest.mark.parametrize("said", [IMMORTAL, COPY])
def test_what_a_zygote_says_is_shown_while_it_lives(said: Sharing) -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    nothing = (None, None)
    assert memory.shown() == nothing
    memory.ready(said)
    assert memory.shown() == astuple(said)
    memory.ended(FIRST, KILLED)
    assert memory.shown() == nothing


def test_after_one_that_died_before_it_was_ready_all_copy() -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    why_copied(memory, FIRST)
    memory.ended(FIRST, KILLED)
    why = why_copied(memory, SECOND)
    assert "before it was ready (killed by signal 9)" in why
    memory.ready(COPY)
    memory.ended(SECOND, ExitStatus(code=1))
    assert why_copied(memory, Incarnation(3)) == why


def test_one_that_was_ready_or_that_a_former_brain_ordered_is_no_reason() -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    memory.ended(FIRST, KILLED)
    assert why_copied(memory, SECOND) == ""
    memory.ready(IMMORTAL)
    memory.ended(SECOND, KILLED)
    assert why_copied(memory, Incarnation(3)) == ""


def test_the_reason_of_the_operator_outlives_a_failure() -> None:
    memory = ZygoteMemory(MemorySharing.COPY)
    why = why_copied(memory, FIRST)
    memory.ended(FIRST, KILLED)
    assert why_copied(memory, SECOND) == why


def test_a_zygote_that_does_not_say_how_it_shares_is_malformed() -> None:
    for said in ({}, {"sharing": "other", "sharing_reason": ""}):
        with pytest.raises(ProtocolError):
            read(Sharing, said)
