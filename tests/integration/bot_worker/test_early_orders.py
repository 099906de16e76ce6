"""What the brain says in the same breath as its welcome, before there is a worker to heed it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

from fleet import REPOSITORY, WITHIN_S

from dims.addresses import PostgresAddress
from dims.config import load_config
from dims.ipc.links.channel import Channel, listen
from dims.ipc.wire.envelope import Address, Envelope
from dims.ipc.wire.sentences import written
from dims.ipc.words.fleet import WELCOME, ConnectionsLent, Hello
from dims.ipc.words.terms import StoragePlace, TelegramAddress
from dims.layout import Layout
from dims.supervisor.units.worker_terms import storage_place, storage_terms, worker_terms

BOTS_YAML = """
telegram: {server: sandbox}
storage: {redis: off}
bots: [{id: ada, handlers: ada.py}]
"""
NEW = "n3wPassw0rd"
RUN = """
import asyncio, json, sys
from dims.bot_worker.worker import run_in_fleet
sys.exit(asyncio.run(run_in_fleet(json.loads(sys.argv[1]), heeds_signals=True)))
"""


async def test_a_password_that_changes_at_the_moment_of_the_welcome_is_not_missed(
    tmp_path: Path,
) -> None:
    config_path = tmp_path / "bots.yaml"
    config_path.touch(mode=0o600)
    config_path.write_text(BOTS_YAML)
    # That it was heeded shows in the log: what is secret is hidden there.
    (tmp_path / "ada.py").write_text(f"import logging\nlogging.error('it is {NEW}')\n")
    config, layout = load_config(config_path, {}), Layout(tmp_path / ".dims")
    layout.make()
    database = PostgresAddress(str(tmp_path))
    storage = storage_terms(config, database, "dims_bot_ada", "f0rmerPassw0rd")
    nobody = TelegramAddress("127.0.0.1", 1, 2, None)
    terms = worker_terms(config, layout, config.bot("ada"), nobody, "1:token", storage=storage)

    def heard(channel: Channel, message: Envelope) -> None:
        if message.kind == Hello.kind:
            # The first goes out alone; all that is said in the same turn follows in one batch.
            channel.say(ConnectionsLent.kind, written(ConnectionsLent(0, 1, 1.0)))
            channel.say(WELCOME, written(terms))
            place = storage_place(config, database, "dims_bot_ada", NEW)
            channel.say(StoragePlace.kind, written(place))

    # An abstract name: the kernel takes 107 bytes of a path.
    sock = socket.socket(socket.AF_UNIX)
    name = f"\0dims-early-{tmp_path.name}-{id(sock)}"
    sock.bind(name)
    brain = Address("brain")
    server = await listen(sock, lambda: Channel(heard, lambda _channel, _why: None, name=brain))
    order = json.dumps({"socket": name, "unit": "ada", "incarnation": 1})
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", RUN, order), cwd=REPOSITORY, stderr=asyncio.subprocess.PIPE
    )
    assert worker.stderr is not None
    try:
        async with asyncio.timeout(WITHIN_S):
            line = b""
            while b"it is" not in line:
                line = await worker.stderr.readline()
                assert line, "it has ended"
    finally:
        worker.kill()
        await worker.wait()
        server.close()
    assert json.loads(line)["message"] == "it is ***"
