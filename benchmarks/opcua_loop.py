"""A bare asyncua subscription that throws away what it is sent: what an agent could cost at the least.

A process of its own: ``python -m benchmarks.opcua_loop ENDPOINT COUNT SETTLE SECONDS`` prints as JSON how many
changes came and what CPU time they took [s], once the items were made and had time to settle [s].
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

from asyncua.client.client import Client

_PER_CALL = 1000


class _Counter:
    """Takes changes."""

    changes = 0

    def datachange_notification(self, _node: Any, _value: Any, _data: Any) -> None:
        self.changes += 1


async def run(endpoint: str, count: int, settle_s: float, seconds: float) -> dict[str, float]:
    """Subscribe, and count for so long."""
    counter = _Counter()
    async with Client(endpoint) as client:
        subscription = await client.create_subscription(1000, counter)
        nodes = [client.get_node(f"ns=2;s=v{n}") for n in range(count)]
        for first in range(0, count, _PER_CALL):
            await subscription.subscribe_data_change(nodes[first : first + _PER_CALL], queuesize=4)
        await asyncio.sleep(settle_s)
        before, cpu_s = counter.changes, time.process_time()
        await asyncio.sleep(seconds)
        return {"changes": counter.changes - before, "cpu_s": time.process_time() - cpu_s}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("count", type=int)
    parser.add_argument("settle", type=float)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run(options.endpoint, options.count, options.settle, options.seconds))))
