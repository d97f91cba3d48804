"""What the agent costs while an OPC-UA server sends it 10,000 changes a second by subscription.

The server is a process of its own; the rest is as in `edge_modbus`. Beside it, a bare asyncua subscription to the same
items that keeps nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.agent import Windows, head, measure
from benchmarks.errors import BenchmarkError
from benchmarks.results import Result, Results, compared, median
from deploy.local.broker import Broker


@dataclass(frozen=True)
class Size:
    """So many items, each changing once a second; that share of the changes is to arrive for the figures to count."""

    items: int = 10_000
    windows: Windows = field(default_factory=lambda: Windows(count=3, length_s=10.0))
    least_share: float = 0.95


def run(directory: Path, size: Size | None = None) -> Results:
    """CPU and memory of the agent, and what arrived."""
    size = size or Size()
    with server(size.items) as endpoint:
        bare = _bare(endpoint, size)
        found = measure(
            lambda broker, buffer: agent_toml(size.items, endpoint, broker, buffer), size.windows, directory
        )
    if found.readings_per_s < size.least_share * size.items:
        raise BenchmarkError(f"{found.readings_per_s:.0f} of {size.items} changes a second arrived")
    return {
        "edge_opcua.cpu": compared(median(found.cpu), "core", bare, "bare asyncua subscription, same items"),
        "edge_opcua.rss": Result(found.rss_mb, "MB"),
        "edge_opcua.rss_peak": Result(found.peak_mb, "MB"),
        "edge_opcua.delivered": Result(found.readings_per_s, "readings/s"),
        "edge_opcua.undelivered": Result(found.totals["readings_pending"], "readings"),
        "edge_opcua.start": Result(found.start_s, "s"),
    }


def _bare(endpoint: str, size: Size) -> float:
    """Share of a core that a bare subscription takes."""
    times = [str(size.windows.settle_s), str(size.windows.length_s)]
    command = [sys.executable, "-m", "benchmarks.opcua_loop", endpoint, str(size.items), *times]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    if not found["changes"]:
        raise BenchmarkError("a bare subscription was sent nothing")
    return float(found["cpu_s"] / found["changes"] * size.items)


def agent_toml(items: int, endpoint: str, broker: Broker, buffer: Path) -> str:
    """Configuration of the agent."""
    tags = ", ".join(
        f'{{name = "v{n}", quantity = "temperature", unit = "degC", kind = "gauge", node = "ns=2;s=v{n}"}}'
        for n in range(items)
    )
    return (
        head(broker, buffer)
        + f'[[connection]]\nname = "plc"\nprotocol = "opcua"\nendpoint = "{endpoint}"\nmode = "subscribe"\n'
        + "items_per_call = 1000\n"
        + f'[[device]]\nname = "plc"\nconnection = "plc"\nheartbeat_s = 20\ntag = [{tags}]\n'
    )


@contextmanager
def server(items: int) -> Iterator[str]:
    """A server with so many variables; gives its endpoint."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.opcua_server", str(items)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().strip()
        finally:
            process.kill()
