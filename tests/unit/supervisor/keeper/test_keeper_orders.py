"""What a brain says, perhaps of another version, to a keeper, which must live on whatever it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dims.ipc.wire.envelope import Address, Envelope, MessageId
from dims.ipc.wire.framing import FrameDecoder, encode
from dims.ipc.wire.sentences import read
from dims.ipc.words.keeping import SpawnRefused
from dims.layout import Layout
from dims.supervisor.keeper.__main__ import Keeper
from dims.system.clock import SYSTEM

NOWHERE = {"tag": "echo/1", "argv": ["/nowhere/program"], "log": "/dev/null"}


class Brain:
    """The other end of a keeper's link."""

    def __init__(self, directory: Path) -> None:
        self.link, ours = socket.socketpair()
        self.link.settimeout(10.0)
        self.keeper = Keeper(Layout(directory), directory / "bots.yaml", {}, SYSTEM)
        self.keeper._open_link(ours)

    def says(self, kind: str, body: Mapping[str, Any]) -> None:
        said = Envelope(MessageId("1"), kind, Address("brain"), Address("keeper"), body=body)
        self.link.sendall(encode(said))
        self.keeper._read_link()

    def hears_a_refusal(self) -> SpawnRefused:
        [said] = FrameDecoder().feed(self.link.recv(65_536))
        assert said.kind == SpawnRefused.kind
        return read(SpawnRefused, said.body)


@pytest.fixture
def brain(tmp_path: Path) -> Iterator[Brain]:
    one = Brain(tmp_path)
    yield one
    one.link.close()
    one.keeper._drop_link()


def test_an_order_that_cannot_be_done_is_answered_with_the_reason(brain: Brain) -> None:
    brain.says("spawn", NOWHERE)
    refused = brain.hears_a_refusal()
    assert refused.tag == "echo/1"
    assert "No such file" in refused.reason


def test_what_a_newer_brain_says_besides_is_passed_over(brain: Brain) -> None:
    brain.says("spawn", {**NOWHERE, "priority": 3})
    assert brain.hears_a_refusal().tag == "echo/1"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("spawn", {}),
        ("spawn", {**NOWHERE, "argv": 5}),
        ("spawn", {**NOWHERE, "argv": []}),
        ("spawn", {**NOWHERE, "argv": [5]}),
        ("spawn", {**NOWHERE, "argv": ["/nowhere\0"]}),
        ("exited_ack", {}),
        ("exited_ack", {"exits": [1]}),
        ("exited_ack", {"exits": [[1, 2, 3]]}),
        ("teleport", {"to": "mars"}),
    ],
)
def test_nonsense_is_written_down_and_the_next_order_is_heeded(
    brain: Brain, capsys: pytest.CaptureFixture[str], kind: str, body: Mapping[str, Any]
) -> None:
    brain.says(kind, body)
    assert repr(kind) in capsys.readouterr().err
    brain.says("spawn", NOWHERE)
    assert brain.hears_a_refusal().tag == "echo/1"
