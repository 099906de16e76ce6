"""What a brain remembers of its zygotes' memory: how it is shared, and that one must not try."""

from __future__ import annotations

import pytest
from dims.supervisor.brain.zygote_memory import ZygoteMemory

from dims.config import MemorySharing
from dims.ipc.words.failures import ExitStatus
from dims.ipc.words.sharing import Manner, Sharing
from dims.supervisor.core.facts import Incarnation

FIRST, SECOND = Incarnation(1), Incarnation(2)
IMMORTAL = Sharing(Manner.IMMORTAL).to_wire()
COPY = Sharing(Manner.COPY, "no way").to_wire()
KILLED = ExitStatus(signal=9)


def test_a_zygote_may_share_unless_the_operator_says_otherwise() -> None:
    assert ZygoteMemory(MemorySharing.AUTO).copy_because(FIRST) == ""
    assert "fleet.sharing" in ZygoteMemory(MemorySharing.COPY).copy_because(FIRST)


@pytest.mark.parametrize("said", [IMMORTAL, COPY])
def test_what_a_zygote_says_is_shown_while_it_lives(said: dict[str, str]) -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    nothing = {"sharing": None, "sharing_reason": None}
    assert memory.shown() == nothing
    memory.ready(said)
    assert memory.shown() == said
    memory.ended(FIRST, KILLED)
    assert memory.shown() == nothing


def test_after_one_that_died_before_it_was_ready_all_copy() -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    memory.copy_because(FIRST)
    memory.ended(FIRST, KILLED)
    why = memory.copy_because(SECOND)
    assert "before it was ready (killed by signal 9)" in why
    memory.ready(COPY)
    memory.ended(SECOND, ExitStatus(code=1))
    assert memory.copy_because(Incarnation(3)) == why


def test_one_that_was_ready_or_that_a_former_brain_ordered_is_no_reason() -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    memory.ended(FIRST, KILLED)
    assert memory.copy_because(SECOND) == ""
    memory.ready(IMMORTAL)
    memory.ended(SECOND, KILLED)
    assert memory.copy_because(Incarnation(3)) == ""


def test_the_reason_of_the_operator_outlives_a_failure() -> None:
    memory = ZygoteMemory(MemorySharing.COPY)
    why = memory.copy_because(FIRST)
    memory.ended(FIRST, KILLED)
    assert memory.copy_because(SECOND) == why


def test_a_zygote_that_does_not_say_how_it_shares_is_malformed() -> None:
    memory = ZygoteMemory(MemorySharing.AUTO)
    with pytest.raises(KeyError):
        memory.ready({})
    with pytest.raises(ValueError, match="other"):
        memory.ready({"sharing": "other", "sharing_reason": ""})
