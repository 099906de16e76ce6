"""What strangers, garbage and silence on its sockets do to a fleet: nothing."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import ECHO, Fleet, as_nobody, running

from dims.errors import DimsError
from dims.ipc.links.control_client import ControlClient
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.framing import FRAME_LIMIT_BYTES, FrameDecoder, encode
from dims.ipc.wire.ids import new_id

FLEET = """
telegram: {server: sandbox}
bots:
  - {id: echo, handlers: echo.py}
"""
SOCKETS = ("control", "bot")
AT_ONCE_S = 2.0
"""An honest client is served within this, whatever the others do; 10 ms when all is calm."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("hostile"), FLEET, {"echo.py": ECHO}) as fleet:
        before = fleet.status()
        yield fleet
        after = fleet.status()
        assert after["supervisor"]["pid"] == before["supervisor"]["pid"]
        assert [b["pid"] for b in after["bots"]] == [b["pid"] for b in before["bots"]]


def path_of(fleet: Fleet, name: str) -> Path:
    return fleet.layout.control_socket if name == "control" else fleet.layout.bot_socket


def connected(fleet: Fleet, name: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10.0)
    client.connect(str(path_of(fleet, name)))
    return client


def request(kind: str, body: dict[str, Any] | None = None) -> bytes:
    return encode(Envelope(new_id(), kind, Address("test"), Address("brain"), body=body or {}))


def framed(payload: bytes) -> bytes:
    return struct.pack(">2sI", b"DM", len(payload)) + payload


def read_to_end(client: socket.socket) -> bytes:
    data = b""
    while True:
        try:
            part = client.recv(65_536)
        except ConnectionResetError:
            return data
        if not part:
            return data
        data += part


def assert_serves_at_once(fleet: Fleet) -> None:
    began_s = time.monotonic()
    assert fleet.status()["bots"][0]["state"] == "ready"
    assert time.monotonic() - began_s < AT_ONCE_S
    assert fleet.say("echo", "hello") == ["hello"]


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "zeros": bytes(1_000),
    "wrong magic": b"XX" + bytes(4),
    "an oversized length": struct.pack(">2sI", b"DM", FRAME_LIMIT_BYTES + 1),
    "an absurd length": struct.pack(">2sI", b"DM", 0xFFFFFFFF),
    "no JSON": framed(b"\xff\xfe not json"),
    "an empty frame": framed(b""),
    "a JSON list": framed(b"[1, 2]"),
    "a deep JSON": framed(b"[" * 100_000),
    "no fields": framed(b"{}"),
    "wrong types": framed(json.dumps({"id": 1, "kind": [], "from": {}, "to": None}).encode()),
    "a body that is a list": framed(
        json.dumps(
            {"v": 1, "id": "1", "kind": "status", "from": "a", "to": "b", "body": []}
        ).encode()
    ),
    "a huge number": framed(b'{"v":' + b"9" * 10_000 + b"}"),
    "a good frame, then garbage": request("hello", {"unit": "echo", "incarnation": 1}) + b"????",
}


@pytest.mark.parametrize("name", SOCKETS)
@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_its_own_connection_only(fleet: Fleet, name: str, what: str) -> None:
    with connected(fleet, name) as client:
        client.sendall(GARBAGE[what])
        answer = read_to_end(client)
    if name == "control" and answer:
        kinds = [message.kind for message in FrameDecoder().feed(answer)]
        assert kinds[-1] == "error"
    assert_serves_at_once(fleet)


