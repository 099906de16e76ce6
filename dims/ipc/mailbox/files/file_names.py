"""The names of segment files: who writes, how urgent, and in which order. Pure.

`echo~2~0006423f1e0a7b40-3f9c.seg`: writer, priority, number in 16 hex digits, salt. The number
grows with each file of a writer; the salt keeps a clock that was set back from reusing a name.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType

from dims.ipc.wire.envelope import Priority

Writer = NewType("Writer", str)
"""Whose file it is: a bot's id, or `operator+PID` where many processes write under one name."""
LaneKey = tuple[Writer, Priority]

SUFFIX = ".seg"
_PRIORITIES = tuple(Priority)
_NAME = re.compile(r"([a-z][a-z0-9_+-]{0,63})~([0-3])~([0-9a-f]{16})-([0-9a-f]{4})\.seg")


class SegmentName(NamedTuple):
    """One file's name, taken apart; orders by writer, priority and number."""

    writer: Writer
    priority: Priority
    number: int
    salt: str

    def __str__(self) -> str:
        return f"{self.writer}~{int(self.priority)}~{self.number:016x}-{self.salt}{SUFFIX}"

    @property
    def lane(self) -> LaneKey:
        """Within a lane order is kept, and one message is in hand at a time."""
        return self.writer, self.priority

    @property
    def sender(self) -> str:
        """The name that messages in this file must bear."""
        return self.writer.partition("+")[0]


def parse_name(name: str) -> SegmentName | None:
    """The parts of a file's name; None for any other file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    writer, priority, number, salt = match.groups()
    return SegmentName(Writer(writer), _PRIORITIES[int(priority)], int(number, 16), salt)


def next_number(lane_numbers: list[int], now_us: int) -> int:
    """The number of a lane's next file: the time in microseconds since 1970, but always more than
    those that exist, for a clock may be set back."""
    return max([now_us, *(number + 1 for number in lane_numbers)])
