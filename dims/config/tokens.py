"""The tokens of all bots: where each comes from, whether it has the right shape, and no twins.

Reads token files. Never puts a token into a fault.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import SecretStr

from dims.config.models import ServerKind
from dims.config.text.document import ItemPath
from dims.config.text.files import read_token
from dims.config.text.ground import Ground
from dims.wording import quoted

_SHAPE = re.compile(r"[0-9]{1,20}:[A-Za-z0-9_-]{30,}")
_TELEGRAMS_OWN = {ServerKind.PRODUCTION, ServerKind.TEST}


class Tokens:
    """Finds each bot's token once; knows whose each one is."""

    def __init__(self, ground: Ground, kind: ServerKind | None) -> None:
        self._ground = ground
        self._kind = kind
        self._owners: dict[str, str] = {}

    def of(self, index: int, raw: dict[str, Any]) -> SecretStr | None:
        """The token of the bot at that place in the list; None when it has none."""
        here: ItemPath = ("bots", index)
        owner = _name(raw, self._ground.mark(here).line)
        if "token" in raw and "token_file" in raw:
            text = "the bot has a token too; keep one of token and token_file"
            self._ground.fault((*here, "token_file"), text, of_key=True)
        elif "token_file" in raw:
            return self._from_file((*here, "token_file"), raw["token_file"], owner)
        elif "token" in raw:
            return self._inline((*here, "token"), raw["token"], owner)
        elif self._kind not in {None, ServerKind.SANDBOX}:
            self._ground.fault(
                (*here, "id"),
                f"this bot has no token, and the {self._kind} server needs one; "
                "add token: ${NAME} or token_file (@BotFather gives tokens)",
            )
        return None

    def _from_file(self, here: ItemPath, name: object, owner: str) -> SecretStr | None:
        if not isinstance(name, str) or not name:
            self._ground.fault(here, "token_file must be the path of a file")
            return None
        token, fault = read_token(self._ground.directory / name)
        if fault:
            self._ground.fault(here, f"the token file {fault}")
            return None
        self._ground.sources[*here[:-1], "token"] = f"file {name}"
        return self._checked(here, token, owner)

    def _inline(self, here: ItemPath, token: object, owner: str) -> SecretStr | None:
        if not isinstance(token, str) and token is not None:
            self._ground.fault(here, "token must be text; put it in quotes")
            return None
        if not token or not token.strip():
            self._ground.fault(here, "token is empty; @BotFather gives one, or remove the key")
            return None
        self._ground.sources.setdefault(here, "inline")
        return self._checked(here, str(token), owner)

    def _checked(self, here: ItemPath, token: str, owner: str) -> SecretStr | None:
        if self._kind in _TELEGRAMS_OWN and not _SHAPE.fullmatch(token):
            text = "this is no bot token; @BotFather gives one like 123456789:AAE..."
            self._ground.fault(here, text)
            return None
        # The part before the colon is the account: an old and a new token of one bot clash.
        account = token.partition(":")[0]
        if account in self._owners:
            text = f"this is the same bot as {self._owners[account]}; each needs its own token"
            self._ground.fault(here, text)
        self._owners.setdefault(account, owner)
        return SecretStr(token)


def _name(raw: dict[str, Any], line: int) -> str:
    bot_id = raw.get("id")
    named = f" {quoted(bot_id)}" if isinstance(bot_id, str) else ""
    return f"the bot{named} on line {line}"
