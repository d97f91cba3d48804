"""An OPC-UA server that writes all of its variables on a tick.

Invariants

- The source timestamp of a value is the plant time at which it was evaluated, to the microsecond; values and
  time come from the same moment.
- Values change only on a tick; between two ticks a client reads the same value with the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta

from asyncua import ua
from asyncua.server.server import Server

from device_sims.errors import ServeError
from device_sims.kinds.base import Value
from device_sims.plant.plant import Moment
from device_sims.signals import Signals

_EPOCH = ua.DateTime(1970, 1, 1, tzinfo=UTC)


def _node_id(identifier: str, index: int) -> ua.NodeId:
    return ua.StringNodeId(ua.String(identifier), ua.Int16(index))


class VariableServer:
    """A server.

    Parameters
    ----------
    name
        Its application name, and the root object of its variables.
    host, port
        Where it listens; port 0: any free one.
    namespace
        URI of the variables' name space; its index is 2.
    nodes
        String identifier → value; identifiers with dots are put into objects.
    states
        Identifiers of the variables that are true or false.
    tick_s
        Real time between two rounds of writing [s].
    now
        The plant at this moment.
    signals
        Where it counts.

    Attributes
    ----------
    ticker
        The task that writes, while the server runs.
    """

    def __init__(
        self,
        name: str,
        host: str,
        port: int,
        namespace: str,
        nodes: Mapping[str, Value],
        states: frozenset[str],
        tick_s: float,
        now: Callable[[], Moment],
        signals: Signals,
    ) -> None:
        self.name = name
        self.host = host
        self.port = port
        self._namespace = namespace
        self._nodes = nodes
        self._states = states
        self._tick_s = tick_s
        self._now = now
        self._signals = signals
        self._server: Server | None = None
        self.ticker: asyncio.Task[None] | None = None
        self._writes: list[tuple[ua.NodeId, ua.VariantType, Value]] = []

    async def start(self) -> None:
        """Listen; afterwards `port` is the real one.

        Raises
        ------
        ServeError
            If the address can't be bound.
        """
        server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://{self.host}:{self.port}")
        server.set_server_name(self.name)
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_identity_tokens([ua.AnonymousIdentityToken])
        await server.set_application_uri(f"{self._namespace}:{self.name}")
        await self._build(server)
        await self._tick(server)
        try:
            await server.start()
        except OSError as error:
            raise ServeError(f"server {self.name!r} can't listen on {self.host}:{self.port}: {error}") from error
        assert server.bserver is not None
        self._server = server
        self.port = server.bserver.port
        self.ticker = asyncio.create_task(self._run(server), name=f"opcua.{self.name}")

    async def stop(self) -> None:
        """Stop writing and close all sessions."""
        if self.ticker is not None:
            self.ticker.cancel()
            await asyncio.gather(self.ticker, return_exceptions=True)
            self.ticker = None
        if self._server is not None:
            await self._server.stop()
            self._server = None

    async def _build(self, server: Server) -> None:
        """Create objects and variables."""
        index = await server.register_namespace(self._namespace)
        browse_name = ua.QualifiedName(self.name, index)
        objects = {"": await server.nodes.objects.add_object(_node_id(f"{self.name}/", index), browse_name)}
        for identifier, value in self._nodes.items():
            path = identifier.split(".")
            for depth in range(1, len(path)):
                inner, outer = ".".join(path[:depth]), ".".join(path[: depth - 1])
                if inner not in objects:
                    place = _node_id(f"{self.name}/{inner}", index), ua.QualifiedName(path[depth - 1], index)
                    objects[inner] = await objects[outer].add_object(*place)
            node_id = _node_id(identifier, index)
            state = identifier in self._states
            kind = ua.VariantType.Boolean if state else ua.VariantType.Double
            first = ua.Variant(False if state else 0.0, kind)
            await objects[".".join(path[:-1])].add_variable(node_id, ua.QualifiedName(path[-1], index), first)
            self._writes.append((node_id, kind, value))

    async def _run(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # Ticks that were missed are skipped, so that a stall is not followed by a burst.
            due = max(due + self._tick_s, loop.time())
            await asyncio.sleep(due - loop.time())
            await self._tick(server)

    async def _tick(self, server: Server) -> None:
        moment = self._now()
        at = _EPOCH + timedelta(microseconds=moment.at_us)
        here = ua.DateTime.now(UTC)
        for node_id, kind, value in self._writes:
            data = ua.DataValue(ua.Variant(value(moment), kind), SourceTimestamp=at, ServerTimestamp=here)
            await server.write_attribute_value(node_id, data)
        self._signals.ticks += 1
