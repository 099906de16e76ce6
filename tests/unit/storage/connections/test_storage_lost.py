"""A connection that the server has said goodbye to, and that the driver has not closed yet."""

from __future__ import annotations

import asyncpg

from dims.storage.connections.storage_errors import LostError, translate


def test_a_connection_that_was_ended_while_idle_counts_as_lost() -> None:
    said = "cannot switch to state 15; another operation (2) is in progress"
    assert isinstance(translate(asyncpg.InternalClientError(said)), LostError)
