"""How long a server is waited for that is not ready yet: as long as it says that it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dims.errors import ServiceError
from dims.storage.embedded.binaries import Binaries
from dims.storage.embedded.embedded_server import EmbeddedServer
from dims.storage.embedded.home import Home
from dims.storage.embedded.probe import Health

PATIENCE_S = 0.2


class Scripted(EmbeddedServer):
    """A process that does nothing, and answers by the script, its last word for ever."""

    name = "scripted"

    def __init__(self, directory: Path, *answers: Health) -> None:
        home = Home(directory, directory / "sockets")
        super().__init__(home, None, Binaries("scripted", directory, "1", "given"))
        self._answers = list(answers)

    def prepare(self) -> None:
        return

    def spawn(self, output: int | None = None) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", "input()"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output)
        return self.process

    async def probe(self, timeout_s: float) -> Health:  # noqa: ARG002
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def address(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Any]:
    made: list[Scripted] = []

    def make(*answers: Health) -> Scripted:
        made.append(Scripted(tmp_path, *answers))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        assert server.process is not None
        server.process.communicate(b"\n", timeout=10)


async def test_a_long_recovery_is_waited_for(servers: Any) -> None:
    # Each answer is followed by a look of 20 ms: together four times the patience.
    server = servers(*[Health.STARTING] * 40, Health.SERVES)
    await server.wait_ready(PATIENCE_S)


async def test_silence_is_not(servers: Any) -> None:
    server = servers(Health.SILENT)
    with pytest.raises(ServiceError, match=r"scripted has not answered for 0\.2 s"):
        await server.wait_ready(PATIENCE_S)
