"""One bot's mail: what it opens, what it sends to itself, and to those who are away."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from typing import Any

import pytest
from own_mail import Bond, mail, request, send

from dims.bot_worker.mail.authoring import Message
from dims.errors import (
    AlreadyRunningError,
    NotRunningError,
    ProtocolError,
    RefusedError,
    RemoteError,
    StateError,
)
from dims.ipc.mailbox.files.mailbox import Mailbox


async def test_a_bot_that_comes_up_while_an_operator_looks_at_its_mailbox_waits_for_him(
    tmp_path: Path,
) -> None:
    async with mail(tmp_path) as one:
        one.on("n")(echo)
        looking = Mailbox(tmp_path / "mail" / "me")
        starting = asyncio.create_task(one.start())
        await asyncio.sleep(0)
        assert not starting.done()
        looking.close()
        await starting
        assert await request(one, "n", 1) == 1


async def test_who_never_leaves_a_mailbox_keeps_the_bot_out_with_a_reason(tmp_path: Path) -> None:
    async with mail(tmp_path) as one:
        one.on("n")(echo)
        looking = Mailbox(tmp_path / "mail" / "me")
        with pytest.raises(StateError, match="pid") as raised:
            await one._open(wait_s=0.0)
        assert not isinstance(raised.value, AlreadyRunningError)
        looking.close()


async def echo(message: Message) -> Any:
    return message.body


async def test_an_ephemeral_message_to_a_bot_that_is_down_is_refused_at_once(
    tmp_path: Path,
) -> None:
    bond = Bond()
    async with mail(tmp_path, bond) as one:
        with pytest.raises(NotRunningError, match="stopped"):
            await send(one, "other", "n")
        assert bond.asked == 1


async def test_what_a_bot_sends_itself_is_what_it_would_be_on_the_way(tmp_path: Path) -> None:
    came: asyncio.Queue[Any] = asyncio.Queue()

    async def note(message: Message) -> Any:
        came.put_nowait(message.body)
        return {"set": {1}} if message.kind == "set" else object() if message.kind == "bad" else 1

    async with mail(tmp_path) as one:
        one.on("n", "set", "bad")(note)
        await one.start()
        sent = {"at": datetime.date(2026, 1, 2), "pair": (1, 2)}
        for durable in (False, True):
            await send(one, "me", "n", sent, durable=durable)
            body = await came.get()
            assert body == {"at": "2026-01-02", "pair": [1, 2]}
            with pytest.raises(ProtocolError, match="not JSON"):
                await send(one, "me", "n", object(), durable=durable)
        assert await request(one, "set") == {"set": [1]}
        with pytest.raises(ProtocolError, match="not JSON"):
            await request(one, "bad")


async def test_a_bot_that_asks_itself_what_it_does_not_know_is_refused(tmp_path: Path) -> None:
    async with mail(tmp_path) as one:
        with pytest.raises(RefusedError):
            await request(one, "n")
        one.on("n")(echo)
        await one.start()
        for ask in (request, lambda one, kind: send(one, "me", kind)):
            with pytest.raises(RefusedError, match="no handler"):
                await ask(one, "unknown")


async def test_a_bot_that_leaves_takes_nothing_more_from_itself(tmp_path: Path) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    async def ask_on(message: Message) -> Any:
        entered.set()
        await go.wait()
        return await request(one, "n")

    async with mail(tmp_path) as one:
        one.on("n")(echo)
        one.on("ask")(ask_on)
        await one.start()
        asked = asyncio.create_task(request(one, "ask"))
        await entered.wait()
        draining = asyncio.create_task(one.drain())
        await asyncio.sleep(0)
        go.set()
        await draining
        with pytest.raises((NotRunningError, RemoteError), match="leaving"):
            await asked