@pytest.mark.parametrize("name", SOCKETS)
@pytest.mark.parametrize("cut", [1, 5, 6, 20])
def test_a_truncated_frame_ends_its_own_connection_only(fleet: Fleet, name: str, cut: int) -> None:
    with connected(fleet, name) as client:
        client.sendall(request("status")[:cut])
        client.shutdown(socket.SHUT_WR)
        read_to_end(client)
    assert_serves_at_once(fleet)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("no such request", {}),
        ("start", {}),
        ("start", {"bots": []}),
        ("start", {"bots": "echo"}),
        ("start", {"bots": [["echo"]]}),
        ("stop", {"bots": ["nobody"]}),
        ("explain", {}),
        ("explain", {"bot": {"id": "echo"}}),
        ("explain", {"bot": ["echo"]}),
        ("rotate", {"bots": "echo"}),
        ("tell", {"bot": "echo", "command": 7, "body": {}, "timeout_s": 1}),
        ("tell", {"bot": "echo", "command": "dump", "body": [], "timeout_s": 1}),
        ("tell", {"bot": "echo", "command": "dump", "body": {}, "timeout_s": 0}),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_a_reason(
    fleet: Fleet, kind: str, body: dict[str, Any]
) -> None:
    with connected(fleet, "control") as client:
        client.sendall(request(kind, body))
        [answer] = FrameDecoder().feed(client.recv(65_536))
        assert answer.kind == "error"
        assert answer.body["type"] in ("UsageError", "RefusedError")
        assert answer.body["message"]
        client.sendall(request("health"))
        [next_answer] = FrameDecoder().feed(client.recv(65_536))
        assert next_answer.kind == "reply", "the connection is as good as before"
    assert_serves_at_once(fleet)


@pytest.mark.parametrize("name", SOCKETS)
def test_clients_that_hang_hold_up_nobody(fleet: Fleet, name: str) -> None:
    with connected(fleet, name), connected(fleet, name) as halved:
        halved.sendall(request("status")[:9])
        assert_serves_at_once(fleet)


def test_a_client_that_never_reads_its_answers_holds_up_nobody(fleet: Fleet) -> None:
    with connected(fleet, "control") as deaf:
        deaf.settimeout(0.2)
        with pytest.raises(TimeoutError):
            deaf.sendall(request("status") * 100_000)
        assert_serves_at_once(fleet)


@pytest.mark.parametrize("name", SOCKETS)
def test_hundreds_of_connections_that_say_nothing_hold_up_nobody_for_long(
    fleet: Fleet, name: str
) -> None:
    crowd = [connected(fleet, name) for _ in range(200)]
    try:
        assert_serves_at_once(fleet)
    finally:
        for client in crowd:
            client.close()
    assert_serves_at_once(fleet)


def test_more_connections_than_are_served_get_a_clear_refusal(fleet: Fleet) -> None:
    crowd = [connected(fleet, "control") for _ in range(300)]
    try:
        with connected(fleet, "control") as late:
            late.sendall(request("status"))
            [answer] = FrameDecoder().feed(read_to_end(late))
        assert answer.kind == "error"
        assert "too many open connections" in answer.body["message"]
    finally:
        for client in crowd:
            client.close()
    assert_serves_at_once(fleet)


def test_a_process_that_pretends_to_be_a_worker_gets_no_secret(fleet: Fleet) -> None:
    incarnation = fleet.unit("echo")["incarnation"]
    for number in (incarnation, incarnation + 1, 0, -1):
        with connected(fleet, "bot") as pretender:
            pretender.sendall(request("hello", {"unit": "echo", "incarnation": number}))
            said = FrameDecoder().feed(pretender.recv(65_536))
        assert [message.kind for message in said] == ["leave"]
    assert_serves_at_once(fleet)


def test_what_a_stranger_says_before_its_hello_is_heard_by_nobody(fleet: Fleet) -> None:
    with connected(fleet, "bot") as stranger:
        stranger.sendall(request("last_will", {"failure": "crash", "reason": "no"}))
        assert read_to_end(stranger) == b""
    assert_serves_at_once(fleet)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("name", SOCKETS)
def test_another_user_is_refused(fleet: Fleet, name: str) -> None:
    runtime, path = fleet.layout.runtime, path_of(fleet, name)

    def ask() -> None:
        try:
            with ControlClient(path) as client:
                print(client.request("status"))  # noqa: T201
        except DimsError as error:
            print(type(error).__name__, error)  # noqa: T201

    assert as_nobody(ask).out.startswith("RefusedError "), "the directory keeps others out"
    runtime.chmod(0o755)
    path.chmod(0o666)
    try:
        said = as_nobody(ask).out
    finally:
        path.chmod(0o600)
        runtime.chmod(0o700)
    if name == "control":
        assert said.startswith("RefusedError user 65534 may not steer this process")
    else:
        assert said.startswith("NotRunningError "), "cut off without a word"
    assert_serves_at_once(fleet)
