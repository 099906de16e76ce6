"""Asks the sandbox for bot accounts, as an operator asks BotFather. Knows its socket only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dims.errors import ServiceError
from dims.ipc.links.channel import Channel, dial
from dims.ipc.wire.envelope import Address, Envelope, MessageId

TIMEOUT_S = 20.0


async def make_bots(
    path: str, wanted: Mapping[str, str | None]
) -> tuple[dict[str, str], dict[str, str]]:
    """The token of each bot in `wanted` (name to its configured token, or None to get one).

    And, by name, why the sandbox refuses a bot, for instance one with a malformed token.
    The same name gets the same token every time. Raises ServiceError.
    """
    answers: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asked: dict[MessageId, str] = {}
    tokens: dict[str, str] = {}
    refused: dict[str, str] = {}

    def heard(_channel: Channel, message: Envelope) -> None:
        name = asked.pop(message.reply_to, None) if message.reply_to else None
        if name is None:
            return
        if message.kind == "reply":
            tokens[name] = str(message.body["token"])
        else:
            refused[name] = str(message.body.get("message", message.kind))
        if not asked and not answers.done():
            answers.set_result(None)

    def lost(_channel: Channel, reason: str) -> None:
        if not answers.done():
            answers.set_exception(ServiceError(f"the sandbox left: {reason or 'end of file'}"))

    channel = await dial(path, lambda: Channel(heard, lost, name=Address("brain")))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for name, token in wanted.items():
                body = {"name": name} if token is None else {"name": name, "token": token}
                asked[channel.say("bot.create", body, to=Address("sandbox"))] = name
            if asked:
                await answers
    except TimeoutError as error:
        raise ServiceError(f"the sandbox did not answer within {TIMEOUT_S:g} s") from error
    finally:
        channel.close()
    return tokens, refused
