"""Whether a read may go to the replica. Pure: knows no server, and is told what time it is."""

from __future__ import annotations

PAUSE_S = 5.0
"""How long a replica that failed is left alone."""


class ReplicaUse:
    """What is remembered of one bot's writes and of its replica's failures; times in seconds of a
    monotonic clock."""

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s
        self._behind_until_s = float("-inf")
        self._left_alone_until_s = float("-inf")
        self._is_failing = False

    def may_read(self, now_s: float) -> bool:
        """Whether the replica has what this bot wrote, as far as one can say, and serves."""
        return now_s >= self._behind_until_s and now_s >= self._left_alone_until_s

    def wrote(self, now_s: float) -> None:
        """The bot wrote: for `lag_s` the replica may not have it."""
        self._behind_until_s = now_s + self._lag_s

    def failed(self, now_s: float) -> bool:
        """The replica failed; whether that is news."""
        self._left_alone_until_s = now_s + PAUSE_S
        is_news, self._is_failing = not self._is_failing, True
        return is_news

    def answered(self) -> bool:
        """The replica served; whether that is news."""
        is_news, self._is_failing = self._is_failing, False
        return is_news
