"""A process and a brain of another version: what one does not know, it says."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dims.errors import RefusedError
from dims.ipc.links.membership import Membership
from dims.ipc.wire.sentences import Vocabulary
from dims.ipc.words.fleet import Introduce, Leave

LIMIT_S = 10.0


class OtherBrain:
    """A brain of another version, in plain frames: it shares no code with ours."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            while True:
                _, length = struct.unpack(">2sI", await reader.readexactly(6))
                self.heard.put_nowait(json.loads(await reader.readexactly(length)))
        except asyncio.IncompleteReadError:
            writer.close()

    def say(self, kind: str, body: Mapping[str, Any], **more: Any) -> None:
        wire = {"v": 1, "id": f"id of {kind}", "kind": kind, "from": "brain", "to": "x", **more}
        payload = json.dumps({**wire, "body": body}).encode()
        assert self._writer is not None
        self._writer.write(struct.pack(">2sI", b"DM", len(payload)) + payload)

    async def next(self) -> dict[str, Any]:
        return await self.heard.get()


@asynccontextmanager
async def joined(directory: Path) -> AsyncIterator[tuple[OtherBrain, Membership, list[str]]]:
    brain, orders = OtherBrain(), []

    def heed(order: Leave) -> None:
        orders.append(order.kind)

    async def answer(kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"kind": kind, **body}

    sock = socket.socket(socket.AF_UNIX)
    path = str(directory / "s")
    sock.bind(path)
    server = await asyncio.start_unix_server(brain.serve, sock=sock)
    bond = Membership(path, "echo", 1, on_order=heed, orders=Vocabulary(Leave), on_request=answer)
    async with asyncio.timeout(LIMIT_S):
        joining = asyncio.ensure_future(bond.join())
        assert (await brain.next())["kind"] == "hello"
        brain.say("welcome", {})
        await joining
        try:
            yield brain, bond, orders
        finally:
            await bond.leave()
            server.close()


async def test_an_order_of_a_newer_brain_is_answered_as_unknown(tmp_path: Path) -> None:
    async with joined(tmp_path) as (brain, _, orders):
        brain.say("teleport", {"to": "mars"}, v=9, novelty=[1, 2])
        said = await brain.next()
        assert (said["kind"], said["re"]) == ("error", "id of teleport")
        assert said["body"]["message"] == "unit/echo does not know 'teleport'"
        assert orders == []


async def test_an_order_of_an_older_or_newer_brain_is_heeded(tmp_path: Path) -> None:
    async with joined(tmp_path) as (brain, _, orders):
        brain.say("leave", {}, v=1)
        brain.say("leave", {"why": "new"}, v=9, novelty=True)
        brain.say("ask", {"n": 1}, v=9, ask=True)
        said = await brain.next()
        assert (said["kind"], said["re"]) == ("reply", "id of ask")
        assert said["body"] == {"kind": "ask", "n": 1}
        assert orders == ["leave", "leave"]


async def test_a_brain_that_does_not_know_a_request_refuses_it(tmp_path: Path) -> None:
    async with joined(tmp_path) as (brain, bond, _):
        asking = asyncio.ensure_future(bond.request(Introduce("b"), 5.0))
        asked = await brain.next()
        assert (asked["kind"], asked["body"]) == ("introduce", {"to": "b"})
        body = {"type": "RefusedError", "message": "unknown", "hint": "older"}
        brain.say("error", body, re=asked["id"])
        with pytest.raises(RefusedError, match="unknown") as refused:
            await asking
        assert refused.value.hint == "older"
