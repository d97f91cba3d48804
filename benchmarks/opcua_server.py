"""An OPC-UA server whose variables all change once a second.

A process of its own: ``python -m benchmarks.opcua_server COUNT`` listens on a free port, prints its endpoint, and ends
when its standard input does. The variables are ``ns=2;s=v0`` and so on.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from datetime import UTC
from typing import Any, Self

from asyncua import ua
from asyncua.server.server import Server

from deploy.local.ports import free_port

_INTERVAL_S = 1.0
_PORTION = 200


class _Value(ua.DataValue):
    """A value that nobody changes: the server's copies of it, two thirds of its work, may be itself."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self


async def _serve(count: int) -> None:
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    server = Server()
    await server.init()
    endpoint = f"opc.tcp://127.0.0.1:{free_port()}"
    server.set_endpoint(endpoint)
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    space = await server.register_namespace("urn:metercarbon:bench")
    nodes: list[ua.NodeId] = []
    for first in range(0, count, _PORTION):
        # What a folder holds is searched at each addition.
        folder = await server.nodes.objects.add_folder(space, f"from {first}")
        for n in range(first, min(first + _PORTION, count)):
            made = await folder.add_variable(
                ua.NodeId.from_string(f"ns={space};s=v{n}"), f"v{n}", 0.0, ua.VariantType.Double
            )
            nodes.append(made.nodeid)
    async with server:
        print(endpoint, flush=True)
        changing = asyncio.create_task(_change(server, nodes))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        changing.cancel()


async def _change(server: Server, nodes: list[ua.NodeId]) -> None:
    turn = 0
    while True:
        await asyncio.sleep(_INTERVAL_S - time.time() % _INTERVAL_S)
        turn += 1
        for first in range(0, len(nodes), _PORTION):
            now = ua.DateTime.now(UTC)
            for n, node in enumerate(nodes[first : first + _PORTION], first):
                changed = ua.Variant(float(turn + n), ua.VariantType.Double)
                value = _Value(changed, SourceTimestamp=now, ServerTimestamp=now)
                await server.write_attribute_value(node, value)
            # Publishing and answers take their turn.
            await asyncio.sleep(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    asyncio.run(_serve(parser.parse_args().count))
