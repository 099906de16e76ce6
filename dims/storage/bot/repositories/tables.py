"""All repositories on one thing that runs statements: what a Database and a Transaction share."""

from __future__ import annotations

from dims.storage.bot.repositories.chats import Chats
from dims.storage.bot.repositories.conversations import Conversations
from dims.storage.bot.repositories.events import Events
from dims.storage.bot.repositories.me import Myself
from dims.storage.bot.repositories.messages import Messages
from dims.storage.bot.repositories.personas import Personas
from dims.storage.bot.repositories.repository import Statements
from dims.storage.bot.repositories.settings import Settings
from dims.storage.bot.repositories.users import Users


class Tables:
    """The tables that a bot's code uses, as its attributes."""

    def __init__(self, on: Statements) -> None:
        self.users = Users(on)
        self.chats = Chats(on)
        self.conversations = Conversations(on)
        self.messages = Messages(on)
        self.settings = Settings(on)
        self.personas = Personas(on)
        self.events = Events(on)
        self.me = Myself(on)
