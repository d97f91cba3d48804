"""An OPC-UA server for tests of the edge agent, and a driver with everything around it but the buffer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from asyncua import ua
from asyncua.common.node import Node
from asyncua.server.internal_subscription import InternalSubscription
from asyncua.server.server import Server
from asyncua.ua.status_codes import StatusCodes

from edge_agent.buffer.batcher import Batcher
from edge_agent.clock import Clock
from edge_agent.drivers.opcua import OpcUaDriver
from edge_agent.points import OpcUaBus, Plan
from edge_agent.polling.reporter import Reporter
from edge_agent.signals import Signals
from protocols.timebase import REAL_TIME
from tests.support import edge
from tests.support.edge import Catcher, Seen

JUNE = datetime(2022, 6, 14, 8, 0, 0, 123456, tzinfo=UTC)
JUNE_US = 1_655_193_600_123_456
PATIENCE_S = 60.0


class Plc:
    """A server with one variable per value type."""

    def __init__(self, port: int, prepare: Callable[[Server], Any] | None = None) -> None:
        self.endpoint = f"opc.tcp://127.0.0.1:{port}/plc"
        self.nodes: dict[str, Node] = {}
        self._prepare = prepare

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen."""
        self.server = Server()
        await self.server.init()
        self.server.set_endpoint(self.endpoint)
        index = await self.server.register_namespace("urn:test")
        assert index == 2
        for name, value in (("feed", 1.5), ("count", 7), ("running", True), ("batch", "A7")):
            await self.add(name, value)
        if self._prepare is not None:
            await self._prepare(self.server)
        await self.server.start()

    async def stop(self) -> None:
        """Stop."""
        await self.server.stop()

    async def add(self, name: str, value: object) -> None:
        """Add a variable."""
        node_id = ua.NodeId.from_string(f"ns=2;s={name}")
        self.nodes[name] = await self.server.nodes.objects.add_variable(node_id, name, value)

    async def write(self, name: str, value: object, at: datetime | None = JUNE, status: int = StatusCodes.Good) -> None:
        """Give a variable a value."""
        made: Any = ua.DataValue
        data = made(
            ua.Variant(value), StatusCode=ua.StatusCode(ua.UInt32(status)), SourceTimestamp=at, ServerTimestamp=None
        )
        await self.server.write_attribute_value(self.nodes[name].nodeid, data)

    def subscriptions(self) -> list[InternalSubscription]:
        """Subscriptions that clients have."""
        return list(self.server.iserver.subscription_service.subscriptions.values())


class Bench:
    """A driver with everything around it but the buffer."""

    def __init__(self, plan: Plan) -> None:
        bus = plan.buses[0]
        assert isinstance(bus, OpcUaBus)
        self.signals = Signals()
        self.catcher = Catcher(plan.schema)
        clock = Clock(REAL_TIME, simulated=True)
        self.batcher = Batcher(plan.schema.id(), plan.config.batch, clock, self.catcher.write)
        self.reporter = Reporter(plan.schema, self.batcher)
        self.driver = OpcUaDriver(bus, clock, self.reporter, self.signals)

    async def poll(self, turn: int = 0) -> dict[str, Seen]:
        """Take one turn; what was seen last of each tag."""
        await self.driver.poll(turn)
        return {reading.name.removeprefix("kiln/"): reading for reading in await self.taken()}

    async def taken(self) -> list[Seen]:
        """All that was reported since the last call, in order."""
        await self.batcher.drained()
        return self.catcher.take()

    async def care(self, until: Callable[[list[Seen]], bool], *turns: int) -> list[Seen]:
        """Take all turns, or these, again and again until enough was seen."""
        seen: list[Seen] = []
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for turn in turns or range(len(self.driver.turns)):
                await self.driver.poll(turn)
            seen += await self.taken()
            if until(seen):
                return seen
            await asyncio.sleep(0.05)
        raise AssertionError(f"not in {PATIENCE_S:g} s; seen: {seen}")


@asynccontextmanager
async def bench(endpoint: str, *tags: str, extra: str = "", device: str = "") -> AsyncIterator[Bench]:
    """A driver for one device `kiln`; closed at the end."""
    made = Bench(
        edge.plan(
            edge.head(),
            edge.opcua(endpoint, extra=f"timeout_s = 2\nreconnect_max_s = 0.2\n{extra}"),
            edge.device("kiln", *tags, connection="dcs", unit_id=None, extra=device),
        )
    )
    try:
        yield made
    finally:
        await made.driver.close()
