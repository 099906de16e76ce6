"""Channels and requests over real sockets: order, priority, ends, and answers that are errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from channel_ends import LIMIT_S, End, listening, pair

from dims.errors import ConfigError, NotRunningError, RefusedError, TimedOutError, UsageError
from dims.ipc.links.channel import QUEUE_LIMIT, dial, listen
from dims.ipc.links.control_client import ControlClient
from dims.ipc.links.request_server import RequestServer
from dims.ipc.wire.envelope import Address, Envelope, Priority
from dims.system.peer import Peer


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not fact():  # noqa: ASYNC110 (facts come from a socket, which sets no event)
            await asyncio.sleep(0.001)


async def test_messages_arrive_in_the_order_they_were_said(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, _, far):
        for number in range(1_000):
            channel.say("n", {"n": number})
        await until(lambda: len(far.heard) == 1_000)
        assert [message.body["n"] for message in far.heard] == list(range(1_000))


async def test_urgent_messages_overtake_those_that_wait_for_a_full_socket(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, other, far):
        assert other._transport is not None
        other._transport.pause_reading()
        count = 0
        while not channel._queue:
            channel.say("bulk", {"text": "x" * 10_000}, priority=Priority.LOW)
            count += 1
        channel.say("bulk", {}, priority=Priority.LOW)
        channel.say("stop", {}, priority=Priority.URGENT)
        other._transport.resume_reading()
        await until(lambda: len(far.heard) == count + 2)
        kinds = [message.kind for message in far.heard]
        assert kinds.index("stop") < len(kinds) - 1, "it came last"


async def test_a_peer_that_never_reads_is_refused_at_a_limit(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, other, _):
        assert other._transport is not None
        other._transport.pause_reading()
        while len(channel._queue) < QUEUE_LIMIT:
            channel.say("bulk", {"text": "x" * 1_000})
        with pytest.raises(RefusedError, match="messages wait"):
            channel.say("bulk", {})


async def test_both_ends_hear_of_the_end_once_and_saying_more_does_no_harm(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, near, other, far):
        channel.say("last", {})
        channel.close()
        channel.close()
        assert await near.lost == ""
        assert await far.lost == ""
        assert [message.kind for message in far.heard] == ["last"]
        channel.say("too late", {})
        other.say("too late", {})


async def test_garbage_ends_the_channel_with_its_reason(tmp_path: Path) -> None:
    async with pair(tmp_path) as (channel, _, _, far):
        assert channel._transport is not None
        channel._transport.write(b"garbage")
        assert "garbage where a frame should start" in await far.lost
        assert far.heard == []


async def test_the_kernel_says_who_is_at_the_other_end(tmp_path: Path) -> None:
    import os  # noqa: PLC0415

    async with pair(tmp_path) as (channel, _, other, _):
        for end in (channel, other):
            assert end.peer == Peer(os.getpid(), os.geteuid(), os.getegid())
            assert end.peer.is_trusted()


@asynccontextmanager
async def serving(directory: Path, handle: Any) -> AsyncIterator[Path]:
    path = directory / "r"
    server = RequestServer(listening(path), handle, name=Address("server"))
    await server.start()
    try:
        yield path
    finally:
        await server.close()


async def answer(_peer: Peer, request: Envelope) -> Mapping[str, Any]:
    match request.kind:
        case "echo":
            return request.body
        case "usage":
            raise UsageError("no such bot", hint="look again")
        case "config":
            raise ConfigError(["line 1: a", "line 2: b"])
        case _:
            await asyncio.sleep(3600)
            return {}


async def test_each_request_has_its_answer_and_errors_come_as_themselves(tmp_path: Path) -> None:
    def ask(path: Path) -> None:
        with ControlClient(path, timeout_s=LIMIT_S) as client:
            assert client.request("echo", {"a": 1}) == {"a": 1}
            with pytest.raises(UsageError, match="no such bot") as usage:
                client.request("usage")
            assert usage.value.hint == "look again"
            with pytest.raises(ConfigError) as config:
                client.request("config")
            assert config.value.faults == ["line 1: a", "line 2: b"]
            assert client.request("echo", {"b": 2}) == {"b": 2}

    async with serving(tmp_path, answer) as path:
        await asyncio.to_thread(ask, path)


async def test_no_answer_in_time_and_no_server_are_told_apart(tmp_path: Path) -> None:
    def ask(path: Path) -> None:
        with ControlClient(path, timeout_s=0.1) as client, pytest.raises(TimedOutError):
            client.request("silence")
        with pytest.raises(NotRunningError):
            ControlClient(path.with_name("nobody"))

    async with serving(tmp_path, answer) as path:
        await asyncio.to_thread(ask, path)


async def test_a_server_that_closes_ends_its_connections(tmp_path: Path) -> None:
    ended = asyncio.get_running_loop().create_future()

    def ask(path: Path) -> None:
        with ControlClient(path, timeout_s=LIMIT_S) as client:
            assert client.request("echo") == {}
            loop.call_soon_threadsafe(ended.set_result, None)
            with pytest.raises(NotRunningError):
                client.request("silence")

    loop = asyncio.get_running_loop()
    async with serving(tmp_path, answer) as path:
        asking = asyncio.create_task(asyncio.to_thread(ask, path))
        await ended
    await asking


async def test_a_stream_ends_when_its_reader_leaves(tmp_path: Path) -> None:
    closed = asyncio.Event()

    async def count(_peer: Peer, _request: Envelope) -> AsyncIterator[Mapping[str, Any]]:
        try:
            yield {"n": 0}
            await asyncio.sleep(3600)
            yield {"n": 1}
        finally:
            closed.set()

    def ask(path: Path) -> None:
        with ControlClient(path, timeout_s=LIMIT_S) as client:
            assert next(client.stream("count")) == {"n": 0}

    async with serving(tmp_path, count) as path:
        await asyncio.to_thread(ask, path)
        async with asyncio.timeout(LIMIT_S):
            await closed.wait()


async def test_a_socket_whose_listener_closes_stays_for_the_next(tmp_path: Path) -> None:
    """The keeper holds the brain's two sockets open, and hands them to the brain after it."""
    sock = listening(tmp_path / "s")
    with sock.dup() as kept:
        (await listen(sock, End().channel)).close()
        requests = RequestServer(kept.dup(), answer, name=Address("server"))
        await requests.start()
        await requests.close()
        far = End()
        server = await listen(kept.dup(), far.channel)
        async with asyncio.timeout(LIMIT_S):
            channel = await dial(str(tmp_path / "s"), End().channel)
            (await far.made).abort()
        channel.abort()
        server.close()
