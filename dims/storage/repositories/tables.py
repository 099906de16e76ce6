"""All repositories on one thing that runs statements: what a Database and a Transaction share."""

from __future__ import annotations

from dims.storage.repositories.chats import Chats
from dims.storage.repositories.conversations import Conversations
from dims.storage.repositories.events import Events
from dims.storage.repositories.me import Myself
from dims.storage.repositories.messages import Messages
from dims.storage.repositories.personas import Personas
from dims.storage.repositories.repository import Statements
from dims.storage.repositories.settings import Settings
from dims.storage.repositories.users import Users


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
