"""The brain between a steward and workers that are late, gone, or do not listen."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from usual import POLICY

from dims.config import load_config
from dims.ipc.links.channel import QUEUE_LIMIT
from dims.ipc.wire.envelope import Address, Envelope, MessageId, Priority
from dims.ipc.wire.framing import encode
from dims.ipc.words.operator import BudgetStatus, PoolStatus
from dims.ipc.words.states import State
from dims.layout import Layout
from dims.supervisor.brain.requests.overview import Overview
from dims.supervisor.brain.store import Store
from dims.supervisor.brain.supervisor import ProcessSupervisor
from dims.supervisor.core.facts import Incarnation, UnitId
from dims.supervisor.core.states import UnitRecord
from dims.supervisor.units.units import STEWARD
from dims.system.clock import SYSTEM

ADA, BOB = UnitId("ada"), UnitId("bob")
FIRST, SECOND = Incarnation(1), Incarnation(2)
BOTS_YAML = """
telegram: {server: sandbox}
storage: {redis: off, pool: {max_size: 10}}
bots: [{id: ada, handlers: echo.py}, {id: bob, handlers: echo.py}]
"""


@dataclass
class Brain:
    """A supervisor whose units are said to run, in this very process."""

    supervisor: ProcessSupervisor
    sockets: list[socket.socket]

    def runs(self, unit: UnitId, incarnation: Incarnation = FIRST) -> None:
        """A process of this incarnation was born, and is this one."""
        record = UnitRecord(
            unit, POLICY, state=State.READY, alive=True, pid=os.getpid(), incarnation=incarnation
        )
        self.supervisor.engine.add(record, service=unit == STEWARD)

    def ready(self, **passwords: str) -> None:
        """The steward says so."""
        roles = {bot: [f"dims_bot_{bot}", passwords.get(bot, "secret")] for bot in (ADA, BOB)}
        server = {"version": "18", "max_connections": 100, "reserved": 3}
        body = {"server": server, "roles": roles, "refused": {}}
        self.supervisor.hearing.heard(STEWARD, FIRST, "ready", {"about": body})

    def reports(self, bot: UnitId, incarnation: Incarnation, **numbers: int) -> None:
        report = {"holds": 0, "wants": 0, "seen": 0, **numbers}
        self.supervisor.hearing.heard(bot, incarnation, "connections", report)

    @property
    def budget(self) -> BudgetStatus:
        return self.overview.storage().budget

    @property
    def overview(self) -> Overview:
        return Overview(self.supervisor)

    async def hears_ada(self) -> None:
        """A worker that says hello, is welcomed, and then reads no more."""
        path = self.supervisor.roster.layout.state / "test.sock"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        await self.supervisor.links.open(listening, self.supervisor.hearing)
        worker = socket.socket(socket.AF_UNIX)
        self.sockets.append(worker)
        worker.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(worker, str(path))
        hello = {"unit": ADA, "incarnation": 1}
        name = Address(f"unit/{ADA}")
        envelope = Envelope(
            MessageId("1"), "hello", name, Address("brain"), Priority.HIGH, None, hello
        )
        await loop.sock_sendall(worker, encode(envelope))
        async with asyncio.timeout(10):
            await loop.sock_recv(worker, 1)


@pytest.fixture
async def brain(tmp_path: Path) -> AsyncIterator[Brain]:
    path = tmp_path / "bots.yaml"
    path.touch(mode=0o600)
    path.write_text(BOTS_YAML)
    (tmp_path / "echo.py").touch()
    layout = Layout(tmp_path / ".dims")
    layout.make()
    store = Store(layout.database)
    brain = Brain(ProcessSupervisor(load_config(path, {}), layout, store, SYSTEM), [])
    brain.supervisor.begin(only_to_stop=True)
    for unit in (STEWARD, ADA, BOB):
        brain.runs(unit)
    brain.ready()
    yield brain
    brain.supervisor.close()
    for one in brain.sockets:
        one.close()
    store.close()


async def test_what_is_heard_of_a_process_after_its_end_counts_no_more(brain: Brain) -> None:
    brain.reports(ADA, FIRST, holds=1, wants=1)
    assert brain.budget.leased == 1
    brain.runs(ADA, SECOND)
    brain.supervisor.storage.gone(ADA)
    brain.reports(ADA, FIRST, holds=1, wants=1, seen=1)
    heartbeat = {"pool": {"open": 9}}
    brain.supervisor.hearing.heard(ADA, FIRST, "heartbeat", heartbeat)
    assert brain.budget.leased == 0
    assert brain.overview.storage().pools == ()
    brain.supervisor.hearing.heard(ADA, SECOND, "heartbeat", heartbeat)
    assert brain.overview.storage().pools == (PoolStatus(ADA, open=9),)


async def test_a_worker_that_does_not_read_keeps_nobody_from_what_he_is_told(brain: Brain) -> None:
    await brain.hears_ada()
    for number in range(QUEUE_LIMIT + 2_000):
        brain.ready(ada=f"secret{number}")
    brain.ready(ada="last", bob="new")
    terms = brain.supervisor.storage.worker_terms(BOB)
    assert terms is not None
    assert terms.place.address.password == "new"
    brain.reports(ADA, FIRST, wants=1)
    brain.reports(BOB, FIRST, wants=1)
